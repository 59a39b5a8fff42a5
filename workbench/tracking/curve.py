"""A run's evaluations as tags, so that a table of many runs costs one question to the store.

MLflow gives a metric's history one run and one key at a time. The histories stay the truth; the
tags repeat every evaluation in short. What one tag cannot hold goes on in a next one, so that a new
evaluation changes the last of them alone.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.metrics import METRICS, score_of
from workbench.tracking.outbox import Point

TAG = "curve"
"""Tag with a run's first evaluations; more are in ``curve.1`` and so on."""

SECONDS = "perf/train_seconds"
EVALUATIONS = "perf/train_evaluations"

_COSTS = {SECONDS, EVALUATIONS}
_LIMIT = 4900
"""Characters that every MLflow store takes in a tag."""


@dataclass(frozen=True)
class Curve:
    """Evaluations of one run in order: images seen, seconds of training, scores by name.

    ``scores[name][i]`` is NaN where the i-th evaluation lacks that score. ``evaluations`` are the
    network evaluations of training until then, forward and backward together; none of an older run.
    """

    nimg: tuple[int, ...]
    seconds: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]
    evaluations: tuple[float, ...] = ()

    def at_nimg(self, name: str, nimg: float) -> float | None:
        """The score at so many images, :func:`between` evaluations; None outside of them."""
        return interpolate(
            self.nimg, self.scores.get(name, ()), nimg, is_distance=_is_distance(name)
        )

    def at_seconds(self, name: str, seconds: float) -> float | None:
        """The score after so many seconds, :func:`between` evaluations; None outside of them."""
        distance = _is_distance(name)
        return interpolate(self.seconds, self.scores.get(name, ()), seconds, is_distance=distance)

    def last(self, name: str) -> float | None:
        """The newest value of a score; None if there is none."""
        return next((v for v in reversed(self.scores.get(name, ())) if v == v), None)


def interpolate(
    costs: Sequence[float], values: Sequence[float], at: float, *, is_distance: bool
) -> float | None:
    """A score at a cost, from the evaluations before and after it; None outside of them.

    Runs are evaluated at different costs. The last evaluation within a limit would be an earlier
    one for those that are evaluated seldom, and a quarter of their training could be lost by a
    tenth of a second. Distances fall by factors, so they are taken log-linear, all else linear.

    Args:
        costs: of the evaluations, rising.
        values: of a score at them; NaN where an evaluation lacks it.
        is_distance: whether the score is a distance, 0 or above.
    """
    known = [pair for pair in zip(costs, values, strict=False) if pair[1] == pair[1]]
    before = [pair for pair in known if pair[0] <= at]
    after = [pair for pair in known if pair[0] >= at]
    if not before or not after:
        return None
    (low, one), (high, other) = before[-1], after[0]
    if low == high:
        return one
    share = (at - low) / (high - low)
    if not (math.isfinite(one) and math.isfinite(other)):
        return other if math.isfinite(one) else one
    if is_distance and one > 0 and other > 0:
        return math.exp((1 - share) * math.log(one) + share * math.log(other))
    return (1 - share) * one + share * other


def _is_distance(name: str) -> bool:
    return name in METRICS and METRICS[name].is_distance


def curve_of(points: Iterable[Point]) -> Curve:
    """The curve behind logged points; of two points of one (key, step) the first counts."""
    scores: dict[int, dict[str, float]] = {}
    costs: dict[int, dict[str, float]] = {}
    for point in points:
        name = score_of(point.key)
        if name is not None:
            scores.setdefault(point.step, {}).setdefault(name, point.value)
        elif point.key in _COSTS:
            costs.setdefault(point.step, {}).setdefault(point.key, point.value)
    return _curve(scores, costs)


def curve_tags(curve: Curve) -> dict[str, str]:
    """A run's tags that hold its curve: :data:`TAG`, and numbered ones if it is long."""
    tags: dict[str, str] = {}
    start, count = 0, len(curve.nimg)
    while start < count or not tags:
        ends = range(start + 1, count + 1)
        fitting = bisect.bisect_right(ends, _LIMIT, key=lambda end: len(_encode(curve, start, end)))
        end = start + max(fitting, 1)
        tags[f"{TAG}.{len(tags)}" if tags else TAG] = _encode(curve, start, end)
        start = end
    return tags


def read_curve(tags: Mapping[str, str]) -> Curve | None:
    """The curve in a run's tags; None before its first evaluation.

    Earlier versions kept drift in a tag of its own, and every 2^n-th evaluation of a long run: a
    score that a tag lacks is NaN.

    Raises:
        ValueError: a tag is not a curve's.
    """
    parts = [_decode(text) for tag, text in tags.items() if tag == TAG or tag.startswith(f"{TAG}.")]
    return _joined(parts) if parts else None


def _joined(parts: Sequence[Curve]) -> Curve:
    scores: dict[int, dict[str, float]] = {}
    costs: dict[int, dict[str, float]] = {}
    for part in parts:
        for place, step in enumerate(part.nimg):
            scores.setdefault(step, {}).update({n: v[place] for n, v in part.scores.items()})
            found = {SECONDS: part.seconds[place]}
            if part.evaluations:
                found[EVALUATIONS] = part.evaluations[place]
            costs.setdefault(step, {}).update(found)
    return _curve(scores, costs)


def _curve(
    scores: Mapping[int, Mapping[str, float]], costs: Mapping[int, Mapping[str, float]]
) -> Curve:
    """Scores and costs by the number of images, as columns."""
    steps = sorted(scores)

    def column(of: Mapping[int, Mapping[str, float]], name: str) -> tuple[float, ...]:
        return tuple(of.get(step, {}).get(name, math.nan) for step in steps)

    names = sorted({name for values in scores.values() for name in values})
    return Curve(
        nimg=tuple(steps),
        seconds=column(costs, SECONDS),
        scores={name: column(scores, name) for name in names},
        evaluations=_counted(column(costs, EVALUATIONS)),
    )


def _decode(text: str) -> Curve:
    try:
        columns = json.loads(text)
        nimg, seconds = columns.pop("nimg"), columns.pop("seconds")
        evaluations = columns.pop("evaluations", ())
        return Curve(
            tuple(int(value) for value in nimg),
            tuple(_number(value) for value in seconds),
            {name: tuple(_number(value) for value in values) for name, values in columns.items()},
            tuple(_number(value) for value in evaluations),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a curve: {text[:80]!r}") from error


def _encode(curve: Curve, start: int, end: int) -> str:
    """Evaluations ``start`` to ``end`` as a tag's text, six significant digits."""
    kept = slice(start, end)
    counted = {"evaluations": curve.evaluations} if curve.evaluations else {}
    columns = {"seconds": curve.seconds, **counted, **curve.scores}
    shown = {name: [_short(value) for value in values[kept]] for name, values in columns.items()}
    return json.dumps({"nimg": curve.nimg[kept], **shown}, separators=(",", ":"))


def _counted(values: Sequence[float]) -> tuple[float, ...]:
    """The numbers, or none where a run did not count."""
    return tuple(values) if any(value == value for value in values) else ()


def _short(value: float) -> float | str | None:
    if value != value:
        return None
    return str(value) if value in (float("inf"), float("-inf")) else float(f"{value:.6g}")


def _number(value: float | str | None) -> float:
    return float("nan") if value is None else float(value)
