"""Imported scores: always kept, logged where there is a run; of what is refused nothing is kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.populate import populate
from workbench.errors import RequestError
from workbench.evaluation.external import Export, ExternalScores, get_benchmark
from workbench.hashing import fingerprint
from workbench.reports import ScoreFiles
from workbench.reports.kept_evaluations import kept_benchmarks
from workbench.scoring.external import keep_scores
from workbench.scoring.external_scores import ExternalName
from workbench.tracking import default_uri, list_artifacts, list_runs
from workbench.training.config import RunConfig, ScheduleConfig, TrainingConfig
from workbench.training.run_folder import run_folder
from workbench.workspace import Workspace, open_workspace

CONFIG = RunConfig(training=TrainingConfig(kimg=6.4), schedule=ScheduleConfig(evaluate_kimg=6.4))


def scored(export: Export, value: float, results: str = "aa") -> ExternalScores:
    parts = {
        "benchmark": export.benchmark.name,
        "results": results,
        "prompts": "pp",
        "samples": export.samples,
        "sampler": dict(export.sampler),
    }
    values = {"geneval": value, "geneval/counting": value / 2}
    return ExternalScores(values, {**parts, "id": fingerprint(parts)})


def exported(model: str, nimg: int | None = None, **sampler: str) -> Export:
    benchmark = get_benchmark("geneval")
    how = {"steps": "4", "seed": "0", **sampler}
    return Export(Path("images"), benchmark, (), 4, model, how, nimg)


@pytest.fixture
def workspace(tmp_path: Path, fresh_store: Path) -> Workspace:
    made = open_workspace(tmp_path / "w")
    shutil.copy(fresh_store, made.root / "mlflow.db")
    return made


def test_a_teachers_scores_are_kept(workspace: Workspace) -> None:
    export = exported("sd3-medium", teacher="sd3-medium (ff00)", cfg_scale="4.5")
    kept = keep_scores(workspace, export, scored(export, 0.6))
    assert (kept.run, kept.undelivered) == (None, 0)
    assert kept.file.parent == workspace.root / "evaluations" / "sd3-medium"
    (found,) = kept_benchmarks(workspace, "sd3-medium")
    assert (found.score, found.steps, found.kimg) == (0.6, 4, None)
    assert found.values["geneval/counting"] == 0.3
    assert found.is_of("ff00", 4.5)
    assert not found.is_of("ff00", 1.0)
    assert not found.is_of("ff01", 4.5)


def test_the_protocol_is_all_but_the_model_and_its_steps(workspace: Workspace) -> None:
    def protocol(**sampler: str) -> str:
        export = exported("a", **{"weights": "w", **sampler})
        keep_scores(workspace, export, scored(export, 0.6, results=str(sampler)))
        return kept_benchmarks(workspace, "a")[-1].protocol

    first = protocol()
    assert protocol(weights="x", steps="2", cfg_scale="3", noise="ddim") == first
    assert protocol(seed="1") != first


def test_a_foreign_students_scores_are_kept_and_a_runs_own_are_logged_too(
    workspace: Workspace,
) -> None:
    uri = default_uri(workspace.root)
    populate(uri, workspace, [CONFIG])
    run = run_folder(workspace, CONFIG)
    foreign = exported("student/", 6400, run="elsewhere/v-seed0-0123")
    assert keep_scores(workspace, foreign, scored(foreign, 0.5)).run is None
    assert len(kept_benchmarks(workspace, "student/")) == 1

    export = exported("student/", 6400, run=run.name, steps="2")
    kept = keep_scores(workspace, export, scored(export, 0.7))
    assert (kept.run, kept.undelivered) == (run.name, 0)
    row = next(row for row in list_runs(uri, CONFIG.experiment))
    name = ExternalName("geneval", 2)
    assert ExternalName.parse(name.key) == name
    assert row.metrics[name.key] == 0.7
    assert row.metrics["eval/geneval-2steps/counting"] == 0.35
    assert list_artifacts(uri, row.run_id, "external") == [f"external/{kept.file.name}"]
    files = [ScoreFiles(uri, workspace), ScoreFiles(uri, open_workspace(workspace.root / "new"))]
    for place in files:  # from the workspace, and from the store alone
        found = place.find_benchmark(row, name)
        assert found is not None
        assert (found.score, found.kimg) == (0.7, 6.4)

    again = keep_scores(workspace, export, scored(export, 0.7))  # the same again changes nothing
    assert again.file == kept.file
    with pytest.raises(RequestError, match="a point never changes"):
        keep_scores(workspace, export, scored(export, 0.9, results="bb"))
    assert [file.score for file in kept_benchmarks(workspace, run.name)] == [0.7]
    own = replace(export, sampler={**export.sampler, "steps": "4"})
    keep_scores(workspace, own, scored(own, 0.8))
    assert next(iter(list_runs(uri, CONFIG.experiment))).metrics["eval/geneval"] == 0.8


def test_other_metrics_are_no_benchmarks() -> None:
    names = ("eval/fid", "eval/geneval/counting", "eval/geneval-2steps/counting", "best/geneval")
    assert [ExternalName.parse(name) for name in names] == [None] * 4
