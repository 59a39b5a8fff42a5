"""Evaluations as one tag: what is read back is what was logged, and it always fits."""

from __future__ import annotations

import math

import pytest

from workbench.metrics import DRIFT_METRICS, METRICS
from workbench.tracking import CURVE_TAG, Curve, Point, curve_of, curve_tags, read_curve
from workbench.tracking.curve import interpolate


def points(count: int) -> list[Point]:
    logged = []
    for index in range(count):
        step = 6400 * index
        logged.append(Point("eval/fid", step, 40 / (index + 1) + 1 / 3, 0))
        logged.append(Point("perf/train_seconds", step, 16.5 * index, 0))
        if index % 2 == 0:
            logged.append(Point("eval/alignment", step, 0.9, 0))
        logged.append(Point("train/loss", step, 1.0, 0))
    return logged


def round_trip(curve: Curve) -> Curve:
    back = read_curve(curve_tags(curve))
    assert back is not None
    return back


def test_a_curve_survives_its_tag() -> None:
    curve = curve_of([*points(3), Point("eval/fid", 0, 99.0, 1)])
    assert curve.nimg == (0, 6400, 12800)
    assert curve.seconds == (0.0, 16.5, 33.0)
    assert curve.scores["fid"] == pytest.approx((40 + 1 / 3, 20 + 1 / 3, 40 / 3 + 1 / 3))
    back = round_trip(curve)
    assert (back.nimg, back.seconds) == (curve.nimg, curve.seconds)
    assert back.scores["fid"] == pytest.approx(curve.scores["fid"], rel=1e-5)
    assert math.isnan(back.scores["alignment"][1])


def test_a_curve_tells_network_evaluations_where_the_run_counted_them() -> None:
    counts = [Point("perf/train_evaluations", 6400 * index, 76800.0 * index, 0) for index in (0, 1)]
    curve = curve_of([*points(2), *counts])
    assert curve.evaluations == (0.0, 76800.0)
    assert round_trip(curve).evaluations == curve.evaluations
    assert "perf/train_evaluations" not in curve.scores
    assert curve_of(points(2)).evaluations == ()
    assert round_trip(curve_of(points(2))).evaluations == ()


def test_values_at_a_budget_lie_between_the_evaluations_around_it() -> None:
    curve = curve_of(points(4))
    one, two = curve.scores["fid"][1:3]
    assert curve.at_nimg("fid", 12800) == two
    # A distance falls by factors: halfway is the geometric mean.
    assert curve.at_nimg("fid", 9600) == pytest.approx(math.sqrt(one * two))
    assert curve.at_seconds("fid", 24.75) == pytest.approx(math.sqrt(one * two))
    assert curve.at_nimg("fid", -1) is None
    assert curve.at_nimg("fid", 12800 * 2) is None
    assert curve.at_nimg("kid", 12800) is None
    assert curve.last("kid") is None


def test_scores_that_are_no_distance_are_linear_and_skip_evaluations_without_them() -> None:
    curve = Curve((0, 100, 200), (0.0, 1.0, 2.0), {"alignment": (0.5, math.nan, 0.9)})
    assert curve.at_nimg("alignment", 100) == pytest.approx(0.7)
    assert curve.last("alignment") == 0.9


def test_beside_a_diverged_evaluation_a_score_is_diverged() -> None:
    for values in ((1.0, math.inf), (math.inf, 1.0)):
        assert interpolate((0, 100), values, 50, is_distance=True) == math.inf
        assert interpolate((0, 100), values, 0, is_distance=True) == values[0]
    assert interpolate((0, 100), (0.0, 1.0), 50, is_distance=True) == 0.5


def test_a_long_curve_loses_no_evaluation() -> None:
    """One that lost some would hide a spike as this."""
    spike = Point("eval/fid", 6400 * 111, 400.0, 0)
    curve = curve_of([spike, *points(500), Point("eval/fid", 500 * 6400, math.inf, 0)])
    tags = curve_tags(curve)
    assert list(tags)[:3] == ["curve", "curve.1", "curve.2"]
    assert all(4000 < len(text) < 5000 for text in list(tags.values())[:-1])
    back = round_trip(curve)
    assert back.nimg == tuple(6400 * index for index in range(501))
    assert back.scores["fid"] == pytest.approx(curve.scores["fid"], rel=1e-5)
    assert back.scores["fid"][111] == 400.0


def test_a_new_evaluation_changes_the_last_tag_alone() -> None:
    before = curve_tags(curve_of(points(301)))
    after = curve_tags(curve_of(points(302)))
    assert [name for name in before if after[name] != before[name]] == list(before)[-1:]


@pytest.mark.parametrize("text", ["", "[]", '{"nimg":[1]}', '{"nimg":1,"seconds":2}'])
def test_another_tag_is_no_curve(text: str) -> None:
    with pytest.raises(ValueError, match=r"curve|Expecting"):
        read_curve({CURVE_TAG: text})


OLD = (
    '{"nimg":[0,6400,12800],"seconds":[0.0,16.5,33.0],"evaluations":[0.0,76800.0,153600.0],'
    '"alignment":[0.62,null,0.9],"fid":[43.5,17.9,"inf"]}'
)
"""A tag as runs wrote it before drift was measured."""


def test_a_tag_of_an_earlier_run_reads_and_is_written_as_before() -> None:
    curve = read_curve({CURVE_TAG: OLD, "seed": "0"})
    assert curve is not None
    assert curve.nimg == (0, 6400, 12800)
    assert curve.scores["fid"] == (43.5, 17.9, math.inf)
    assert math.isnan(curve.scores["alignment"][1])
    assert curve.evaluations == (0.0, 76800.0, 153600.0)
    assert curve_tags(curve) == {CURVE_TAG: OLD}
    assert read_curve({"seed": "0"}) is None


def drifting(count: int) -> list[Point]:
    ratios = [
        Point(METRICS[name].key, 6400 * index, 1 - 0.0123456 * index / (place + 1), 0)
        for index in range(count)
        for place, name in enumerate(DRIFT_METRICS)
    ]
    return [*points(count), *ratios]


def test_the_tags_of_an_earlier_version_with_its_drift_apart_and_thinned_are_read() -> None:
    drift = '{"nimg":[0,12800],"seconds":[0.0,33.0],"saturation":[1.0,0.5]}'
    curve = read_curve({"curve.drift": drift, CURVE_TAG: OLD})
    alone = read_curve({CURVE_TAG: OLD})
    assert curve is not None
    assert alone is not None
    assert (curve.nimg, curve.seconds) == (alone.nimg, alone.seconds)
    assert curve.evaluations == alone.evaluations
    assert curve.scores["fid"] == alone.scores["fid"]
    one, between_them, last = curve.scores["saturation"]
    assert (one, last) == (1.0, 0.5)
    assert math.isnan(between_them)


def test_every_evaluation_of_drift_is_kept_beside_the_scores() -> None:
    curve = curve_of(drifting(100))
    back = round_trip(curve)
    assert back.nimg == curve.nimg
    for name, values in curve.scores.items():
        assert back.scores[name] == pytest.approx(values, rel=1e-5, nan_ok=True)


def test_a_run_that_measures_drift_alone_has_a_curve_of_it() -> None:
    tags = curve_tags(curve_of([Point("drift/contrast", 6400, 0.9, 0)]))
    curve = read_curve(tags)
    assert curve is not None
    assert (curve.nimg, curve.scores) == ((6400,), {"contrast": (0.9,)})
    assert CURVE_TAG in tags  # which says that the run was evaluated
