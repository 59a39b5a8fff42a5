"""What a study may improve, which way, and what Optuna and people are told of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from tests.studies.conftest import PACE, MakeTrials
from workbench.errors import RequestError
from workbench.metrics import METRICS, Goal
from workbench.registry import get_experiment
from workbench.runs.spec import RunSpec
from workbench.studies import Choice, StudySettings, StudySpec
from workbench.studies.figures import history_frame, trials_frame
from workbench.studies.listener import TrialAddress, TrialListener
from workbench.studies.objectives import (
    UnusableScoreError,
    get_objective,
    measured,
    student_scores,
)
from workbench.studies.overview import study_view
from workbench.studies.parent import describe
from workbench.studies.spec import differences, spec_from_json
from workbench.studies.trial import RUNS
from workbench.studies.trials import StudyTrials, TrialStatus, status_of
from workbench.studies.worker import work
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.training.recipes import run_config
from workbench.training.run_folder import find_run

ALPHA = "method.sid_alpha"
CLIP = ("task=prompts", 'evaluation.metrics=["clip","pickscore"]')


def named(base: RunConfig, *objectives: str, **settings: Any) -> StudySpec:
    chosen = StudySettings(objectives=objectives, **settings)
    return StudySpec("s", "quickstart", base, {ALPHA: Choice((0.8, 1.0, 1.2))}, chosen)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [((), "fid"), (CLIP, "clip"), ((*CLIP, "evaluation.primary=pickscore"), "pickscore")],
)
def test_a_study_improves_what_judges_its_runs_unless_told(
    assignments: tuple[str, ...], expected: str
) -> None:
    spec = named(run_config(*assignments))
    assert spec.to_json()["settings"]["objectives"] == [expected]
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec
    spec.check()


def test_each_metric_of_the_runs_has_its_own_direction() -> None:
    base = run_config(*CLIP)
    assert [m for m in measured(base) if METRICS[m].group == "eval"] == ["clip", "pickscore"]
    directions = {name: get_objective(name).direction for name in ("fid", "cmmd", "ms_per_image")}
    assert set(directions.values()) == {"minimize"}
    for name in ("clip", "alignment", "recall", "aesthetic", "hpsv2"):
        assert get_objective(name).direction == "maximize"
    for name in measured(base):  # whatever the direction, the better score is told as the better
        objective, info = get_objective(name), METRICS[name]
        one, other = (1.1, 0.5) if info.goal is not Goal.LOWER else (0.5, 1.1)
        assert info.better(one, other)
        assert objective.better(objective.told(one), objective.told(other))
    assert get_objective("saturation").title == "saturation (nearest to 1)"
    assert get_objective("saturation").told(0.5) == pytest.approx(math.log(2))
    assert get_objective("saturation").told(2.0) == pytest.approx(math.log(2))
    keys = {name: get_objective(name).metric for name in ("clip", "saturation", "ms_per_image")}
    assert keys == {"clip": "eval/clip", "saturation": "drift/saturation", "ms_per_image": None}


@pytest.mark.parametrize(
    ("assignments", "objectives", "message"),
    [
        (("task=prompts",), (), "--objective: saturation, .*pixel_diversity"),
        ((), ("clip",), "do not measure clip. --objective takes one of fid, alignment, saturation"),
        ((), ("clipp",), "Unknown objective 'clipp'. Did you mean 'clip'"),
        (("teacher=analytic-ring-8",), ("saturation",), "do not measure saturation"),
        (("teacher=analytic-ring-8",), ("mode_std",), "mode_std cannot be an objective: which"),
        (("teacher=analytic-ring-8", "evaluation.primary=mode_std"), (), "mode_std cannot be"),
    ],
)
def test_what_the_runs_do_not_measure_is_refused_in_one_line(
    assignments: tuple[str, ...], objectives: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        named(run_config(*assignments), *objectives).check()
    assert "\n" not in str(caught.value)
    assert objectives or "evaluation.metrics" in str(caught.value) or "mode_std" in message


def test_a_study_that_an_earlier_version_stored_loads_and_continues() -> None:
    stored = json.loads((Path(__file__).parent / "stored" / "format_1.json").read_text())
    spec = spec_from_json(stored["spec"])
    assert spec.settings.objectives == ("fid",)
    assert spec.base.variant_fingerprint() == stored["variant_fingerprint"]
    spec.check()
    quickstart = get_experiment("quickstart")
    resolved = quickstart.resolve()
    # But for what has got another default since.
    before = ("evaluation.seed=0", "evaluation.fresh_seeds=0", "training.ema_rampup=null")
    config = with_overrides(resolved.config, before)
    assert config.variant_fingerprint() == stored["variant_fingerprint"]
    # Its space was the experiment's, and two more.
    space = {**quickstart.space_on(resolved), **dict(list(spec.space.items())[-2:])}
    assert len(space) == 6
    asked = StudySpec("quickstart", "quickstart", config, space, StudySettings(seeds=(0, 1)))
    assert list(differences(spec, asked)) == []


def test_scores_come_from_the_students_row_and_from_the_drift() -> None:
    nan = float("nan")
    table = [
        {"model": "teacher", "steps": 4, "fid": 0.1, "clip": 0.9, "ms_per_image": 1.0},
        {"model": "student", "steps": 1, "fid": 0.9, "clip": 0.2, "ms_per_image": 1.0},
        {"model": "student", "steps": 4, "fid": 0.5, "clip": nan, "ms_per_image": 1.0, "nfe": 4},
    ]
    results = {"table": table, "drift": {"saturation": {"value": 1.25}, "contrast": {"value": 0.0}}}
    needed = [get_objective("fid"), get_objective("saturation")]
    assert student_scores(results, 4, needed) == {
        "fid": 0.5,
        "ms_per_image": 1.0,
        "saturation": 1.25,
        "contrast": 0.0,
    }
    for name, message in (
        ("clip", "clip is nan"),
        ("kid", "kid is not in the run's results"),
        ("contrast", "contrast is 0.0"),  # infinitely far from 1
    ):
        with pytest.raises(UnusableScoreError, match=message):
            student_scores(results, 4, [get_objective(name)])


def complete(trials: StudyTrials, *scores: float, name: str) -> None:
    """Made-up complete trials, told as a worker tells them."""
    objective = get_objective(name)
    for place, score in enumerate(scores):
        trials.study.add_trial(
            optuna.create_trial(
                params={ALPHA: 0.9 + place / 10},
                distributions={ALPHA: FloatDistribution(0.8, 1.4)},
                value=objective.told(score),
                user_attrs={name: score},
            )
        )


@pytest.mark.parametrize(
    ("name", "best", "running"),
    [
        ("saturation", 2, [0.4, 0.4, 0.9, 0.9]),
        ("fid", 0, [0.4, 0.4, 0.4, 0.4]),
        ("alignment", 1, [0.4, 3.0, 3.0, 3.0]),
    ],
)
def test_best_trial_and_history_follow_the_metric(
    trials_of: MakeTrials, name: str, best: int, running: list[float]
) -> None:
    """0.9 is nearer to 1 than 1.2; 3 is as far from it as a third, farther than 0.4."""
    trials = trials_of(settings=PACE.with_changes({"objectives": (name,)}))
    complete(trials, 0.4, 3.0, 0.9, 1.2, name=name)
    found = trials.all()
    now = study_view(trials)
    assert [trial.number for trial in now.best] == [best]
    assert trials.study.best_trial.number == best
    assert now.best[0].values == {name: (0.4, 3.0, 0.9, 1.2)[best]}
    assert now.history == (0.4, 3.0, 0.9, 1.2)
    assert now.objectives == {name: METRICS[name].goal.value}
    assert list(history_frame(trials.spec, found, 0)["best"]) == running
    assert list(trials_frame(trials.spec, found)[name]) == [0.4, 3.0, 0.9, 1.2]
    told = describe(trials.spec, found)
    assert get_objective(name).aim in told
    assert f"Best: trial {best}, {now.best[0].values[name]:.4g}." in told


def test_the_pareto_front_weighs_a_target_as_a_distance(trials_of: MakeTrials) -> None:
    names = ("alignment", "contrast")
    trials = trials_of(settings=PACE.with_changes({"objectives": names}))
    for alignment, contrast in ((0.9, 2.0), (0.8, 0.8), (0.7, 1.4), (0.6, 1.01)):
        scores = dict(zip(names, (alignment, contrast), strict=True))
        trials.study.add_trial(
            optuna.create_trial(
                params={ALPHA: alignment + 0.2},
                distributions={ALPHA: FloatDistribution(0.8, 1.4)},
                values=[get_objective(n).told(score) for n, score in scores.items()],
                user_attrs=scores,
            )
        )
    now = study_view(trials)
    assert [trial.number for trial in now.best] == [0, 1, 3]  # 2 is beaten by 1 in both


@pytest.mark.parametrize(("name", "told"), [("alignment", 0.75), ("saturation", math.log(2))])
def test_a_run_reports_the_objective_as_it_is_told(
    trials_of: MakeTrials, name: str, told: float
) -> None:
    trials = trials_of(settings=PACE.with_changes({"objectives": (name,)}))
    trials.extend(1)
    lease = trials.lease()
    assert lease is not None
    address = TrialAddress(trials.storage.url, trials.spec, lease.number, lease.trial_id, 0)
    listener = TrialListener(address)
    every = trials.spec.rungs.every
    listener.on_metrics(0, {"eval/alignment": 0.1, "drift/saturation": 1.0})
    listener.on_metrics(every, {"eval/fid": 3.0})
    listener.on_metrics(every, {"eval/alignment": 0.75, "drift/saturation": 0.5})
    listener.on_end()
    (trial,) = trials.all()
    assert trial.intermediate_values == {every: pytest.approx(told)}


def test_a_study_that_maximizes_finds_the_highest(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    """Real runs, of learning rates with which the students end apart."""
    lr = "training.optimizers.generator.lr"
    settings = PACE.with_changes({"objectives": ("alignment",), "pruner": "none"})
    changes = ["training.kimg=0.064", "evaluation.samples=200"]
    trials = trials_of(with_overrides(base, changes), settings, {lr: Choice((1e-6, 1e-2))})
    trials.extend(2)
    for rate in (1e-6, 1e-2):
        trials.enqueue({lr: rate})
    work(trials.storage.url, trials.spec.name, request_of)
    found = trials.all()
    assert {status_of(trial) for trial in found} == {TrialStatus.COMPLETE}
    scores = {}
    for trial in found:
        (name,) = trial.user_attrs[RUNS]
        table = find_run(request_of.workspace, name).results()["table"]
        (scores[trial.number],) = (r["alignment"] for r in table if r["model"] == "student")
    assert scores[0] != scores[1]
    (best,) = study_view(trials).best
    assert best.values == {"alignment": max(scores.values())}
    assert best.number == max(scores, key=scores.__getitem__)
    assert trials.study.best_trial.number == best.number


def test_a_run_without_metrics_is_judged_by_its_drift() -> None:
    results = {"table": [], "drift": {"saturation": {"value": 1.25}}}
    objectives = [get_objective("saturation")]
    assert student_scores(results, 4, objectives) == {"saturation": 1.25}
