"""What would make a run fit: the first of ever more modest settings that does."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.doctor import fitting
from workbench.doctor.fitting import Device, MemoryPlan, Teacher, first_that_fits, needed
from workbench.sizes import as_text
from workbench.teachers import PipelineTeacher
from workbench.teachers.architecture import Architecture
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides

CONFIG = with_overrides(RunConfig(), ["training.batch_size=64"])
CHECKPOINTING = "training.gradient_checkpointing=true"
BF16 = ("training.precision=bf16-mixed", "evaluation.precision=bf16")
EVERY = "training.sync_every_micro_batch=true"


@pytest.fixture(scope="module")
def teacher(digits_teacher: PipelineTeacher) -> Teacher:
    return Teacher(Architecture.in_folder(digits_teacher.folder), 1000, 2000)


@pytest.fixture(scope="module", autouse=True)
def _each_estimate_is_made_once() -> Any:
    """The plans tried here overlap, and an estimate takes seconds."""
    known: dict[tuple[str, ...], Any] = {}
    real = fitting.estimate_memory

    def remembered(architecture: Any, config: RunConfig, ranks: int, held: int) -> Any:
        key = (repr(architecture), config.model_dump_json(), str(ranks), str(held))
        if key not in known:
            known[key] = real(architecture, config, ranks, held)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "estimate_memory", remembered)
        yield


def wish_for(teacher: Teacher, memory: int, *, shared: bool = False) -> MemoryPlan | None:
    return first_that_fits(teacher, CONFIG, 1, Device("test", memory, shared))


def test_the_mildest_change_that_fits_is_taken(teacher: Teacher) -> None:
    steps = [
        (CHECKPOINTING,),
        (CHECKPOINTING, "training.micro_batch_size=16"),
        (CHECKPOINTING, "training.micro_batch_size=4"),
    ]
    sizes = [needed(teacher, with_overrides(CONFIG, step), 1).total for step in steps]
    assert sizes[0] > sizes[1] > sizes[2]
    for step, size in zip(steps[1:], sizes[1:], strict=True):
        wish = wish_for(teacher, size)
        assert wish is not None
        assert (wish.assignments, wish.ranks, wish.estimate.total) == (step, 1, size)


def test_more_devices_help_only_if_each_has_its_own_memory(teacher: Teacher) -> None:
    smallest = (CHECKPOINTING, "training.micro_batch_size=1", *BF16)
    alone = needed(teacher, with_overrides(CONFIG, smallest), 1).total
    adapted = needed(teacher, with_overrides(CONFIG, [*smallest, 'training.lora={"rank": 64}']), 1)
    below = min(alone, adapted.total) - 1
    wish = wish_for(teacher, below)
    assert wish is not None
    assert wish.ranks > 1
    assert wish.estimate.total <= below
    assert wish_for(teacher, below, shared=True) is None
    assert wish_for(teacher, 1000) is None


def test_settings_that_are_there_already_are_not_wished_for(teacher: Teacher) -> None:
    config = with_overrides(CONFIG, [CHECKPOINTING, "training.micro_batch_size=4"])
    size = needed(teacher, with_overrides(config, ["training.micro_batch_size=1"]), 1).total
    wish = first_that_fits(teacher, config, 1, Device("test", size, shared=False))
    assert wish is not None
    assert wish.assignments == ("training.micro_batch_size=1",)


def test_ranks_reduce_gradients_at_every_micro_batch_before_they_train_adapters(
    teacher: Teacher,
) -> None:
    settings = [CHECKPOINTING, "training.micro_batch_size=1", *BF16]
    config = with_overrides(CONFIG, settings)
    last, every = (
        needed(teacher, with_overrides(config, extra), 4).total for extra in ([], [EVERY])
    )
    assert every < last
    wish = first_that_fits(teacher, config, 4, Device("test", every, shared=False))
    assert wish is not None
    assert (wish.assignments, wish.ranks) == ((EVERY,), 4)


def test_ranks_share_the_memory_of_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    one, four = Device.here(1), Device.here(4)
    assert four.memory == pytest.approx(one.memory / 4, rel=0.2)
    assert one.shared


@pytest.mark.parametrize(
    ("size", "text"),
    [(300_000, "0.3 MiB"), (3 * 2**30, "3.0 GiB"), (400 * 2**30, "400 GiB")],
)
def test_sizes_read_well(size: int, text: str) -> None:
    assert as_text(size) == text
