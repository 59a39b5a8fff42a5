"""What the MLflow UI shows of an experiment when it opens: charts, groups, columns, their order.

MLflow has no interface for this. All that depends on the inside of its UI is in this file and, for
colours, in view_colors; it was read from the JavaScript of MLflow 3.17.2 and tried in a browser
(tests/cli/test_browser.py):

- A saved view is an experiment tag ``mlflow.sharedViewState.KEY`` that holds JSON: name, createdAt,
  updatedAt (ms) and state, which is JSON text or "deflate;" and base64 of that text zlib-packed.
  ``?viewStateShareKey=KEY`` opens it, but only in an address without a filter or order of its own.
- A metric without a chart gets one by itself, in a section named by what stands before its last
  slash; a section that the view lists as not displayed stays closed.
- A group's line is the mean over its runs with their range behind it, which on a linear axis is
  filled from 0: without a range of its own the axis begins there.
"""

from __future__ import annotations

import base64
import json
import math
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from workbench.errors import WorkbenchError, unknown_name
from workbench.metrics import EVAL, METRICS, Goal, metric_in, metric_info, primary_of_most
from workbench.tracking.artifacts import asked_client
from workbench.tracking.base import KIND, STUDENT_SAMPLES
from workbench.tracking.curve import SECONDS, Curve, read_curve
from workbench.tracking.rows import RunRow
from workbench.tracking.ui import experiment_address
from workbench.tracking.view_colors import color_runs, distinguishable

_SCORES = f"{EVAL}/"

_KEY = "workbench"
_TAG = "mlflow.sharedViewState."
_TAG_LIMIT = 5000
"""Characters that every MLflow 3 takes in an experiment's tag; 3.17 takes 20000."""


_FIXED_COLUMNS = ("attributes.`Run Name`", "runDateAndNestInfo", "duration")
_COLUMN_WIDTH = 120
_MANY_LINES = 40
_MARGIN = 0.05
"""Of an axis beyond the values on it, at either end."""
_CHART = {"deleted": False, "isGenerated": False, "runsCountToCompare": 10}
_TAGS = ("variant", "seed", "teacher")
_COSTS = frozenset({"loss", "norm", "seconds"})
"""Words in the names of what no registered metric is, and falls as it gets better."""

_ALIAS = "arm"
_GROUPINGS = (
    ("variant",),
    (_ALIAS,),
    ("variant", "teacher"),
    ("variant", "method"),
    ("variant", "teacher", "method"),
)


def judging_metric(runs: Sequence[RunRow]) -> str:
    """What judged the runs during training; the first there is while none was evaluated."""
    name = primary_of_most(run.metrics for run in _of_usual_kind(runs))
    return metric_info(name or next(iter(METRICS))).key


def experiment_view(runs: Sequence[RunRow], metric: str | None = None) -> dict[str, Any]:
    """The view of an experiment with these runs: ``metric`` first, best runs on top.

    Runs are grouped by variant, and drawn as the mean over seeds where that can be told apart.
    Plans and parents of studies are left out.

    Args:
        metric: None for what judges the runs, which may still be to come.

    Raises:
        RequestError: none of the runs has the metric.
    """
    kind = _usual_kind(runs)
    runs = _of_usual_kind(runs)
    known = sorted({key for run in runs for key in run.metrics})
    usual = judging_metric(runs)
    metric = metric or usual
    if metric not in (*known, usual):
        raise unknown_name("metric", metric, known)
    scores = [metric, *(key for key in known if key.startswith(_SCORES) and key != metric)]
    losses = [key for key in known if key.startswith("train/") and key.endswith("_loss")]
    curves = [curve for run in runs if (curve := read_curve(run.tags)) is not None]
    sections = {
        "Scores": [_score(key, curves, key == metric) for key in scores[:6]],
        "Losses": [_line(key) for key in losses[:6] if key != metric],
    }
    grouping = _grouping(runs)
    if not grouping["useGroupedValuesInCharts"]:  # The UI shows no images of groups.
        sections["Samples"] = [_images(STUDENT_SAMPLES, _last_step(curves))]
    best = f"best/{metric.rpartition('/')[2]}"
    order = metric if metric in known and best not in known else best
    timed = [SECONDS] if SECONDS in known else []
    columns = [_column("metrics", key) for key in dict.fromkeys((order, *scores[:6], *timed))]
    columns += [_column("tags", key) for key in _TAGS if any(key in run.tags for run in runs)]
    return {
        "searchFilter": "" if kind is None else f"tags.`{KIND}` = '{kind}'",
        "orderByKey": _column("metrics", order),
        "orderByAsc": _falls(metric),
        "selectedColumns": columns,
        "columnOrder": [*_FIXED_COLUMNS, *columns],
        "columnWidths": dict.fromkeys(columns, _COLUMN_WIDTH),
        "viewMaximized": True,
        "hideEmptyCharts": True,
        **_layout(sections, known),
        **grouping,
    }


