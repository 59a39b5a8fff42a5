"""Search spaces: what is refused before the first trial, and what samplers then draw."""

from __future__ import annotations

import json
import warnings

import pytest

from workbench.errors import RequestError
from workbench.studies import Choice, Integer, Real, SearchSpace, StudySettings, StudySpec
from workbench.studies.check import check_space, read_point
from workbench.studies.samplers import SAMPLERS, calm_optuna, make_sampler, trial_seed
from workbench.studies.space import at_point, matters, suggest
from workbench.studies.spec import differences, spec_from_json
from workbench.training.recipes import run_config

CONDITIONAL: SearchSpace = {
    "method.weighting": Choice(("1/t", "sid", "1-t")),
    "training.optimizers.generator.lr": Real(1e-4, 2e-3, log=True),
    "generator.steps": Integer(2, 8, step=2),
    "method.t_range": Choice(((0.02, 0.98), (0.1, 0.9))),
    "method.sid_alpha": Real(0.8, 1.4, when={"method.weighting": ("sid", "1-t")}),
    "training.gradient_checkpointing": Choice((False, True), when={"generator.steps": (2, 4)}),
}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to search"),
        ({"method.sidalpha": Real(0, 1)}, "Did you mean 'method.sid_alpha'"),
        ({"generator.steps": Integer(0, 4)}, "generator.steps = 0.*generator.steps"),
        ({"method.weighting": Choice(("1-t", "1-tt"))}, "1-tt.*Did you mean '1-t'"),
        ({"method.t_range": Choice(((0.1, 0.9), (0.9, 0.1)))}, r"\[0.9, 0.1\]"),
        ({"method.sid_alpha": Real(1.4, 0.8)}, "1.4 is above the upper end 0.8"),
        ({"method.sid_alpha": Real(0.8, float("inf"))}, "finite"),
        ({"training.optimizers.generator.lr": Real(0.0, 1.0, log=True)}, "above 0"),
        ({"training.batch_size": Integer(32, 100, step=32)}, "step of 32"),
        ({"generator.steps": Real(1.0, 8.0)}, "valid integer"),
        ({"generator.noise": Choice(())}, "at least one value"),
        ({"generator.steps": Choice((4, 4))}, "4 is there twice"),
        ({"seed": Integer(0, 9)}, "sets seed"),
        ({"evaluation.samples": Integer(100, 900)}, "cannot be compared"),
        (
            {"method.sid_alpha": Real(0.8, 1.4, when={"method.weightin": ("sid",)})},
            "Unknown key in the condition of method.sid_alpha 'method.weightin'",
        ),
        (
            {
                "method.sid_alpha": Real(0.8, 1.4, when={"method.weighting": ("sid",)}),
                "method.weighting": Choice(("sid", "1-t")),
            },
            "must come before it",
        ),
        (
            {
                "method.weighting": Choice(("sid", "1-t")),
                "method.sid_alpha": Real(0.8, 1.4, when={"method.weighting": ("1/t",)}),
            },
            r"depends on method.weighting = 1/t, but it is sid \| 1-t",
        ),
        (
            {
                "method.sid_alpha": Real(0.8, 1.4),
                "generator.steps": Integer(1, 4, when={"method.sid_alpha": (1.0,)}),
            },
            "never exactly",
        ),
        (  # each of them is fine alone
            {
                "prompts.source": Choice(("digits", "captions.jsonl")),
                "prompts.column": Choice((None, "text")),
            },
            "prompts.source = digits, prompts.column = text",
        ),
    ],
)
def test_a_wrong_space_is_refused_before_the_first_trial(space, message: str) -> None:
    base = run_config("prompts.source=captions.jsonl")
    with pytest.raises(RequestError, match=message):
        check_space(space, base)


