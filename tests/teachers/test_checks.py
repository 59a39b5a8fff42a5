"""What is refused as a teacher: other predictions, impossible sizes, few-step students."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SCMScheduler,
)
from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.teachers import FAMILIES, Conditioning, OwnVelocity, PipelineTeacher
from workbench.teachers.checks import (
    STUDENT_RATIO,
    check_is_teacher,
    check_prediction,
    noise_dependence,
    prediction_type,
)

SHAPE = (4, 24, 24)


@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [
        (DDPMScheduler(), "epsilon"),
        (EulerDiscreteScheduler(prediction_type="v_prediction"), "v_prediction"),
        (DPMSolverMultistepScheduler(), "epsilon"),
        (
            DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
            "flow_prediction",
        ),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), "flow_prediction"),
        (SCMScheduler(), "trigflow"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_schedulers_say_what_is_predicted(scheduler: object, prediction: str) -> None:
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    assert prediction_type(config) == prediction
    bare = {"_class_name": type(scheduler).__name__}  # as saved by versions without the setting
    assert prediction_type(bare) in (prediction, "epsilon")


def test_other_predictions_are_refused_by_name() -> None:
    epsilon = {"_class_name": "DDPMScheduler", "prediction_type": "epsilon"}
    with pytest.raises(RequestError, match="StableDiffusionPipeline predicts epsilon") as error:
        check_prediction(epsilon, "StableDiffusionPipeline")
    for name in FAMILIES:
        assert name in str(error.value)
    with pytest.raises(RequestError, match="SanaPipeline predicts epsilon"):
        check_prediction(epsilon, "SanaPipeline")
    with pytest.raises(RequestError, match="predicts v_prediction"):
        check_prediction({**epsilon, "prediction_type": "v_prediction"}, "StableDiffusionPipeline")
    with pytest.raises(RequestError, match=r"is not known .its scheduler is KarrasVeScheduler"):
        check_prediction({"_class_name": "KarrasVeScheduler"}, "KarrasVePipeline")
    with pytest.raises(RequestError, match="Unknown pipeline class"):
        check_prediction({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "LuminaPipeline")


def test_flow_matching_pipelines_pass(family_teacher: PipelineTeacher) -> None:
    scheduler = family_teacher.pipeline.scheduler
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    check_prediction(config, family_teacher.family.pipeline_class)


class Gaussian(nn.Module):
    """Data N(mean, s^2): the posterior mean, or where the flow's trajectory ends."""

    def __init__(self, s: float, *, consistency: bool) -> None:
        super().__init__()
        self.s, self.consistency = s, consistency
        self.mean = nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)))

    def gain(self, t: float) -> float:
        """Of x_t - (1 - t) mean in x0_hat - mean."""
        variance = (1 - t) ** 2 * self.s**2 + t**2
        return self.s / math.sqrt(variance) if self.consistency else (1 - t) * self.s**2 / variance

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        time = float(t[0])
        x0_hat = self.mean + self.gain(time) * (x_t - (1 - time) * self.mean)
        return (x_t - x0_hat) / time

    def expected_variance(self, times: Sequence[float]) -> float:
        """Of x0_hat after a chain of evaluations with new noise: everything is linear in it."""
        variance = 0.0
        for t in times:
            variance = self.gain(t) ** 2 * ((1 - t) ** 2 * variance + t**2)
        return variance


@pytest.mark.parametrize("s", [0.3, 1.0])
@pytest.mark.parametrize("consistency", [False, True], ids=["teacher", "student"])
def test_closed_forms(s: float, consistency: bool) -> None:
    module = Gaussian(s, consistency=consistency)
    network = OwnVelocity(module)
    ratio = noise_dependence(network, SHAPE, None)
    eighths = [1 - step / 8 for step in range(8)]
    two, eight = module.expected_variance([1.0, 0.85]), module.expected_variance(eighths)
    assert ratio == pytest.approx(two / eight, rel=0.05)
    if consistency:
        with pytest.raises(
            RequestError, match=r"few-step student, not a teacher.* vary \d\.\d\d times"
        ):
            check_is_teacher(network, SHAPE, None)
    else:
        check_is_teacher(network, SHAPE, None)
        assert ratio < 0.12
    assert (ratio == pytest.approx(1, rel=0.05)) == consistency


def test_teachers_of_every_family_pass(family_teacher: PipelineTeacher) -> None:
    cond = family_teacher.encode([f"the digit {digit}" for digit in range(4)])
    ratio = noise_dependence(family_teacher.network, family_teacher.latent_shape, cond)
    assert 0 < ratio < 0.75 * STUDENT_RATIO
