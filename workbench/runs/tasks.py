"""What a run needs to know of what its teacher draws: how samples are scored, shown and kept.

A teacher draws images that a prompt asks for, or points whose true distribution is known. All that
differs between the two is said by a :class:`RunTask`; a run asks it and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from workbench.evaluation import Evaluator
from workbench.students.measure import Encodings, SampledModel
from workbench.students.text import TextJob
from workbench.teachers.analytic import is_analytic
from workbench.teachers.base import Conditioning, Distillable
from workbench.tracking import InputData, Tracker
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder
from workbench.training.streams import PairDataset, PromptDataset


class RunEncodings(Encodings, Protocol):
    """Encodings that a run trains on too."""

    def view(self, prompts: Sequence[str]) -> PromptDataset | None:
        """Encodings of these prompts, in order, drawn from at random; None without prompts."""
        ...

    def uncond(self) -> Conditioning | None:
        """The empty prompt, one row; None without prompts."""
        ...


class RunPairs(PairDataset, Protocol):
    """Pairs that a run learns from."""

    @property
    def fingerprint(self) -> str: ...

    def as_dict(self) -> Mapping[str, object]:
        """Where they are from, how many, and which."""
        ...

    def report(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        """Tell the tracker which pairs go into the run, and people what does not."""
        ...


class RunTask(Protocol):
    """How samples of a run's teacher and student are scored, shown and kept.

    Attributes:
        teacher: what draws.
        encoded: the run's prompts, and those of the evaluation.
        evaluator: scores samples; None where the run's settings measure nothing.
        reference: name of what they are compared with; None without.
        shown: prompts of the samples that are shown.
        patch: pixels a patch of the teacher; None where samples are no images, which have no look.
    """

    @property
    def teacher(self) -> Distillable: ...

    @property
    def encoded(self) -> RunEncodings: ...

    evaluator: Evaluator | None
    reference: str | None
    shown: Sequence[str]
    patch: int | None

    def pairs(self) -> RunPairs | None:
        """The data that the run's method learns from; None for a method without data."""
        ...

    def text_warning(self, prompts: Sequence[str]) -> str | None:
        """What of the prompts the teacher does not read."""
        ...

    def input_data(self) -> InputData | None:
        """What samples are compared with, for the tracker; None without."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What else belongs into a run's results."""
        ...

    def further_models(self) -> Iterator[SampledModel]:
        """What stands in the table of results besides teacher and student."""
        ...

    def pictures(self, samples: Tensor) -> Tensor:
        """Samples of the prompts :attr:`shown` as pictures (columns, 3, H, W) in [0, 1]."""
        ...

    def captions(self) -> list[str]:
        """Of the pictures' columns."""
        ...

    def draw_curve(self, folder: RunFolder, table: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Scores against kimg, as files."""
        ...

    def keep(self, rows: Mapping[str, Tensor], target: Path) -> list[Path]:
        """Samples of several models for later analysis, as files."""
        ...


class OpenTask(Protocol):
    """Makes the task of a run's teacher from the teacher's folder."""

    def __call__(
        self, config: RunConfig, folder: Path, prompts: Sequence[str], job: TextJob
    ) -> RunTask: ...


def open_task(config: RunConfig, folder: Path, prompts: Sequence[str], job: TextJob) -> RunTask:
    """The task of the teacher in a folder, with all prompts encoded. Every rank calls this.

    Args:
        prompts: that the run trains on.

    Raises:
        RequestError: a damaged teacher, one that has no use for a setting of the run, or too few
            samples for a score.
        InterruptedRunError: a stop was requested.
    """
    from workbench.runs.image_task import ImageTask
    from workbench.runs.mixture_task import MixtureTask

    kind: OpenTask = MixtureTask if is_analytic(folder) else ImageTask
    return kind(config, folder, prompts, job)