def publish_comparison(tracking_uri: str, runs: Sequence[RunRow], metric: str | None = None) -> str:
    """Save the view of one experiment's runs and colour them by variant; the key of the view.

    Args:
        metric: drawn first and sorted by; None for what judges the runs.

    Raises:
        RequestError: none of the runs has the metric.
        WorkbenchError: the store does not take it.
    """
    usual = judging_metric(runs)
    metric = metric or usual
    # Views of other metrics live on, and so do links to them.
    key = _KEY if metric == usual else f"{_KEY}-{metric.replace('/', '-')}"
    experiment_id = runs[0].experiment_id
    view = experiment_view(runs, metric)
    publish_view(tracking_uri, experiment_id, key, view, f"workbench: {metric}")
    color_runs(tracking_uri, experiment_id)
    return key


def publish_view(
    tracking_uri: str, experiment_id: str, key: str, view: Mapping[str, Any], name: str = ""
) -> None:
    """Save a view under ``key``, by ``name`` in the UI's list; the same view again writes nothing.

    Raises:
        WorkbenchError: the view is too large for a tag, or the store does not take it.
    """
    state = json.dumps(view, separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(state.encode(), 9)).decode()
    with asked_client(tracking_uri) as client:
        saved = _saved(client.get_experiment(experiment_id).tags.get(_TAG + key))
        name = name or key
        if (saved.get("name"), saved.get("state")) == (name, packed):
            return
        now = time.time_ns() // 1_000_000
        created = saved.get("createdAt", now)
        text = json.dumps({"name": name, "createdAt": created, "updatedAt": now, "state": packed})
        if len(text) > _TAG_LIMIT:
            raise WorkbenchError(f"A view of {len(text)} characters does not fit a tag.")
        client.set_experiment_tag(experiment_id, _TAG + key, text)


def view_address(base: str, experiment_id: str, key: str, charts: bool = True) -> str:
    """The address that opens an experiment's view, on its charts or on its table."""
    page = experiment_address(base, experiment_id, charts)
    return f"{page}{'&' if charts else '?'}viewStateShareKey={quote(key)}"


def variant_tags(variant: str) -> dict[str, str]:
    """What a run says of its variant: the name, and again under another key.

    The UI paints a group by a hash of key and value. Where two variants get one colour under the
    first key, the second seldom gives them one too.
    """
    return {"variant": variant, _ALIAS: variant}


def _usual_kind(runs: Sequence[RunRow]) -> str | None:
    """The kind of most runs that measured anything; None where runs do not tell."""
    kinds = Counter(run.tags.get(KIND) for run in runs if run.metrics)
    return max(kinds, key=lambda kind: kinds[kind], default=None)


def _of_usual_kind(runs: Sequence[RunRow]) -> list[RunRow]:
    kind = _usual_kind(runs)
    return [run for run in runs if kind in (None, run.tags.get(KIND))]


