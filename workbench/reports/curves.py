"""Curves of groups as tables: every run, means over seeds, teachers' levels, instabilities.

pandas is imported inside functions: a comparison in text needs none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from workbench.reports.groups import Group
from workbench.reports.statistics import estimate
from workbench.tracking import Curve
from workbench.tracking.curve import LOWER_IS_BETTER

if TYPE_CHECKING:
    import pandas as pd

LEAST_RISE = 1.25
"""An instability lifts FID at least this much above the best before it."""

NOISES = 6.0
"""And by this many standard deviations of the run's own noise in log FID."""

_ENOUGH = 9
"""Values from which a single jump, which bends the curve in three places, is not in the median."""

_RUN = ["label", "run", "seed", "kimg", "seconds"]
_LEVEL = re.compile(r"table/teacher_(\d+)_(\w+)")


def curve_rows(label: str, run: str, seed: int | None, curve: Curve) -> list[dict[str, Any]]:
    """A run's evaluations: label, run, seed, kimg, seconds, and each score."""
    return [
        {
            "label": label,
            "run": run,
            "seed": seed,
            "kimg": nimg / 1000,
            "seconds": curve.seconds[place],
            **{name: values[place] for name, values in curve.scores.items()},
        }
        for place, nimg in enumerate(curve.nimg)
    ]


def curve_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows of :func:`curve_rows` as a table; a score that a run lacks is NaN."""
    import pandas as pd

    found = list(rows)
    others = sorted({name for row in found for name in row} - {*_RUN, *LOWER_IS_BETTER})
    return pd.DataFrame(found, columns=[*_RUN, *LOWER_IS_BETTER, *others])


def collect_curves(groups: Sequence[Group]) -> pd.DataFrame:
    """One row for each run and evaluation of the groups; see :func:`curve_rows`."""
    return curve_frame(
        row
        for group in groups
        for run in group.runs
        for row in curve_rows(group.label, run.row.run_id, run.seed, run.curve)
    )


def mean_curve(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Over the runs in ``rows``: kimg, mean, low, high (lowest and highest run), n.

    Only where every run that has the score was evaluated: a mean over fewer seeds would jump.
    """
    import pandas as pd

    table = rows.pivot(index="kimg", columns="run", values=metric)
    table = table.dropna(axis="columns", how="all").dropna()
    found = [estimate([float(value) for value in values]) for values in table.to_numpy()]
    columns = {
        "kimg": [float(kimg) for kimg in table.index],
        "mean": [each.mean for each in found],
        "low": [min(each.values) for each in found],
        "high": [max(each.values) for each in found],
        "n": [each.n for each in found],
    }
    return pd.DataFrame(columns)


def level_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """Each group's teacher as its runs measured it: label, steps, metric, value (mean), n."""
    import pandas as pd

    rows = []
    for group in groups:
        measured: dict[tuple[int, str], list[float]] = {}
        for run in group.runs:
            for key, value in run.row.metrics.items():
                found = _LEVEL.fullmatch(key)
                if found is not None:
                    measured.setdefault((int(found[1]), found[2]), []).append(value)
        for (steps, metric), values in sorted(measured.items()):
            mean = estimate(values)
            rows.append((group.label, steps, metric, mean.mean, mean.n))
    return pd.DataFrame(rows, columns=["label", "steps", "metric", "value", "n"])


def find_instabilities(frame: pd.DataFrame) -> pd.DataFrame:
    """Where a run's FID jumps above the best that it had reached; one row a jump.

    A jump is a stretch of evaluations whose log FID lies above the running minimum by more than
    log 1.25 and, from nine evaluations on, by more than six standard deviations of the run's own
    noise: 1.4826 / sqrt(1.5) times the median of |second difference| / 2 of log FID, which neither
    the descent nor a jump moves much. An infinite FID is always a jump; NaN is no evaluation.

    Columns: label, run, seed, kimg and fid (at its highest), best (before it), height (fid / best),
    recovered (whether a later evaluation came back below the threshold).
    """
    import pandas as pd

    found = []
    for (label, run), rows in frame.groupby(["label", "run"], sort=False):
        rows = rows[rows["fid"].notna()].sort_values("kimg")
        kimg, fid = list(rows["kimg"]), [float(value) for value in rows["fid"]]
        for peak, best, recovered in _jumps(fid):
            found.append(
                {
                    "label": label,
                    "run": run,
                    "seed": rows["seed"].iloc[0],
                    "kimg": kimg[peak],
                    "fid": fid[peak],
                    "best": best,
                    "height": fid[peak] / best,
                    "recovered": recovered,
                }
            )
    columns = ["label", "run", "seed", "kimg", "fid", "best", "height", "recovered"]
    return pd.DataFrame(found, columns=columns)


def _jumps(fid: Sequence[float]) -> list[tuple[int, float, bool]]:
    """Place of each jump's highest value, the best before it, and whether it was left again."""
    threshold = max(LEAST_RISE, math.exp(min(NOISES * _noise(fid), 700.0)))
    best = math.inf
    found: list[tuple[int, float, bool]] = []
    inside = False
    for place, value in enumerate(fid):
        above = math.isfinite(best) and best > 0 and value > threshold * best
        if above and inside:
            peak, before, _ = found[-1]
            found[-1] = (max(peak, place, key=lambda i: fid[i]), before, False)
        elif above:
            found.append((place, best, False))
        elif inside:
            found[-1] = (*found[-1][:2], True)
        inside = above
        best = min(best, value)
    return found


def _noise(fid: Sequence[float]) -> float:
    """Standard deviation of log FID about a smooth curve; 0 for too few values to tell."""
    logs = [math.log(value) for value in fid if 0 < value < math.inf]
    if len(logs) < _ENOUGH:
        return 0.0
    steps = [after - before for before, after in pairwise(logs)]
    bends = [abs(after - before) / 2 for before, after in pairwise(steps)]
    return 1.4826 * median(bends) / math.sqrt(1.5)
