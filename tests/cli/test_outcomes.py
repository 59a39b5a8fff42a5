"""What `run` shows of finished runs, whatever judged them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.populate import write_folders
from workbench.cli.follow_up import follow_up
from workbench.cli.outcomes import show_outcomes
from workbench.cli.run import _figures
from workbench.runs.execution import RunOutcome
from workbench.tracking import default_uri
from workbench.training.config import RunConfig, ScheduleConfig, TrainingConfig
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.run_folder import RunFolder, judged_by, run_folder
from workbench.workspace import Workspace, open_workspace


def row(model: str, steps: int, **scores: float) -> dict[str, Any]:
    return {"model": model, "steps": steps, "nfe": steps, **scores, "ms_per_image": 1.5}


def config(seed: int, *metrics: str, primary: str | None = None) -> RunConfig:
    return RunConfig(
        experiment="e",
        seed=seed,
        evaluation=EvaluationConfig(reference="coco", metrics=metrics, primary=primary),
        training=TrainingConfig(kimg=12.8),
        schedule=ScheduleConfig(evaluate_kimg=6.4),
    )


def shown(
    place: Workspace, capsys: pytest.CaptureFixture[str], **results: Any
) -> tuple[list[str], str]:
    """The lines of two runs with equal results, and the title above them."""
    outcomes = []
    for seed in (0, 1):
        folder = RunFolder(place.runs / "e" / str(seed))
        folder.prepare(config(seed))
        outcomes.append(RunOutcome(folder, {"run": f"e/{seed}", **results}, trained=True))
    show_outcomes(outcomes, [], place, "sqlite://")
    lines = capsys.readouterr().out.splitlines()
    heads = next(line for line in lines if "variant" in line)
    return [cell.strip() for cell in heads.strip("┃").split("┃")], lines[0]


def test_several_runs_are_told_by_what_judged_them_and_a_score_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = open_workspace(tmp_path / "w")
    table = [
        row("teacher", 50, fid=2.0, kid=0.1, clip=0.3),
        row("student", 4, fid=3.0, kid=0.2, clip=0.29),
    ]
    columns, title = shown(place, capsys, table=table, primary_metric="clip")
    assert title == "e: CLIP score by model and steps"
    assert columns == ["variant", "seed", "teacher 50", "student 4", "FID"]
    columns, title = shown(place, capsys, table=table, headline="fid")
    assert (title, columns[-1]) == ("e: FID by model and steps", "CLIP score")
    columns, title = shown(
        place, capsys, table=[row("teacher", 50), row("student", 4)], primary_metric=None
    )
    assert title == "e: ms/image by model and steps"
    assert columns == ["variant", "seed", "teacher 50", "student 4"]


def test_results_say_what_judged_the_run_by_its_name_of_any_time() -> None:
    assert judged_by({"primary_metric": "clip"}) == "clip"
    assert judged_by({"primary_metric": None}) is None
    assert judged_by({"headline": "sliced_w2"}) == "sliced_w2"
    assert judged_by({}) == "fid"


@pytest.mark.parametrize(
    ("metrics", "primary", "drawn"),
    [(("fid", "clip"), "clip", True), (("clip",), None, False)],
)
def test_runs_that_share_a_distance_are_drawn_together(
    tmp_path: Path, metrics: tuple[str, ...], primary: str | None, drawn: bool
) -> None:
    place = open_workspace(tmp_path / "w")
    configs = [config(seed, *metrics, primary=primary) for seed in (0, 1)]
    write_folders(place, configs)
    table = [row("student", 4, **dict.fromkeys(metrics, 1.0))]
    outcomes = [
        RunOutcome(run_folder(place, each), {"table": table, "figures": [f"own{each.seed}"]}, True)
        for each in configs
    ]
    files = _figures(outcomes, place)
    if not drawn:
        assert files == ["own0", "own1"]
        return
    assert [Path(file).name for file in files] == ["e.png", "e.svg", "e.csv", "e_teacher.csv"]
    assert all(Path(file).is_file() for file in files)


def test_commands_to_go_on_with_name_the_store_unless_they_find_it_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Workspace(tmp_path / "my work")
    own, other = default_uri(place.root), "postgresql://ada:secret@host/mlflow"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bare = f"workbench ui --experiment q --workspace '{place.root}'"
    named = f"{bare} --tracking-uri 'postgresql://ada:***@host/mlflow'"
    assert follow_up(place, own, "ui", "--experiment", "q").endswith(bare)
    assert follow_up(place, other, "ui", "--experiment", "q").endswith(named)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert follow_up(place, other, "ui", "--experiment", "q").endswith(bare)
    assert "--tracking-uri" in follow_up(place, own, "ui")


def test_the_end_of_a_run_opens_the_store_that_it_was_tracked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    row = {"model": "teacher", "steps": 4, "nfe": 4, "ms_per_image": 1.0, "fid": 0.5}
    folder = RunFolder(tmp_path / "runs" / "q" / "default-seed0")
    outcome = RunOutcome(folder, {"run": "q/default-seed0", "table": [row]}, trained=True)
    show_outcomes([outcome], [], Workspace(tmp_path), "http://host:5000")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "in the browser" in x]
    assert line.endswith(f" --workspace {tmp_path} --tracking-uri http://host:5000")
