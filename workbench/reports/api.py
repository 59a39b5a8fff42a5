"""Runs, scores and comparisons for Python and notebooks: what ``workbench.scores`` is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError
from workbench.reports.comparison import Comparison, primary_metric
from workbench.reports.comparison import compare as compare_training
from workbench.reports.evaluated import ScoreComparison, ScoreQuery, compare_scores, is_logged
from workbench.reports.references import comparable, select_groups
from workbench.reports.score_files import ScoreFiles
from workbench.reports.scores import read_scores, score_frame
from workbench.tracking import default_uri, load_record
from workbench.user_config import default_tracking_uri
from workbench.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from workbench.students.models import LoadedStudent
    from workbench.training.config import RunConfig
    from workbench.training.run_folder import RunFolder


def scores(
    *names: str,
    finished: bool = False,
    changed: bool = False,
    workspace: Path | str | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Every score of the named runs as one long table, a row for each value.

    Columns: experiment, variant, seed (of training), kimg, steps, metric, reference, protocol,
    value, low and high (of its own 95 % interval over samples, where it has one), then label, run
    (MLflow id), model ("student", "teacher", "stock"), evaluation_seed, source ("training",
    "table", "fresh last", "fresh best", "evaluate", "benchmark"), key (its name in MLflow), seconds
    and evaluations (of training, and of networks, until then). ``attrs["notes"]`` says which runs
    were left out and which files could not be read.

    Example:
        >>> frame = workbench.scores("t_range")  # doctest: +SKIP
        >>> frame[(frame.metric == "fid") & (frame.source == "training")]  # doctest: +SKIP

    Args:
        names: experiments, ``EXPERIMENT/VARIANT``, or runs by name or id.
        finished: only finished runs.
        changed: also runs made with ``--set`` or ``--teacher``.
        workspace: its folder (default: $WORKBENCH_WORKSPACE, workbench.toml, ./.workbench).
        tracking_uri: an MLflow store (default: $MLFLOW_TRACKING_URI, workbench.toml, the
            workspace's own).

    Raises:
        RequestError: an unknown name (says the nearest), or nothing evaluated yet.
        WorkbenchError: the store does not answer.
    """
    place, uri = where(workspace, tracking_uri)
    found = select_groups(uri, place, names, finished=finished, changed=changed)
    files = ScoreFiles(uri, place)
    frame = score_frame(read_scores(found.groups, files))
    frame.attrs["notes"] = (*found.notes, *dict.fromkeys(files.problems))
    return frame


def compare(
    *names: str,
    metric: str | None = None,
    against: str | None = None,
    reference: str | None = None,
    steps: int | None = None,
    protocol: str | None = None,
    finished: bool = False,
    changed: bool = False,
    allow_mixed: bool = False,
    workspace: Path | str | None = None,
    tracking_uri: str | None = None,
) -> Comparison | ScoreComparison:
    """Variants side by side, with 95 % intervals and verdicts: ``workbench compare`` as values.

    A score of training is compared at equal kimg and seconds; one of ``workbench evaluate`` where
    reference, steps or protocol are given or training measured no such score.

    Example:
        >>> found = workbench.compare("t_range", metric="fid")  # doctest: +SKIP
        >>> found.frame()[["group", "fid_at_kimg_mean"]]  # doctest: +SKIP

    Args:
        metric: sorts and judges; None for what judged the runs themselves.
        against: label of the variant that all others are compared with; the best unless named.
        allow_mixed: although evaluated in different ways.

    Raises:
        RequestError: an unknown name, metric, reference or protocol, or runs that do not compare.
        WorkbenchError: the store does not answer.
    """
    place, uri = where(workspace, tracking_uri)
    selection = select_groups(uri, place, names, finished=finished, changed=changed)
    wanted = ScoreQuery(metric or primary_metric(selection), reference, steps, protocol)
    if is_logged(selection, wanted):
        files = ScoreFiles(uri, place)
        return compare_scores(selection, wanted, files, allow_mixed=allow_mixed, against=against)
    selection = comparable(selection, allow_mixed=allow_mixed)
    return compare_training(selection, wanted.metric, against)


