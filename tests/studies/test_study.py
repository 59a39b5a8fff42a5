"""A real study: Optuna's storage, tracked runs as trials."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.evaluation import load_or_train
from workbench.runs import RunRequest, all_runs
from workbench.studies import Choice, Integer, Real, StudySpec, check_space, run_study
from workbench.tracking import default_uri
from workbench.training.config import RunConfig, with_overrides
from workbench.workspace import open_workspace

SPACE = {"method.sid_alpha": Real(0.8, 1.4), "generator.noise": Choice(("fresh", "ddim"))}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"method.sidalpha": Real(0, 1)}, "Did you mean 'method.sid_alpha'"),
        ({"generator.steps": Integer(0, 4)}, "generator.steps"),
        ({"method.weighting": Choice(("1-t", "1-tt"))}, "Did you mean '1-t'"),
    ],
)
def test_a_wrong_space_is_refused_before_the_first_trial(space, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_space(space, RunConfig())


def test_trials_are_runs_and_the_study_continues_by_name(
    tmp_path: Path, digits_teacher_dir: Path
) -> None:
    workspace = open_workspace(tmp_path / "workspace")
    load_or_train(workspace.cache)
    base = with_overrides(
        RunConfig(teacher=str(digits_teacher_dir)),
        [
            "training.kimg=0.064",
            "training.batch_size=32",
            "evaluation.samples=60",
            "evaluation.teacher_steps=[2]",
            "evaluation.student_steps=[4]",
        ],
    )
    request = RunRequest(base, workspace, default_uri(workspace.root))
    reported: dict[int, float] = {}
    spec = StudySpec("small", base, SPACE)
    first = run_study(spec, request, 2, 0, reported.__setitem__)
    assert [trial.number for trial in first.trials] == [0, 1]
    again = run_study(spec, request, 1, 0, reported.__setitem__)
    assert [trial.state.name for trial in again.trials] == ["COMPLETE"] * 3

    runs = {run.name: run for run in all_runs(workspace)}
    for trial in again.trials:
        run = runs[trial.user_attrs["run"]]
        row = next(r for r in run.results()["table"] if r["model"] == "student")
        assert trial.value == row["fid"] == reported[trial.number]
        assert run.config().method.sid_alpha == pytest.approx(trial.params["method.sid_alpha"])
    assert again.best_value == min(reported.values())


def test_a_damaged_teacher_stops_the_study(tmp_path: Path, digits_teacher_dir: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(digits_teacher_dir, broken)
    (broken / "model_index.json").unlink()
    base = RunConfig(teacher=str(broken))
    workspace = open_workspace(tmp_path / "workspace")
    request = RunRequest(base, workspace, default_uri(workspace.root))
    with pytest.raises(RequestError, match="model_index"):
        run_study(StudySpec("broken", base, SPACE), request, 5, 0, lambda n, score: None)
