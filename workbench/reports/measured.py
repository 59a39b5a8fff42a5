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
from workbench.reports.statistics import (
    Estimate,
    Observation,
    estimate,
    estimate_scores,
    on_common_noise,
)
from workbench.runs.external_scores import ExternalName
from workbench.runs.kept_scores import ScoreName
from workbench.runs.tags import REFERENCE
from workbench.samplers import CELL, STUDENT, TEACHER
from workbench.training import formats
from workbench.workspace import Workspace

UNKNOWN = "not recorded"
"""Protocol of a benchmark whose file cannot be had."""


class Place(NamedTuple):
    """A row of scores: who, of how many steps, against what."""

    model: str
    steps: int
    reference: str


class Score(NamedTuple):
    """One number of one run; a teacher's kept one counts for each of its runs.

    ``seed`` is the evaluation seed.
    """

    place: Place
    name: str
    protocol: str
    value: float
    run: SeedRun
    seed: int


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


def own_reference(run: SeedRun) -> str:
    """What a run's scores are against."""
    return run.row.tags.get(REFERENCE, formats.reference_in_format_1())


def measured(group: Group, sources: Sources, names: Collection[str]) -> Measured:
    """Means over seeds of the scores of these names, in cells of one protocol each.

    Where all runs share several protocols, their own tables' counts; else the cell is empty.
    """
    notes: list[str] = []
    scores = [score for run in group.runs for score in _of_run(run, sources, names, notes)]
    scores += [score for score in _of_teacher(group, sources, notes) if score.name in names]
    own = {run.protocol for run in group.runs}
    parts: dict[Place, dict[str, list[Score]]] = {}
    for score in scores:
        parts.setdefault(score.place, {}).setdefault(score.name, []).append(score)
    cells = {
        place: {name: _cell(found, own, sources.protocols) for name, found in by_name.items()}
        for place, by_name in parts.items()
    }
    for place, by_name in cells.items():
        notes += [_mixed(group, place, n, cell) for n, cell in by_name.items() if not cell.found]
        notes += _fewer(group, place, by_name)
    return Measured(cells, tuple(dict.fromkeys(notes)))


def _of_run(
    run: SeedRun, sources: Sources, names: Collection[str], notes: list[str]
) -> Iterator[Score]:
    """Its own table's scores first: they count where others are of the same protocol."""
    reference, own = own_reference(run), run.evaluation_seed
    for key, value in run.row.metrics.items():
        cell = CELL.fullmatch(key)
        if cell is not None and cell[3] in names:
            place = Place(cell[1], int(cell[2]), reference)
            yield Score(place, cell[3], run.protocol, value, run, own)
    equal = _same_as_own(run, sources.workspace)
    for key, value in run.row.metrics.items():
        name = ScoreName.parse(key) or ExternalName.parse(key)
        if name is None or name.metric not in names or _is_earlier(run, name, sources, notes):
            continue
        if isinstance(name, ScoreName):
            place = Place(STUDENT, name.steps, name.reference)
            protocol = run.protocol if name.of_any_seed in equal else name.protocol
            seed = name.seed
        else:
            place = Place(STUDENT, name.steps or _steps(run), reference)
            protocol, seed = _benchmark(run, name, sources)
        yield Score(place, name.metric, protocol, value, run, seed)


def _steps(run: SeedRun) -> int:
    return int(run.row.params.get("generator.steps", 0))


def _same_as_own(run: SeedRun, workspace: Workspace | None) -> set[ScoreName]:
    """The run's logged scores that its own table's protocol has made, whatever the noise."""
    if workspace is None:
        return set()
    folder = "/".join(Path(run.row.tags.get("folder", "")).parts[-2:])
    return {
        ScoreName(row.reference, name, row.steps, protocol)
        for row in kept_rows(workspace, STUDENT, folder)
        if row.protocol == run.protocol
        for name, protocol in row.protocols.items()
    }


def _is_earlier(
    run: SeedRun, name: ScoreName | ExternalName, sources: Sources, notes: list[str]
) -> bool:
    """Whether a score is of a checkpoint before the run's last, by what its file says."""
    if sources.files is None:
        return False
    if isinstance(name, ScoreName):
        kept = sources.files.find(run.row, name)
        kimg = None if kept is None else kept.kimg
    else:
        file = sources.files.find_benchmark(run.row, name)
        kimg = None if file is None else file.kimg
    if kimg is None or round(1000 * kimg) == run.nimg:
        return False
    notes.append(f"{run.row.name}: {name.key} is of {kimg:g} kimg, not of the run's end; left out.")
    return True


def _benchmark(run: SeedRun, name: ExternalName, sources: Sources) -> tuple[str, int]:
    """Its protocol and the seed that its images were drawn from; 0, as by default, if unknown."""
    file = None if sources.files is None else sources.files.find_benchmark(run.row, name)
    return (UNKNOWN, 0) if file is None else (file.protocol, file.seed)


def _of_teacher(group: Group, sources: Sources, notes: list[str]) -> Iterator[Score]:
    """What the workspace keeps of the group's teacher, called as its runs call it."""
    if sources.workspace is None:
        return
    own, reference = {run.protocol for run in group.runs}, own_reference(group.runs[0])
    call, other = one_call(sources.workspace, group.runs), 0
    found: list[tuple[Place, str, str, float, int]] = []
    for row in kept_rows(sources.workspace, TEACHER, group.teacher):
        other += row.call != call
        for name, value in row.scores.items() if row.call == call else ():
            protocol = row.protocol if row.protocol in own else row.protocols[name]
            place = Place(TEACHER, row.steps, row.reference)
            found.append((place, name, protocol, value, row.seed))
    for file in kept_benchmarks(sources.workspace, group.teacher):
        same = call is not None and file.is_of(call.pipeline, call.cfg_scale)
        other += not same
        if same:
            place = Place(TEACHER, file.steps, reference)
            found.append((place, file.benchmark, file.protocol, file.score, file.seed))
    for run in group.runs:
        yield from (Score(*score[:4], run, score[4]) for score in found)
    if other:
        notes.append(
            f"{other} kept evaluations of {group.teacher} were not made by the guidance and "
            "weights of the runs' own tables; left out."
        )


def _cell(scores: Sequence[Score], own: Collection[str], wanted: Collection[str]) -> Cell:
    asked = [score for score in scores if score.protocol.startswith(tuple(wanted))]
    ways: dict[str, dict[tuple[str, int], Score]] = {}
    for score in asked or scores:
        key = (score.run.row.run_id, score.seed)
        ways.setdefault(score.protocol, {}).setdefault(key, score)
    runs = {run for found in ways.values() for run, _ in found}
    shared = [way for way, found in ways.items() if {run for run, _ in found} == runs]
    if len(shared) > 1:
        shared = [protocol for protocol in shared if protocol in own] or shared
    if len(shared) != 1:
        return Cell(None, tuple(sorted(ways)))
    counted = list(ways[shared[0]].values())
    if scores[0].place.model == STUDENT:
        seen = [Observation(each.run.seed, each.seed, each.value) for each in counted]
        return Cell(estimate_scores(on_common_noise(seen)), (shared[0],))
    # A teacher has no training seed here: each noise that it was drawn from is a repetition.
    noises: dict[int, list[float]] = {}
    for each in counted:
        noises.setdefault(each.seed, []).append(each.value)
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
