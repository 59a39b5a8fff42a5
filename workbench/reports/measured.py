"""A group's scores from every place that keeps some, a cell at a time, no protocols mixed.

Runs hold those of their final tables, of ``workbench evaluate`` and of imported benchmarks; a
teacher's are kept in the workspace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from workbench.reports.groups import Group, SeedRun
from workbench.reports.kept_evaluations import kept_benchmarks, kept_rows, one_call
from workbench.reports.score_files import ScoreFiles
from workbench.reports.scores import (
    EVALUATE,
    Score,
    benchmark_scores,
    blank_score,
    evaluated_scores,
    kept_score,
    table_scores,
    with_file,
)
from workbench.reports.statistics import (
    Estimate,
    Observation,
    estimate,
    estimate_scores,
    on_common_noise,
)
from workbench.samplers import STUDENT, TEACHER
from workbench.workspace import Workspace


class Place(NamedTuple):
    """A row of scores: who, of how many steps, against what."""

    model: str
    steps: int
    reference: str


class Cell(NamedTuple):
    """``found`` is None where it was measured in several ways."""

    found: Estimate | None
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Cells by row and score name; ``notes`` say what was left out."""

    cells: dict[Place, dict[str, Cell]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Where scores are looked for besides the runs' metrics.

    Attributes:
        workspace: whose kept evaluations of teachers count.
        files: says on what checkpoint, and how, a logged score was measured.
        protocols: beginnings of ids; where one is of a cell's scores, only that one counts.
    """

    workspace: Workspace | None = None
    files: ScoreFiles | None = None
    protocols: tuple[str, ...] = ()


def measured(group: Group, sources: Sources, names: Collection[str]) -> Measured:
    """Means over seeds of the scores of these names, in cells of one protocol each.

    Where all runs share several protocols, their own tables' counts; else the cell is empty.
    """
    notes: list[str] = []
    scores = [score for run in group.runs for score in _of_run(group, run, sources, names, notes)]
    scores += [score for score in _of_teacher(group, sources, notes) if score.metric in names]
    own = {run.protocol for run in group.runs}
    parts: dict[Place, dict[str, list[Score]]] = {}
    for score in scores:
        place = Place(score.model, score.steps, score.reference)
        parts.setdefault(place, {}).setdefault(score.metric, []).append(score)
    cells = {
        place: {name: _cell(found, own, sources.protocols) for name, found in by_name.items()}
        for place, by_name in parts.items()
    }
    for place, by_name in cells.items():
        notes += [_mixed(group, place, n, cell) for n, cell in by_name.items() if not cell.found]
        notes += _fewer(group, place, by_name)
    return Measured(cells, tuple(dict.fromkeys(notes)))


def _of_run(
    group: Group, run: SeedRun, sources: Sources, names: Collection[str], notes: list[str]
) -> Iterator[Score]:
    """Its own table's scores first: they count where others are of the same protocol.

    Scores of a checkpoint before the run's last, by what their files say, are left out.
    """
    yield from (score for score in table_scores(group, run) if score.metric in names)
    equal, files = _same_as_own(run, sources.workspace), sources.files
    for score in (*evaluated_scores(group, run), *benchmark_scores(group, run, files)):
        if score.metric not in names:
            continue
        if score.source == EVALUATE:
            kept = None if files is None else kept_score(score, run, files)
            own = (score.reference, score.metric, score.steps, score.protocol) in equal
            score = with_file(score._replace(protocol=run.protocol) if own else score, kept)
        if score.kimg is not None and round(1000 * score.kimg) != run.nimg:
            notes.append(
                f"{run.row.name}: {score.key} is of {score.kimg:g} kimg, not of the run's end; "
                "left out."
            )
        else:
            yield score


def _same_as_own(run: SeedRun, workspace: Workspace | None) -> set[tuple[str, str, int, str]]:
    """The run's logged scores that its own table's protocol has made, whatever the noise."""
    if workspace is None:
        return set()
    folder = "/".join(Path(run.row.tags.get("folder", "")).parts[-2:])
    return {
        (row.reference, name, row.steps, protocol)
        for row in kept_rows(workspace, STUDENT, folder)
        if row.protocol == run.protocol
        for name, protocol in row.protocols.items()
    }


def _of_teacher(group: Group, sources: Sources, notes: list[str]) -> Iterator[Score]:
    """What the workspace keeps of the group's teacher, called as its runs call it."""
    if sources.workspace is None:
        return
    own = {run.protocol for run in group.runs}
    call, other = one_call(sources.workspace, group.runs), 0
    found: list[Score] = []
    start = blank_score(group, group.runs[0])._replace(model=TEACHER)
    for row in kept_rows(sources.workspace, TEACHER, group.teacher):
        other += row.call != call
        of_row = start._replace(steps=row.steps, reference=row.reference, evaluation_seed=row.seed)
        for name, value in row.scores.items() if row.call == call else ():
            protocol = row.protocol if row.protocol in own else row.protocols[name]
            found.append(of_row._replace(metric=name, protocol=protocol, value=value))
    for file in kept_benchmarks(sources.workspace, group.teacher):
        same = call is not None and file.is_of(call.pipeline, call.cfg_scale)
        other += not same
        if same:
            of_file = start._replace(
                steps=file.steps, metric=file.benchmark, evaluation_seed=file.seed
            )
            found.append(of_file._replace(protocol=file.protocol, value=file.score))
    for run in group.runs:
        yield from (score._replace(run=run.row.run_id, seed=run.seed) for score in found)
    if other:
        notes.append(
            f"{other} kept evaluations of {group.teacher} were not made by the guidance and "
            "weights of the runs' own tables; left out."
        )


def _cell(scores: Sequence[Score], own: Collection[str], wanted: Collection[str]) -> Cell:
    asked = [score for score in scores if score.protocol.startswith(tuple(wanted))]
    ways: dict[str, dict[tuple[str, int], Score]] = {}
    for score in asked or scores:
        key = (score.run, score.evaluation_seed)
        ways.setdefault(score.protocol, {}).setdefault(key, score)
    runs = {run for found in ways.values() for run, _ in found}
    shared = [way for way, found in ways.items() if {run for run, _ in found} == runs]
    if len(shared) > 1:
        shared = [protocol for protocol in shared if protocol in own] or shared
    if len(shared) != 1:
        return Cell(None, tuple(sorted(ways)))
    counted = list(ways[shared[0]].values())
    if scores[0].model == STUDENT:
        seen = [Observation(each.seed, each.evaluation_seed, each.value) for each in counted]
        return Cell(estimate_scores(on_common_noise(seen)), (shared[0],))
    # A teacher has no training seed here: each noise that it was drawn from is a repetition.
    noises: dict[int, list[float]] = {}
    for each in counted:
        noises.setdefault(each.evaluation_seed, []).append(each.value)
    return Cell(estimate([fmean(values) for values in noises.values()]), (shared[0],))


def _mixed(group: Group, place: Place, name: str, cell: Cell) -> str:
    return (
        f"{_told(group, place)}: {name} was measured in {len(cell.protocols)} ways "
        f"({', '.join(cell.protocols)}); its cell stays empty. --protocol chooses one."
    )


def _fewer(group: Group, place: Place, cells: dict[str, Cell]) -> Iterator[str]:
    if place.model != STUDENT:
        return
    for name, cell in cells.items():
        if cell.found is not None and cell.found.n < len(group.runs):
            yield f"{_told(group, place)}: {name} of {cell.found.n} of {len(group.runs)} seeds."


def several_ways(found: Sequence[Measured]) -> Iterator[str]:
    """A line for each score whose cells were not all measured in one way."""
    ways: dict[str, Counter[str]] = {}
    for cells in (cells for each in found for cells in each.cells.values()):
        for name, cell in cells.items():
            if cell.found is not None:
                ways.setdefault(name, Counter()).update(cell.protocols)
    for name, often in ways.items():
        if len(often) > 1:
            listed = ", ".join(f"{count} cells by {protocol}" for protocol, count in often.items())
            yield f"{name} was measured in {len(often)} ways, which do not compare: {listed}."


def _told(group: Group, place: Place) -> str:
    return f"{group.label}, {place.model} at {place.steps} steps"
