"""The registry of metrics: which way each improves, and whoever computes one agrees with it."""

from __future__ import annotations

import math

import pytest

from workbench.errors import RequestError
from workbench.evaluation import manifold
from workbench.evaluation.catalog import SAMPLE_METRICS, check_names
from workbench.evaluation.networks.known import KNOWN
from workbench.evaluation.truth import AXIS_SCORES, MODE_SCORES
from workbench.metrics import (
    DRIFT_METRICS,
    METRICS,
    best_of,
    first_distance,
    first_rising,
    in_order,
    metric_in,
    metric_info,
    primary_of,
    primary_of_most,
    score_of,
)


def test_half_a_target_is_as_far_from_it_as_twice() -> None:
    saturation = METRICS["saturation"]
    assert saturation.badness(0.5) == pytest.approx(saturation.badness(2.0)) == math.log(2)
    assert saturation.better(0.9, 0.85)
    assert saturation.better(1.1, 0.85)
    assert not saturation.better(0.0, 5.0)
    assert saturation.best([0.7, math.nan, 1.2, 2.0]) == 1.2


def test_values_improve_as_their_metric_says() -> None:
    assert METRICS["fid"].best([3.0, 2.0, math.inf]) == 2.0
    assert METRICS["clip"].best([0.2, 0.3, math.nan]) == 0.3
    assert METRICS["fid"].best([math.nan]) is None
    # The best std of a mode is the truth's, which every task has its own.
    assert METRICS["mode_std"].best([0.1, 0.2]) is None
    assert not METRICS["mode_std"].ranks


def test_names_of_what_was_logged_are_read() -> None:
    assert (score_of("eval/fid"), score_of("drift/contrast")) == ("fid", "contrast")
    assert (score_of("train/loss"), score_of("best/fid"), score_of("eval/")) == (None, None, None)
    assert (best_of("best/clip"), best_of("best/kimg"), best_of("eval/clip")) == (
        "clip",
        None,
        None,
    )
    keys = {
        "eval/fid": "fid",
        "best/fid_clip": "fid_clip",
        "table/student_4_fid": "fid",
        "table/teacher_50_ms_per_image": "ms_per_image",
        "evaluation/coco/fid_dinov2_4steps_0123abcd": "fid_dinov2",
    }
    assert {key: getattr(metric_in(key), "name", None) for key in keys} == keys
    assert metric_in("train/fidelity_loss") is None


def test_what_judged_a_run_is_what_it_logged_the_best_of() -> None:
    assert primary_of(["eval/fid", "eval/clip", "best/clip", "best/kimg"]) == "clip"
    assert primary_of(["drift/saturation", "best/saturation"]) == "saturation"
    assert primary_of(["eval/alignment", "eval/fid"]) == "fid"  # nothing finite yet
    assert primary_of(["train/loss", "drift/saturation", "best/kimg"]) is None
    one, other = ["best/clip"], ["best/fid"]
    assert primary_of_most([one, other, one, []]) == "clip"
    assert primary_of_most([one, other]) == "fid"
    assert primary_of_most([[]]) is None


def test_the_first_of_a_kind_is_the_registrys_first() -> None:
    names = ["alignment", "sliced_w2", "clip", "fid", "unheard_of"]
    assert in_order(names) == ["fid", "clip", "alignment", "sliced_w2", "unheard_of"]
    assert (first_distance(names), first_rising(names)) == ("fid", "clip")
    # KID is unbiased: it may be negative, and a logarithm has no place for it.
    assert (first_distance(["kid", "saturation"]), first_rising(["kid", "saturation"])) == (
        None,
        None,
    )


def test_whatever_computes_a_metric_is_registered() -> None:
    of_points = {*MODE_SCORES, *AXIS_SCORES, "sliced_w2"}
    known = {*SAMPLE_METRICS, *of_points, *DRIFT_METRICS, "ms_per_image"}
    assert known == set(METRICS)
    nearest = manifold.NEIGHBOURS + 1
    assert METRICS["precision"].reference_minimum.count == nearest  # type: ignore[union-attr]
    assert METRICS["recall"].minimum.count == nearest
    for weights in KNOWN.values():
        for name in weights.needed_by if weights.name != "inception" else ():
            assert weights.name in METRICS[name].weights or METRICS[name].network == weights.name


def test_a_metric_that_samples_alone_do_not_have_is_refused_as_such() -> None:
    check_names(["fid", "hpsv2"])
    with pytest.raises(RequestError, match="saturation is measured in runs alone"):
        check_names(["fid", "saturation"])
    with pytest.raises(RequestError, match=r"Unknown metric 'kidd'\. Did you mean 'kid'"):
        check_names(["kidd"])
    with pytest.raises(RequestError, match="Did you mean 'contrast'"):
        metric_info("contrats")
