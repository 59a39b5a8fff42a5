"""Curves of runs as tables: every evaluation, means over seeds, instabilities.

pandas is imported inside functions: a comparison in text needs none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError
from workbench.metrics import METRICS, in_order, title_of
from workbench.training.stability import fid_jumps

if TYPE_CHECKING:
    import pandas as pd

LEVEL_COLUMNS = ("label", "model", "steps", "metric", "value", "n")
"""A teacher's levels: whose runs measured them, by which sampler, and their mean over ``n``."""

RUN_COLUMNS = ("label", "run", "seed", "evaluation_seed", "kimg", "seconds", "evaluations")
"""Of a curve's row beside its scores; the last two are what it had cost until then."""


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows with their columns as attributes, whose types pandas does not know."""
    return iter(frame.itertuples())


def curve_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Evaluations as a table: :data:`RUN_COLUMNS`, then scores; one that a run lacks is NaN."""
    import pandas as pd

    found = list(rows)
    scores = in_order({name for row in found for name in row} - {*RUN_COLUMNS})
    return pd.DataFrame(found, columns=[*RUN_COLUMNS, *scores])


def distinct(names: Mapping[str, str], form: str = "{name} ({label})") -> dict[str, str]:
    """Label to its name, in ``form`` with the label where several labels share a name."""
    often = Counter(names.values())
    return {
        label: name if often[name] == 1 else form.format(name=name, label=label)
        for label, name in names.items()
    }


def mean_curve(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Over the runs in ``rows``: kimg, mean, low, high (lowest and highest run), n.

    Only where every run that has the score was evaluated: a mean over fewer seeds would jump.
    """
    import pandas as pd

    table = rows.pivot(index="kimg", columns="run", values=metric)
    table = table.dropna(axis="columns", how="all").dropna()
    table = table if len(table.columns) else table.iloc[:0]
    found = [[float(value) for value in values] for values in table.to_numpy()]
    columns = {
        "kimg": [float(kimg) for kimg in table.index],
        "mean": [fmean(values) for values in found],
        "low": [min(values) for values in found],
        "high": [max(values) for values in found],
        "n": [len(values) for values in found],
    }
    return pd.DataFrame(columns)


def measured_in(frame: pd.DataFrame) -> list[str]:
    """The scores that any row of a frame has, in the order of ``workbench.metrics``."""
    return [name for name in in_order(frame.columns) if name in METRICS and frame[name].count()]


def distance_in(frame: pd.DataFrame) -> str | None:
    """The distance that most rows of a frame have, the first of several; None without one."""
    names = [name for name in measured_in(frame) if METRICS[name].is_distance]
    return max(names, key=lambda name: frame[name].count(), default=None)


def need_distance(frame: pd.DataFrame) -> str:
    """As :func:`distance_in`, for figures whose axis is a distance.

    Raises:
        RequestError: there is none, or none of its values is finite and above 0.
    """
    score = distance_in(frame)
    if score is None:
        known = ", ".join(map(title_of, measured_in(frame))) or "none"
        raise RequestError(
            f"These runs measured no distance, such as FID, to draw; their scores: {known}."
        )
    if drawable(frame, score).empty:
        raise RequestError(f"There is no finite {title_of(score)} above 0 to draw.")
    return score


def drawable(frame: pd.DataFrame, score: str) -> pd.DataFrame:
    """The rows whose score a logarithmic axis has a place for."""
    return frame[(frame[score] > 0) & (frame[score] < math.inf)]


def find_instabilities(frame: pd.DataFrame) -> pd.DataFrame:
    """Where a run's distance jumps above the best that it had reached; one row a jump.

    The rule is :func:`workbench.training.stability.fid_jumps`, on the score of
    :func:`distance_in`; a NaN is no evaluation, and without a distance there is no jump.

    Columns: label, run, seed, kimg, score (its name) and value (at its highest), best (before it),
    height (value / best), recovered (whether a later evaluation came back below the threshold).
    """
    import pandas as pd

    found = []
    score = distance_in(frame)
    runs = frame[frame[score].notna()] if score is not None else frame[:0]
    for (label, run), of_run in runs.groupby(["label", "run"], sort=False):
        rows = of_run.sort_values("kimg")
        kimg, values = list(rows["kimg"]), [float(value) for value in rows[score]]
        for peak, best, recovered in fid_jumps(values):
            found.append(
                {
                    "label": label,
                    "run": run,
                    "seed": rows["seed"].iloc[0],
                    "kimg": kimg[peak],
                    "score": score,
                    "value": values[peak],
                    "best": best,
                    "height": values[peak] / best,
                    "recovered": recovered,
                }
            )
    columns = ["label", "run", "seed", "kimg", "score", "value", "best", "height", "recovered"]
    return pd.DataFrame(found, columns=columns)
