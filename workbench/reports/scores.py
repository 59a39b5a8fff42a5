"""The one long table of scores: a row for each value of each metric, wherever runs keep it.

Runs hold evaluations during training, a final table, scores at fresh evaluation seeds, and what
``workbench evaluate`` and ``workbench benchmarks import`` logged to them. Comparisons, figures and
tables read their numbers here; :func:`score_frame` is the table as pandas has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from workbench.metrics import METRICS
from workbench.reports.groups import Group, SeedRun
from workbench.reports.score_files import KeptScore, ScoreFiles
from workbench.runs.tags import REFERENCE, fresh_seed, read_fresh
from workbench.samplers import CELL, STUDENT
from workbench.scoring.external_scores import ExternalName
from workbench.scoring.kept_scores import ScoreName

if TYPE_CHECKING:
    import pandas as pd

TRAINING, TABLE, EVALUATE, BENCHMARK = "training", "table", "evaluate", "benchmark"
"""Where a score is from; those at fresh seeds are ``fresh last`` and ``fresh best``."""

UNKNOWN = "not recorded"
"""Protocol of a benchmark whose file cannot be had."""


class Score(NamedTuple):
    """One value of one metric of one run, and all that says what it compares with.

    Attributes:
        seed: of the training.
        kimg: that the model was trained on; None for a teacher, and where nothing says it.
        steps: of the sampler.
        reference: what the run measures against, where its metrics compare with images.
        protocol: id of how it was measured; scores compare where it is equal.
        low: of its own 95 % interval over samples, None where there is none; likewise ``high``.
        label: of the run's group.
        run: its MLflow id.
        model: ``student``, ``teacher`` (by Euler steps) or ``stock`` (by its pipeline's own call).
        evaluation_seed: of the noise that the samples were drawn from.
        source: see :data:`TRAINING`.
        key: its name in MLflow.
        seconds: of training until then; NaN where that was not written, and of other weights than
            the run's evaluations on the way and its last ones.
        evaluations: of networks, one sample through one of them, until then; NaN likewise.
    """

    experiment: str
    variant: str
    seed: int
    kimg: float | None
    steps: int
    metric: str
    reference: str
    protocol: str
    value: float
    low: float | None
    high: float | None
    label: str
    run: str
    model: str
    evaluation_seed: int
    source: str
    key: str
    seconds: float
    evaluations: float


def training_scores(group: Group, run: SeedRun) -> Iterator[Score]:
    """The student's evaluations during training, in their order."""
    start, curve = blank_score(group, run)._replace(source=TRAINING), run.curve
    for place, nimg in enumerate(curve.nimg):
        counted = curve.evaluations[place] if curve.evaluations else math.nan
        at = start._replace(kimg=nimg / 1000, seconds=curve.seconds[place], evaluations=counted)
        for metric, values in curve.scores.items():
            if values[place] == values[place]:
                key = METRICS[metric].key if metric in METRICS else metric
                yield at._replace(metric=metric, key=key, value=values[place])


def table_scores(group: Group, run: SeedRun) -> Iterator[Score]:
    """The final table's cells, of teachers and student, the costs (nfe, ms_per_image) too."""
    start = blank_score(group, run)
    for key, value in run.row.metrics.items():
        found = CELL.fullmatch(key)
        if found is not None:
            own = start._replace(source=TABLE, key=key, model=found[1], steps=int(found[2]))
            own = own if own.model == STUDENT else untrained(own)
            yield own._replace(metric=found[3], value=value)


def fresh_scores(group: Group, run: SeedRun) -> Iterator[Score]:
    """The last and the best weights at fresh evaluation seeds."""
    start = blank_score(group, run)
    for key, value in run.row.metrics.items():
        found = read_fresh(key)
        if found is not None:
            weights, number, metric = found
            own = start._replace(source=f"fresh {weights}", key=key, metric=metric, value=value)
            if weights != "last":
                own = untrained(own)._replace(kimg=run.row.metrics.get("best/kimg"))
            yield own._replace(evaluation_seed=fresh_seed(run.evaluation_seed, number))


def evaluated_scores(group: Group, run: SeedRun) -> Iterator[Score]:
    """What ``workbench evaluate`` logged, by name; intervals and kimg stand in its files."""
    start = untrained(blank_score(group, run, reference=""))
    named = ((key, ScoreName.parse(key)) for key in run.row.metrics)
    for name, key in sorted((name, key) for key, name in named if name is not None):
        yield start._replace(
            source=EVALUATE,
            key=key,
            steps=name.steps,
            metric=name.metric,
            reference=name.reference,
            protocol=name.protocol,
            evaluation_seed=name.seed,
            value=run.row.metrics[key],
        )


def benchmark_scores(group: Group, run: SeedRun, files: ScoreFiles | None) -> Iterator[Score]:
    """Imported benchmarks; how they were measured stands in their files."""
    start = blank_score(group, run)._replace(source=BENCHMARK)
    for key, value in run.row.metrics.items():
        name = ExternalName.parse(key)
        if name is None:
            continue
        own = start._replace(key=key, metric=name.metric, value=value)
        file = None if files is None else files.find_benchmark(run.row, name)
        steps = name.steps or start.steps
        if file is None:
            own = untrained(own)
            yield own._replace(steps=steps, protocol=UNKNOWN, evaluation_seed=0)
        else:
            own = own._replace(steps=steps, protocol=file.protocol)
            yield own._replace(kimg=file.kimg, evaluation_seed=file.seed)


def kept_score(score: Score, run: SeedRun, files: ScoreFiles) -> KeptScore | None:
    """The file behind an evaluated score; None where it cannot be had."""
    how = score.reference, score.metric, score.steps, score.protocol, score.evaluation_seed
    return files.find(run.row, ScoreName(*how))


def with_file(score: Score, kept: KeptScore | None) -> Score:
    """The score with the kimg and the interval that its file says."""
    if kept is None:
        return score
    low, high = kept.interval or (None, None)
    return score._replace(kimg=kept.kimg, low=low, high=high)


def read_scores(groups: Sequence[Group], files: ScoreFiles | None = None) -> Iterator[Score]:
    """All of the groups' scores, run by run."""
    for group in groups:
        for run in group.runs:
            yield from training_scores(group, run)
            yield from table_scores(group, run)
            yield from fresh_scores(group, run)
            for score in evaluated_scores(group, run):
                kept = None if files is None else kept_score(score, run, files)
                yield with_file(score, kept)
            yield from benchmark_scores(group, run, files)


def score_frame(scores: Iterable[Score]) -> pd.DataFrame:
    """The scores as a table, a column for each attribute of :class:`Score`."""
    import pandas as pd

    return pd.DataFrame(list(scores), columns=list(Score._fields))


def untrained(score: Score) -> Score:
    """Without what the run's own last weights had cost: it is of others, or nothing says which."""
    return score._replace(kimg=None, seconds=math.nan, evaluations=math.nan)


def reference_of(run: SeedRun) -> str:
    """What a run's own scores are against."""
    told = run.row.tags.get(REFERENCE)
    if told is None:  # a run of before; what they meant brings torch
        from workbench.training import formats

        return formats.reference_in_format_1()
    return told


def blank_score(group: Group, run: SeedRun, reference: str | None = None) -> Score:
    """What a run's scores have in common; its own are against its own reference."""
    return Score(
        experiment=group.experiment,
        variant=group.variant,
        seed=run.seed,
        kimg=run.nimg / 1000,
        steps=int(run.row.params.get("generator.steps", 0)),
        metric="",
        reference=reference_of(run) if reference is None else reference,
        protocol=run.protocol,
        value=0.0,
        low=None,
        high=None,
        label=group.label,
        run=run.row.run_id,
        model=STUDENT,
        evaluation_seed=run.evaluation_seed,
        source="",
        key="",
        seconds=run.seconds,
        evaluations=run.curve.evaluations[-1] if run.curve.evaluations else math.nan,
    )
