"""Changes after which an experiment's variants are equal are refused, with a way out."""

from __future__ import annotations

import pytest

from workbench.errors import RequestError
from workbench.registry import Experiment, get_experiment, make_plan


def refusal(name: str, *changes: str) -> str:
    with pytest.raises(RequestError) as refused:
        make_plan(get_experiment(name), changes)
    return str(refused.value)


def test_a_change_of_what_variants_differ_in_is_refused() -> None:
    text = refusal("nine_teachers", "teacher=digits-sd3", "training.kimg=2")
    assert text.startswith("--teacher digits-sd3 makes variants of nine_teachers equal")
    assert "sana-0.6b, sana-1.6b, sana-0.6b-trigflow and 6 more" in text
    way_out = "`workbench run nine_teachers --variant sd3-medium --set training.kimg=2`"
    assert way_out in text
    text = refusal("t_range", "method.t_range=[0.1,1]", "training.kimg=2")
    assert text.startswith("--set 'method.t_range=[0.1,1]' makes variants of t_range equal")
    single = "t_range --variant 0-1 --set 'method.t_range=[0.1,1]' --set training.kimg=2`"
    assert f"`workbench run {single}" in text


def test_a_group_of_settings_and_a_method_are_seen_too() -> None:
    assert "off, long-short-1.5, long-short-4.5 and 2 more" in refusal(
        "guidance", "method.guidance=zero-cfg"
    )
    # Trajectory distillation has no weighting, which is all that these differ in.
    changes = "evaluation.student_steps=[4]", "method.name=kd"
    told = refusal("weighting", *changes)
    assert told.startswith("method.weighting is a setting of method sid and ")
    assert told.endswith("this run's method is kd.")


def test_some_variants_that_are_left_equal_are_named_alone() -> None:
    variants = {
        "plain": {},
        "twin": {},
        "alpha": {"method.sid_alpha": 1.2},
        "steps": {"generator.steps": 2},
    }
    experiment = Experiment("asked", "Which?", "None.", variants)
    with pytest.raises(RequestError, match=r"question: plain, twin, alpha\. Variant alpha has"):
        make_plan(experiment, ["method.sid_alpha=1.2"])
    # Variants that were equal before, as these twins, are the file's own matter.
    assert list(make_plan(experiment, ["training.kimg=2"]).variants) == list(variants)


def test_a_variant_that_is_run_alone_may_become_another_one() -> None:
    changes = ["training.optimizers.generator.lr=1e-4", "training.kimg=819.2"]
    analytic = get_experiment("analytic")
    plan = make_plan(analytic, changes, ["sid"])
    assert plan.variants["sid"].training.optimizers["generator"].lr == 1e-4
    assert set(plan.variants) == set(analytic.variants)
    make_plan(analytic, changes, ["sid", "kd"])
    with pytest.raises(RequestError, match="sid, sid-lr-1e-4"):
        make_plan(analytic, changes, ["sid", "sid-lr-1e-4"])
