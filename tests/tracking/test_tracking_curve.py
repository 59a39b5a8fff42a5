"""Evaluations as one tag: what is read back is what was logged, and it always fits."""

from __future__ import annotations

import math

import pytest

from workbench.metrics import DRIFT_METRICS, METRICS
from workbench.tracking import CURVE_TAG, Curve, Point, curve_of, curve_tags, read_curve
from workbench.tracking.curve import DRIFT_TAG, between, decode_curve, encode_curve


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


def test_a_curve_survives_its_tag() -> None:
    curve = curve_of([*points(3), Point("eval/fid", 0, 99.0, 1)])
    assert curve.nimg == (0, 6400, 12800)
    assert curve.seconds == (0.0, 16.5, 33.0)
    assert curve.scores["fid"] == pytest.approx((40 + 1 / 3, 20 + 1 / 3, 40 / 3 + 1 / 3))
    back = decode_curve(encode_curve(curve))
    assert (back.nimg, back.seconds) == (curve.nimg, curve.seconds)
    assert back.scores["fid"] == pytest.approx(curve.scores["fid"], rel=1e-5)
    assert math.isnan(back.scores["alignment"][1])


def test_a_curve_tells_network_evaluations_where_the_run_counted_them() -> None:
    counts = [Point("perf/train_evaluations", 6400 * index, 76800.0 * index, 0) for index in (0, 1)]
    curve = curve_of([*points(2), *counts])
    assert curve.evaluations == (0.0, 76800.0)
    assert decode_curve(encode_curve(curve)).evaluations == curve.evaluations
    assert "perf/train_evaluations" not in curve.scores
    assert curve_of(points(2)).evaluations == ()
    assert decode_curve(encode_curve(curve_of(points(2)))).evaluations == ()


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
        assert between((0, 100), values, 50, is_distance=True) == math.inf
        assert between((0, 100), values, 0, is_distance=True) == values[0]
    assert between((0, 100), (0.0, 1.0), 50, is_distance=True) == 0.5


def test_a_long_curve_is_thinned_but_keeps_its_end() -> None:
    curve = curve_of([*points(500), Point("eval/fid", 500 * 6400, math.inf, 0)])
    text = encode_curve(curve)
    assert len(text) < 5000
    back = decode_curve(text)
    assert back.nimg[-1] == 500 * 6400
    assert back.scores["fid"][-1] == math.inf
    assert len(back.nimg) > 50
    assert set(back.nimg) <= set(curve.nimg)


@pytest.mark.parametrize("text", ["", "[]", '{"nimg":[1]}', '{"nimg":1,"seconds":2}'])
def test_another_tag_is_no_curve(text: str) -> None:
    with pytest.raises(ValueError, match=r"curve|Expecting"):
        decode_curve(text)


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


def test_drift_costs_the_scores_no_evaluation() -> None:
    """100 evaluations of FID and alignment fit a tag; with eight ratios beside them they do not."""
    alone, both = curve_tags(curve_of(points(100))), curve_tags(curve_of(drifting(100)))
    assert both[CURVE_TAG] == alone[CURVE_TAG]
    assert len(decode_curve(both[DRIFT_TAG]).nimg) < 100
    assert all(len(text) < 5000 for text in both.values())
    back = read_curve(both)
    assert back is not None
    assert back.nimg == tuple(range(0, 640_000, 6400))
    assert back.scores["fid"][57] == pytest.approx(40 / 58 + 1 / 3, rel=1e-5)
    assert back.last("saturation") == pytest.approx(1 - 0.0123456 * 99, rel=1e-5)
    kept = [value for value in back.scores["saturation"] if value == value]
    assert 1 < len(kept) < 100
    # Between the evaluations that its tag keeps, drift is what lies between them.
    assert back.at_nimg("saturation", 6400 * 50) == pytest.approx(1 - 0.0123456 * 50, rel=1e-4)


def test_a_run_that_measures_drift_alone_has_a_curve_of_it() -> None:
    tags = curve_tags(curve_of([Point("drift/contrast", 6400, 0.9, 0)]))
    curve = read_curve(tags)
    assert curve is not None
    assert (curve.nimg, curve.scores) == ((6400,), {"contrast": (0.9,)})
    assert CURVE_TAG in tags  # which says that the run was evaluated
