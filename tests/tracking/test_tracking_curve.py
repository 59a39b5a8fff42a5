"""Evaluations as one tag: what is read back is what was logged, and it always fits."""

from __future__ import annotations

import math

import pytest

from workbench.tracking import Curve, Point, curve_of, decode_curve, encode_curve
from workbench.tracking.curve import between


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
