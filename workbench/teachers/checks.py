"""Checks that refuse what cannot be a teacher before time is spent on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import x0_from_velocity
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.families import FAMILIES

STUDENT_RATIO = 0.85
"""Above it a network is taken for a few-step student; see :func:`noise_dependence`."""

_FLOW_PREDICTIONS = ("flow_prediction", "trigflow")
_FLOW_SCHEDULERS = ("FlowMatch", "FlowMap")
_NOISES = 8
_SECOND_TIME = 0.85
_MANY_STEPS = 8


def check_prediction(scheduler_config: Mapping[str, Any], pipeline_class: str) -> None:
    """Refuse a pipeline whose network does not predict a flow's velocity.

    Args:
        scheduler_config: the content of its scheduler_config.json.
        pipeline_class: ``_class_name`` of its model_index.json.

    Raises:
        RequestError: says what the network predicts, or that the class is not supported.
    """
    prediction = prediction_type(scheduler_config)
    expected = f"expected a flow-matching pipeline: {', '.join(sorted(FAMILIES))}"
    if prediction is None:
        raise RequestError(
            f"What {pipeline_class} predicts is not known (its scheduler is "
            f"{scheduler_config.get('_class_name')}); {expected}."
        )
    if prediction not in _FLOW_PREDICTIONS:
        raise RequestError(
            f"{pipeline_class} predicts {prediction} (its scheduler says so); {expected}."
        )
    FAMILIES.check(pipeline_class)


def prediction_type(scheduler_config: Mapping[str, Any]) -> str | None:
    """What a diffusers scheduler expects its network to predict; None if unknown.

    It is the configured ``prediction_type`` or the class's default. Schedulers of flow matching
    have no such setting: theirs is "flow_prediction".
    """
    name = str(scheduler_config.get("_class_name"))
    if name.startswith(_FLOW_SCHEDULERS):
        return "flow_prediction"
    configured = scheduler_config.get("prediction_type")
    return str(configured) if configured is not None else _default_prediction(name)


def _default_prediction(scheduler_class: str) -> str | None:
    import diffusers

    kind = getattr(diffusers, scheduler_class, None)
    if kind is None:
        return None
    setting = inspect.signature(kind.__init__).parameters.get("prediction_type")
    return str(setting.default) if setting is not None else None


@torch.no_grad()
def noise_dependence(
    network: VelocityNetwork, latent_shape: tuple[int, ...], cond: Conditioning | None
) -> float:
    """How much of its images' variety a network shows after two evaluations, from 0 to about 1.

    A network trained by flow matching predicts x0_hat = E[x_0 | x_t]. From pure noise, which is
    independent of x_0, that is one blurred image, E[x_0 | c]; with noise again up to t = 0.85,
    little of x_0's variance comes back in the second x0_hat. A few-step student draws an image at
    once, and another one for every noise. The ratio is V_2 / V_8: the variance of x0_hat over
    noises, averaged over elements, after that second evaluation by that after eight of equal
    steps, always with new noise. It has no scale, a consistency model has exactly 1, and for data
    N(m, s^2) a teacher has the values of ``tests/teachers/test_checks.py`` (0.08 at s = 1).

    Measured on embedded teachers of all families: 0.11 to 0.39; on a SiD student of one of them
    (0.21) after 6.4 and 25.6 kimg: 0.35 and 0.48; exact teachers of Gaussians: at most 0.71. So
    :data:`STUDENT_RATIO` finds consistency models (SANA-Sprint's students), not every student.
    One evaluation would not do: t = 1 is rarely trained, and what networks predict there varies
    with the noise by error (0.02 to 0.56).

    Evaluates the network 10 x 8 times for each prompt.

    Args:
        cond: some prompts' encodings, or None for a network without prompts.
    """
    device = next(network.parameters()).device
    rows = len(cond) if cond is not None else 1
    generator = torch.Generator().manual_seed(0)

    def last_x0_hat(times: Sequence[float]) -> Tensor:
        x0_hat = torch.zeros(rows, *latent_shape, device=device)
        for time in times:
            noise = torch.randn(rows, *latent_shape, generator=generator).to(device)
            x, t = torch.lerp(x0_hat, noise, time), torch.full((rows,), time, device=device)
            x0_hat = x0_from_velocity(x, t, network(x, t, cond))
        return x0_hat

    many = [1 - step / _MANY_STEPS for step in range(_MANY_STEPS)]
    few_variance, many_variance = (
        torch.stack([last_x0_hat(times) for _ in range(_NOISES)]).var(0).mean()
        for times in ((1.0, _SECOND_TIME), many)
    )
    return float(few_variance / many_variance)


def check_is_teacher(
    network: VelocityNetwork, latent_shape: tuple[int, ...], cond: Conditioning | None
) -> None:
    """Refuse a few-step student that is offered as a teacher.

    Raises:
        RequestError: says how much its two-step images change with the noise.
    """
    ratio = noise_dependence(network, latent_shape, cond)
    if not ratio <= STUDENT_RATIO:  # nor is what answers NaN
        raise RequestError(
            "This network looks like a few-step student, not a teacher: after two evaluations its "
            f"images vary {ratio:.2f} times as much as after eight; a teacher's stay below "
            f"{STUDENT_RATIO:g}."
        )
