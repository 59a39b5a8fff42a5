"""What the MLflow UI shows of an experiment when it opens: scores, means, columns, their order.

MLflow has no interface for this: a saved view is an experiment tag, as read from the JavaScript of
MLflow 3.17.2 and tried in a browser (tests/cli/test_browser.py). The UI itself adds a chart for
any other metric, in a section named by what stands before its last slash.
"""

from __future__ import annotations

import base64
import json
import math
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from workbench.errors import unknown_name
from workbench.metrics import METRICS, Goal, metric_in, metric_info, primary_of_most
from workbench.tracking.artifacts import asked_client
from workbench.tracking.base import KIND
from workbench.tracking.curve import read_curve
from workbench.tracking.rows import RunRow
from workbench.tracking.ui import experiment_address

_SCORES = "Scores"
_OPEN = (_SCORES, "train")
_COMPARED = ("variant", "teacher", "method")


def publish_comparison(
    tracking_uri: str, runs: Sequence[RunRow], base: str, metric: str | None = None
) -> str:
    """Save the view of one experiment's runs; returns where it opens in the UI at ``base``.

    Raises:
        RequestError: none of the runs has the metric.
        WorkbenchError: the store does not take it.
    """
    packed = zlib.compress(json.dumps(experiment_view(runs, metric)).encode(), 9)
    state = f"deflate;{base64.b64encode(packed).decode()}"
    # Views of other metrics live on, and so do links to them.
    key = "workbench" if metric is None else f"workbench-{metric.replace('/', '-')}"
    now = time.time_ns() // 1_000_000
    saved = json.dumps({"name": key, "createdAt": now, "updatedAt": now, "state": state})
    experiment = runs[0].experiment_id
    with asked_client(tracking_uri) as client:
        client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", saved)
    return f"{experiment_address(base, experiment, charts=True)}&viewStateShareKey={key}"


def experiment_view(runs: Sequence[RunRow], metric: str | None = None) -> dict[str, Any]:
    """The most frequent kind of runs by ``metric`` or what judges them; seeds as their mean."""
    kinds = Counter(run.tags.get(KIND) for run in runs if run.metrics)
    kind = max(kinds, key=lambda each: kinds[each], default=None)
    runs = [run for run in runs if kind in (None, run.tags.get(KIND))]
    known = sorted({key for run in runs for key in run.metrics})
    usual = metric_info(primary_of_most(run.metrics for run in runs) or next(iter(METRICS))).key
    metric = metric or usual
    if metric not in (*known, usual):  # its usual one may still be to come
        raise unknown_name("metric", metric, known)
    info, best = metric_in(metric), f"best/{metric.rpartition('/')[2]}"
    falls = info.goal is Goal.LOWER if info else metric.endswith(("loss", "norm", "seconds"))
    order = metric if metric in known and best not in known else best
    scores = [metric, *(key for key in known if key.startswith("eval/") and key != metric)][:6]
    columns = [f"metrics.`{key}`" for key in dict.fromkeys((order, *scores))]
    closed = {key.rpartition("/")[0] for key in known} - {""} | {"System metrics"}
    compared = {tuple(run.tags.get(key) for key in _COMPARED) for run in runs}
    differing = [key for key in _COMPARED if len({run.tags.get(key) for run in runs}) > 1]
    keys = [{"mode": "tag", "groupByData": key} for key in differing or _COMPARED[:1]]
    return {
        "searchFilter": "" if kind is None else f"tags.`{KIND}` = '{kind}'",
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": falls,
        "selectedColumns": columns + [f"tags.`{key}`" for key in ("variant", "seed", "teacher")],
        "compareRunCharts": [_chart(key, runs, log=key == metric) for key in scores],
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name in _OPEN, "columns": 2}
            for name in (_SCORES, *sorted(closed))
        ],
        "isAccordionReordered": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
        "useGroupedValuesInCharts": len(compared) < len(runs),
    }


def _chart(metric: str, runs: Sequence[RunRow], log: bool) -> dict[str, Any]:
    """Lines over steps: distances on a log axis if asked for, others as far as values reach."""
    info, name = metric_in(metric), metric.rpartition("/")[2]
    log = log and info is not None and info.is_distance
    curves = [curve for run in runs if (curve := read_curve(run.tags)) is not None]
    found = [v for curve in curves for v in curve.scores.get(name, ()) if math.isfinite(v)]
    # Without its ends, a linear axis begins where the UI fills the range behind a mean: at 0.
    ends = {"yMin": min(found), "yMax": max(found)} if found and not log else {}
    own = {"uuid": metric, "metricKey": metric, "selectedMetricKeys": [metric], "range": ends}
    kind = {"type": "LINE", "xAxisKey": "step", "scaleType": "log" if log else "linear"}
    return {**own, **kind, "metricSectionId": _SCORES, "lineSmoothness": 0, "deleted": False}