def _grouping(runs: Sequence[RunRow]) -> dict[str, Any]:
    """Means over seeds where any repeat and the groups' colours differ, else single lines.

    A mean never mixes teachers or methods. As the groups' names decide their colours, and these
    names hold the tags that are grouped by, several sets of tags are tried.
    """
    tagged = [run for run in runs if "variant" in run.tags]
    finest = len(_groups(tagged, _GROUPINGS[-1]))
    fitting = [keys for keys in _GROUPINGS if len(_groups(tagged, keys)) == finest]
    clear = [keys for keys in fitting if distinguishable(_groups(tagged, keys))]
    repeated = finest < len(tagged)
    means = repeated and bool(clear)
    keys = [{"mode": "tag", "groupByData": key} for key in (clear or fitting)[0]]
    lines = finest if means else len(runs)
    return {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if repeated else None,
        "useGroupedValuesInCharts": means,
        "runsHiddenMode": "SHOW_ALL" if lines <= _MANY_LINES else "FIRST_20_RUNS",
    }


def _groups(runs: Sequence[RunRow], keys: Sequence[str]) -> set[str]:
    """The UI's own names of the groups; none where a run lacks all of the tags."""
    if any(run.tags.keys().isdisjoint(keys) for run in runs):
        return set()
    return {",".join(f"tag.{key}.{run.tags.get(key) or 'null'}" for key in keys) for run in runs}


def _layout(
    sections: Mapping[str, Sequence[Mapping[str, Any]]], known: Iterable[str]
) -> dict[str, Any]:
    """Our charts in open sections of two columns, then closed ones where the UI puts the rest."""
    charts = [
        {**chart, "uuid": f"{name}/{i}", "metricSectionId": name}
        for name, drawn in sections.items()
        for i, chart in enumerate(drawn)
    ]
    others = set(known) - {chart.get("metricKey") for chart in charts}
    closed = sorted({key.rpartition("/")[0] or "Model metrics" for key in others})
    shown = {name: True for name, drawn in sections.items() if drawn}
    shown |= dict.fromkeys((*closed, "System metrics"), False)
    fixed = {"columns": 2, "isReordered": True, "isGenerated": False, "deleted": False}
    return {
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": display, **fixed}
            for name, display in shown.items()
        ],
        "isAccordionReordered": True,
    }


def _score(metric: str, curves: Iterable[Curve], leads: bool) -> dict[str, Any]:
    """The chart of a score: the leading distance on a log axis, others as far as values reach."""
    info = metric_in(metric)
    if leads and info is not None and info.is_distance:
        return _line(metric, log=True)
    name = metric.rpartition("/")[2]
    found = [v for curve in curves for v in curve.scores.get(name, ()) if math.isfinite(v)]
    margin = _MARGIN * (max(found, default=0.0) - min(found, default=0.0))
    if margin == 0:
        return _line(metric)
    return {**_line(metric), "range": {"yMin": min(found) - margin, "yMax": max(found) + margin}}


def _line(metric: str, log: bool = False) -> dict[str, Any]:
    """A line chart over steps. The UI reads all these fields, so none may be left out."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "scaleType": "log" if log else "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "lineSmoothness": 0,
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        **_CHART,
    }


def _images(series: str, step: int) -> dict[str, Any]:
    """The runs' images of one series at one step, with a slider to other steps."""
    return {"type": "IMAGE", "imageKeys": [series], "step": step, "showRunParams": False, **_CHART}


def _last_step(curves: Iterable[Curve]) -> int:
    """The step at which most runs were last evaluated; 0 if that is not told."""
    last = Counter(curve.nimg[-1] for curve in curves if curve.nimg)
    return max(last, key=lambda step: (last[step], step), default=0)


def _column(kind: str, key: str) -> str:
    return f"{kind}.`{key}`"


def _falls(metric: str) -> bool:
    """Whether the best of a metric's values is the lowest, which a table puts on top."""
    info = metric_in(metric)
    if info is not None:
        return info.goal is Goal.LOWER
    return not _COSTS.isdisjoint(metric.rpartition("/")[2].split("_"))


def _saved(text: str | None) -> dict[str, Any]:
    """The envelope of a saved view; empty where there is none or somebody's own."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