def test_a_condition_keeps_apart_what_does_not_go_together() -> None:
    base = run_config("prompts.source=captions.jsonl")
    apart = {"prompts.source": ("captions.jsonl",)}
    check_space(
        {
            "prompts.source": Choice(("digits", "captions.jsonl")),
            "prompts.column": Choice((None, "text"), when=apart),
        },
        base,
    )


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        *((name, ("fid",)) for name in sorted(SAMPLERS)),
        # CMA-ES knows one objective only; StudySpec.check refuses more.
        *((name, ("fid", "alignment")) for name in sorted(SAMPLERS) if name != "cmaes"),
    ],
)
def test_every_sampler_draws_points_that_make_runs(name: str, objectives) -> None:
    """Conditions hold, values are stored as written, and each trial has a seed of its own."""
    import optuna

    with warnings.catch_warnings(action="error"), calm_optuna():
        study = optuna.create_study(directions=["minimize"] * len(objectives))
        drawn = []
        for number in range(13):
            study.sampler = make_sampler(name, trial_seed(0, number))
            trial = study.ask()
            point = suggest(CONDITIONAL, trial)
            config = at_point(run_config(), point)
            assert [key for key, d in CONDITIONAL.items() if matters(d, point)] == list(point)
            assert ("method.sid_alpha" in point) == (point["method.weighting"] != "1/t")
            assert list(config.method.t_range) in ([0.02, 0.98], [0.1, 0.9])
            assert trial.params == point
            score = (config.training.optimizers["generator"].lr - 1e-3) ** 2
            study.tell(trial, [score] * len(objectives))
            drawn.append(tuple(point.values()))
    assert len(set(drawn)) == len(drawn)
    assert {point[0] for point in drawn} >= {"1/t", "sid"}


def test_a_point_of_a_persons_own() -> None:
    base = run_config()
    point = read_point(
        CONDITIONAL, base, ["method.t_range=[0.1,0.9]", "generator.steps=4", "method.weighting=1/t"]
    )
    assert point == {
        "method.weighting": "1/t",
        "generator.steps": 4,
        "method.t_range": "[0.1, 0.9]",
    }
    for assignments, message in (
        (["method.sid_alfa=1"], "Did you mean 'method.sid_alpha'"),
        (["generator.steps=3"], "3 is outside the search space's 2 .. 8 by 2"),
        (["method.weighting=t"], r"outside the search space's 1/t \| sid \| 1-t"),
        (["method.weighting=1/t", "method.sid_alpha=1"], "set that too"),
        (["method.weighting"], "KEY=VALUE"),
    ):
        with pytest.raises(RequestError, match=message):
            read_point(CONDITIONAL, base, assignments)


def test_a_spec_is_what_its_record_says_and_differences_are_named() -> None:
    settings = StudySettings(seeds=(0, 1), pruner="hyperband")
    spec = StudySpec("s", "quickstart", run_config(), CONDITIONAL, settings)
    again = spec_from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert list(again.space) == list(spec.space)
    other = StudySpec(
        "s",
        "quickstart",
        run_config("training.kimg=6.4", "experiment=other"),
        {**CONDITIONAL, "method.sid_alpha": Real(0.8, 1.5)},
        settings.with_changes({"objectives": ("alignment",), "retries": 9}),
    )
    assert list(differences(spec, other)) == [
        "objectives: ['fid'] -> ['alignment']",
        "space method.sid_alpha: real 0.8 .. 1.4, where method.weighting is sid | 1-t -> "
        "real 0.8 .. 1.5",
        "training.kimg: 12.8 -> 6.4",
    ]


@pytest.mark.parametrize(
    ("settings", "space", "message"),
    [
        ({"objectives": ("fidd",)}, CONDITIONAL, "Unknown objective 'fidd'. Did you mean 'fid'"),
        ({"sampler": "tpee"}, CONDITIONAL, "Unknown sampler 'tpee'. Did you mean 'tpe'"),
        ({"pruner": "mean"}, CONDITIONAL, "Unknown pruner 'mean'. Did you mean 'median'"),
        ({"seeds": (0, 0)}, CONDITIONAL, "names one twice"),
        ({"grace_s": 5}, CONDITIONAL, "grace_s must be longer"),
        ({"pruner": "wilcoxon"}, CONDITIONAL, "at least 5 seeds"),
        ({"pruner": "median", "objectives": ("fid", "alignment")}, CONDITIONAL, "needs one"),
        ({"pruner": "median", "objectives": ("ms_per_image",)}, CONDITIONAL, "only at its end"),
        ({"sampler": "cmaes", "objectives": ("fid", "alignment")}, CONDITIONAL, "needs one"),
        (
            {"sampler": "cmaes"},
            {"generator.noise": Choice(("fresh", "ddim")), "generator.steps": Integer(1, 4)},
            "this space has 1",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(settings, space, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        StudySpec(
            "s", "quickstart", run_config(), space, StudySettings().with_changes(settings)
        ).check()


def test_pruning_is_the_default_where_a_run_can_be_judged_early() -> None:
    def pruner(*assignments: str, **settings) -> str:
        base = run_config(*assignments)
        return StudySpec("s", "e", base, CONDITIONAL, StudySettings(**settings)).pruner

    assert pruner() == "median"
    assert pruner("training.kimg=3.2") == "none"  # its only evaluation is its last
    assert pruner(objectives=("fid", "alignment")) == "none"
    assert pruner(objectives=("ms_per_image",)) == "none"
