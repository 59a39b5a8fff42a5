"""The benchmark's plan of the published scripts computes what ours does, at those counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import TINY
from benchmarks.official import Ours, peak_bytes
from benchmarks.official_memory import published_peak
from benchmarks.official_plan import Draws, OfficialPlan
from benchmarks.random_students import student_of as student_with_random_weights
from workbench.data.bundled import PROMPTS
from workbench.flow import NoiseSource
from workbench.teachers import PipelineTeacher
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.training.config import RunConfig
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.streams import PromptStream

CPU = torch.device("cpu")
BATCH = 8
RUN = (f"training.batch_size={BATCH}", "training.kimg=1")


class Addressed(Draws):
    """The numbers and prompts that the trainer has at the same place."""

    def __init__(self, plan: OfficialPlan, nimg: int) -> None:
        super().__init__(plan)
        self.nimg = self.start = nimg
        self.noise = NoiseSource(plan.config.seed)

    def batches(self, role: str) -> Iterator[tuple[float, Conditioning]]:
        prompts = PromptStream(self.plan.student.prompts, self.noise).take(self.nimg, BATCH)
        micro = self.plan.config.training.micro_batch_size or BATCH
        for place in range(0, BATCH, micro):
            self.start = self.nimg + place
            yield micro / BATCH, prompts.select(slice(place, place + micro))

    def normal(self, stream: str, like: Tensor) -> Tensor:
        return self.noise.normal(stream, self.start, len(like), like.shape[1:])

    def uniform(self, stream: str, count: int) -> Tensor:
        return self.noise.uniform(stream, self.start, count)


def student_of(teacher: PipelineTeacher) -> DistillationInputs:
    return DistillationInputs(
        teacher.network, teacher.latent_shape, teacher.encode(PROMPTS), teacher.uncond()
    )


@torch.no_grad()
def move(network: VelocityNetwork) -> None:
    drawn = torch.Generator().manual_seed(0)
    for value in network.parameters():
        value += 0.05 * torch.randn(value.shape, generator=drawn)


@pytest.mark.parametrize("freezes", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("method.guidance=long-short",),
        ("method.guidance=zero-cfg", "training.micro_batch_size=4"),
        ("training.gradient_checkpointing=true", "method.sid_alpha=1.2"),
    ],
)
def test_losses_are_ours(
    digits_teacher: PipelineTeacher, settings: tuple[str, ...], freezes: bool
) -> None:
    config = with_overrides(RunConfig(), [*RUN, *settings])
    ours = Ours(student_of(digits_teacher), config, CPU)
    official = OfficialPlan(student_of(digits_teacher), config, CPU, freezes)
    for fake_score in (ours.trainer.networks.fake_score, official.fake_score):
        move(fake_score)  # at the teacher the generator's loss is rounding noise
    for iteration, k in enumerate((3, 1, 4)):
        losses = official.train_step(k, Addressed(official, iteration * BATCH))
        ours.train_step(k)
        means = ours.trainer.state.take_means()
        # Adam's first steps are signs, which rounding turns where a gradient is next to nothing.
        assert losses == pytest.approx(
            (means["train/fake_score_loss"], means["train/generator_loss"]),
            rel=1e-3 if iteration else 1e-5,
        )


@pytest.mark.parametrize(("guidance", "counts"), [("off", (8, 4)), ("long-short", (11, 7))])
def test_evaluations_an_image(
    digits_teacher: PipelineTeacher, guidance: str, counts: tuple[int, int]
) -> None:
    config = with_overrides(RunConfig(), [*RUN, f"method.guidance={guidance}"])
    ours = Ours(student_of(digits_teacher), config, CPU)
    official = OfficialPlan(student_of(digits_teacher), config, CPU)
    for k in (1, 2, 3, 4):
        ours.train_step(k)
        official.train_step(k)
    expected = tuple(4 * BATCH * count for count in counts)
    assert ours.evaluations() == official.evaluations() == expected


def test_its_memory_is_foretold() -> None:
    """On tensors without memory, and by what the allocator hands out."""
    case = TINY["SANA, tiny"]
    architecture, config = case.architecture(), case.config()
    student = student_with_random_weights(architecture, CPU)

    def two_iterations() -> None:
        plan = OfficialPlan(student, config, CPU, light=True)
        plan.train_step(1)
        plan.train_step(1)

    layers = architecture.transformer["num_layers"]
    foretold = published_peak(architecture, config, layers)
    assert foretold == pytest.approx(peak_bytes(two_iterations, CPU), rel=0.1)