@dataclass(frozen=True)
class Run:
    """A run of a workspace; see :func:`load_run`."""

    folder: RunFolder
    workspace: Workspace
    tracking_uri: str

    @property
    def name(self) -> str:
        """EXPERIMENT/VARIANT-seedN-FINGERPRINT."""
        return self.folder.name

    @cached_property
    def config(self) -> RunConfig:
        """Its settings."""
        return self.folder.config()

    @cached_property
    def student(self) -> LoadedStudent:
        """The averaged generator of its newest checkpoint, on the GPU where there is one.

        Raises:
            WorkbenchError: there is no whole checkpoint yet.
        """
        from workbench.students.models import load_student

        return load_student(self.workspace, str(self.folder.path))

    def describe(self) -> dict[str, Any]:
        """State, settings, final scores, versions and sizes: ``workbench runs show``."""
        from workbench.runs.description import describe

        return describe(self.folder)

    def sample(
        self,
        prompts: str | Sequence[str],
        steps: int | None = None,
        *,
        seed: int = 0,
        batch_size: int = 8,
    ) -> Tensor:
        """Images of its student, one for each prompt: float32 (B, 3, H, W) in [0, 1], on the CPU.

        Image i is, up to rounding, what ``workbench export``'s folder draws in diffusers with
        seed + i.

        Args:
            steps: of the generator; all that it was trained with unless told.

        Raises:
            RequestError: more steps than the student was trained with, or none; no prompt.
        """
        from workbench.students.models import Drawing
        from workbench.students.sampling import sample_model

        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        count = self.student.default_steps[0] if steps is None else steps
        if not texts or count < 1 or batch_size < 1:
            raise RequestError("Expected at least one prompt, one step and a batch of one.")
        return sample_model(self.student, Drawing(texts, count, seed, batch_size=batch_size))

    def scores(self) -> pd.DataFrame:
        """Every score of the run, as :func:`scores` has them.

        Raises:
            RequestError: the store does not know the run yet, or has no evaluation of it.
        """
        record = load_record(self.folder.path)
        if record is None or record.run_id is None:
            raise RequestError(f"{self.name} is not in the tracking store yet.")
        place = self.workspace.root
        return scores(record.run_id, changed=True, workspace=place, tracking_uri=self.tracking_uri)


def load_run(
    name: str, *, workspace: Path | str | None = None, tracking_uri: str | None = None
) -> Run:
    """A run of the workspace, finished or not.

    Example:
        >>> run = workbench.load_run("quickstart/default-seed0")  # doctest: +SKIP
        >>> images = run.sample("a cat")  # doctest: +SKIP

    Args:
        name: its name, the name's beginning, its fingerprint, or its folder.
        workspace: its folder (default: $WORKBENCH_WORKSPACE, workbench.toml, ./.workbench).
        tracking_uri: an MLflow store (default: $MLFLOW_TRACKING_URI, workbench.toml, the
            workspace's own).

    Raises:
        RequestError: no such run (says the nearest), or several.
    """
    from workbench.training.run_folder import find_run

    place, uri = where(workspace, tracking_uri)
    return Run(find_run(place, name), place, uri)


def where(
    workspace: Path | str | None, tracking_uri: str | None, *, create: bool = False
) -> tuple[Workspace, str]:
    """The workspace, and the store that its runs are looked up in: what a command would take.

    Args:
        create: make the workspace if it is not there.

    Raises:
        RequestError: there is no such workspace, or workbench.toml is wrong.
    """
    place = open_workspace(None if workspace is None else Path(workspace), create=create)
    return place, tracking_uri or default_tracking_uri() or default_uri(place.root)
