"""Groups of runs as tables for figures: at equal kimg, and at every step count of their ends.

pandas is imported inside functions: a comparison in text needs none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from workbench.metrics import in_order
from workbench.plotting.curves import LEVEL_COLUMNS, RUN_COLUMNS, curve_frame, distinct, records
from workbench.reports.comparison import AT_KIMG, Comparison
from workbench.reports.groups import Group
from workbench.reports.scores import table_scores, training_scores
from workbench.reports.statistics import Estimate, Observation, estimate_scores
from workbench.samplers import STUDENT, TEACHER
from workbench.students.cost import evaluations_a_step

if TYPE_CHECKING:
    import pandas as pd

_UNGUIDED = 1.0


def collect_curves(groups: Sequence[Group]) -> pd.DataFrame:
    """One row for each run and evaluation of the groups, with what it had cost until then.

    Columns: :data:`~workbench.plotting.curves.RUN_COLUMNS`, then scores.
    """
    rows: dict[tuple[str, str, float | None], dict[str, Any]] = {}
    for group in groups:
        for score in (score for run in group.runs for score in training_scores(group, run)):
            start = {name: getattr(score, name) for name in RUN_COLUMNS}
            row = rows.setdefault((score.label, score.run, score.kimg), start)
            row[score.metric] = score.value
    return curve_frame(rows.values())


def level_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """Each group's teacher as its runs measured it.

    Columns: label, model ("stock" or "teacher"), steps, metric, value (mean over runs), n.
    """
    import pandas as pd

    measured: dict[str, dict[tuple[str, int, str], list[float]]] = {}
    for group in groups:
        own = measured.setdefault(group.label, {})
        for score in (score for run in group.runs for score in table_scores(group, run)):
            if score.model != STUDENT:
                cell = score.model, score.steps, score.metric
                own.setdefault(cell, []).append(score.value)
    rows = [
        (label, *cell, fmean(values), len(values))
        for label, own in measured.items()
        for cell, values in sorted(own.items())
    ]
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))


def equal_kimg_frame(comparison: Comparison) -> pd.DataFrame:
    """One row a group, best first: label, seeds, kimg, and each score's mean and ``_half``.

    ``_half`` is the half width of the 95 % interval over seeds, NaN for a single seed.
    """
    import pandas as pd

    rows = []
    names = in_order(name for result in comparison.results for name in result.scores)
    for result in comparison.results:
        row: dict[str, Any] = {"label": result.group.label, "seeds": len(result.group.runs)}
        row["kimg"] = comparison.kimg
        for name in names:
            row |= _columns(name, result.get(name, AT_KIMG))
        rows.append(row)
    return pd.DataFrame(rows)


def final_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """The runs' final tables, one row for each run, model and step count.

    Columns: label, run, seed, evaluation_seed, trained_steps (K), model ("stock", "teacher" or
    "student"), steps, nfe (with guidance's second evaluation), each score, and ms_per_image. What a
    run did not measure is NaN.
    """
    import pandas as pd

    rows = []
    for group in groups:
        trained = group.params.get("generator.steps")
        scale = float(group.params.get("evaluation.cfg_scale", _UNGUIDED))
        for run in group.runs:
            cells: dict[tuple[str, int], dict[str, Any]] = {}
            own: dict[str, Any] = {"label": group.label, "run": run.row.run_id}
            own |= {"seed": run.seed, "evaluation_seed": run.evaluation_seed}
            own["trained_steps"] = None if trained is None else int(trained)
            for score in table_scores(group, run):
                # Tables of earlier versions did not say it, and held no stock rows.
                each = evaluations_a_step(scale) if score.model == TEACHER else 1
                costs = {"model": score.model, "steps": score.steps, "nfe": score.steps * each}
                cell = cells.setdefault((score.model, score.steps), {**own, **costs})
                cell[score.metric] = score.value
            rows += [cell for _, cell in sorted(cells.items())]
    first = ["label", "run", "seed", "evaluation_seed", "trained_steps", "model", "steps", "nfe"]
    scores = in_order({name for row in rows for name in row} - {*first})
    return pd.DataFrame(rows, columns=[*first, *scores])


def over_seeds(frame: pd.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Means of ``values`` over the rows of equal ``keys``: keys, n, each mean and its ``_half``.

    Rows are runs: an interval needs them at several evaluation seeds, as
    :func:`~workbench.reports.statistics.estimate_scores` says. What several runs of one training
    seed say of one noise (their common teacher) counts once; ``n`` is the number of such rows.

    A value that not every row of a group has is NaN: a mean over fewer seeds is another mean.
    """
    import pandas as pd

    rows = []
    for key, found in frame.groupby(list(keys), sort=False, dropna=False):
        of_seeds = found.groupby(["seed", "evaluation_seed"], sort=False)[list(values)]
        found = of_seeds.agg(_mean).reset_index()
        row: dict[str, Any] = {**dict(zip(keys, key, strict=True)), "n": len(found)}
        for name in values:
            seeds = zip(found["seed"], found["evaluation_seed"], found[name], strict=True)
            own = estimate_scores(Observation(int(s), int(e), float(v)) for s, e, v in seeds)
            row |= _columns(name, own)
        rows.append(row)
    columns = [part for name in values for part in (name, f"{name}_half")]
    return pd.DataFrame(rows, columns=[*keys, "n", *columns])


def over_noise(frame: pd.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """As :func:`over_seeds`, of a teacher: each noise that it was drawn from is a repetition.

    It has no training seed here; what several runs say of one noise counts once.
    """
    return over_seeds(frame.assign(seed=frame["evaluation_seed"]), keys, values)


def _mean(column: pd.Series[float]) -> float:
    """NaN where any is: a mean over fewer is another mean."""
    return float(column.mean(skipna=False))


def student_names(students: pd.DataFrame) -> dict[str, str]:
    """Line to "student, K = 4", and its label where several lines share a K.

    Args:
        students: rows with the columns line and trained_steps.
    """
    first = records(students.drop_duplicates("line"))
    return distinct({str(row.line): f"student, K = {row.trained_steps:g}" for row in first})


def _columns(name: str, found: Estimate | None) -> dict[str, float]:
    half = None if found is None else found.half
    mean = math.nan if found is None else found.mean
    return {name: mean, f"{name}_half": math.nan if half is None else half}
