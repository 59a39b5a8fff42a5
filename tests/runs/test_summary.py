"""A run in one line: the same as its whole journal tells, read from the end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.populate import Shape, write_folders
from workbench.errors import RequestError, WorkbenchError
from workbench.launching.progress import RunProgress
from workbench.runs.summary import summarize
from workbench.runs.tracking import TrackerListener
from workbench.tracking import Tracker, read_curve, read_points
from workbench.tracking.outbox import Outbox
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.training.run_folder import RunFolder, all_runs, find_run
from workbench.workspace import Workspace, exclusive, open_workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One finished run and one whose process died."""
    workspace = open_workspace(tmp_path_factory.mktemp("summary") / "workspace")
    configs = [
        with_overrides(RunConfig(), [f"variant={variant}", "training.kimg=12.7"])
        for variant in ("done", "torn")
    ]
    write_folders(workspace, configs, {"torn": Shape(reached=0.6)})
    return workspace


def from_whole_journal(folder: RunFolder) -> dict[str, Any]:
    points = read_points(folder.path)
    last = {point.key: point.value for point in sorted(points, key=lambda point: point.step)}
    steps = [p.step for p in points if p.key.startswith(("train/", "eval/"))]
    return {
        "kimg": max(steps) / 1000,
        "total_kimg": folder.config().total_nimg / 1000,
        "fid": last["eval/fid"],
        "alignment": last["eval/alignment"],
        "best": last["best/fid"],
    }


def test_the_end_of_the_journal_tells_as_much_as_all_of_it(place: Workspace) -> None:
    for folder in all_runs(place):
        found = summarize(folder)
        assert found.items() >= from_whole_journal(folder).items()
        assert found["run"] == folder.name
    states = {
        folder.name.split("/")[1][:4]: summarize(folder)["state"] for folder in all_runs(place)
    }
    assert states == {"done": "FINISHED", "torn": "INTERRUPTED"}


def test_states_of_a_run_that_is_not_finished(place: Workspace) -> None:
    (torn,) = [folder for folder in all_runs(place) if folder.path.name.startswith("torn")]
    with exclusive(torn.lock, "a run"):
        assert summarize(torn)["state"] == "RUNNING"
    spool = Outbox(torn.path)
    for outcome, status in (
        ("interrupted", "KILLED"),
        ("running", "RUNNING"),
        ("pruned", "KILLED"),
        ("running", "RUNNING"),
        ("failed", "FAILED"),
    ):
        spool.tags({"outcome": outcome})
        spool.status(status)
        expected = "interrupted" if outcome == "running" else outcome
        assert summarize(torn)["state"] == expected.upper()
    spool.journal.close()


def test_a_short_name_means_the_run_that_is_not_archived(place: Workspace) -> None:
    (torn,) = [folder for folder in all_runs(place) if folder.path.name.startswith("torn")]
    kept = torn.archive()
    assert kept is not None
    assert summarize(RunFolder(kept))["state"] == "ARCHIVED"
    assert find_run(place, "torn-seed0").path == kept  # nothing else has this name
    shutil.copytree(kept, torn.path)
    assert find_run(place, "torn-seed0").path == torn.path
    shutil.rmtree(kept)


def test_a_run_that_has_measured_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "experiment" / "run")
    folder.prepare(RunConfig())
    found = summarize(folder)
    assert (found["state"], found["kimg"], found["score"]) == ("INTERRUPTED", 0.0, None)
    folder.config_file.write_text('{"training": 3}')
    with pytest.raises(RequestError, match="is not a run's configuration"):
        summarize(folder)


def test_a_run_that_clip_judges_is_told_by_it_with_its_drift(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "experiment" / "run")
    folder.prepare(RunConfig())
    spool = Outbox(folder.path)
    heard = RunProgress(folder.path, 1280)
    # Nothing finite yet, so nothing says what judges.
    spool.metrics({"eval/fid": math.inf, "eval/clip": math.nan, "perf/kimg": 0.0}, 0)
    heard.refresh()
    assert heard.last_score == "FID inf"
    for nimg, clip in ((640, 0.31), (1280, 0.29)):
        values = {"eval/fid": 2.0, "eval/clip": clip, "best/clip": 0.31, "best/kimg": 0.64}
        spool.metrics({**values, "drift/saturation": 0.9}, nimg)
    spool.metrics({"table/student_4_fid": 2.0}, 1280)
    spool.journal.close()
    found = summarize(folder)
    assert (found["primary_metric"], found["score"], found["best"]) == ("clip", 0.29, 0.31)
    assert (found["fid"], found["saturation"], found["kimg"]) == (2.0, 0.9, 1.28)
    heard.refresh()
    assert (heard.scores, heard.last_score) == ([0.31, 0.29], "CLIP score 0.290")


def test_an_evaluation_writes_the_tags_that_its_curve_is_read_from(tmp_path: Path) -> None:
    """Anything that is no evaluation writes none."""
    written: list[dict[str, str]] = []

    class Recorder(Tracker):
        def set_tags(self, tags: Mapping[str, str]) -> None:
            written.append(dict(tags))

    listener = TrackerListener(Recorder(), tmp_path)
    listener.on_metrics(64, {"train/loss": 1.0})
    assert written == []
    for nimg, ratio in ((0, 1.0), (640, 0.9)):
        scores = {"eval/clip": 0.3, "drift/contrast": ratio, "perf/train_seconds": nimg / 64}
        listener.on_metrics(nimg, scores)
    assert len(written) == 2
    curve = read_curve(written[-1])
    assert curve is not None
    assert (curve.nimg, curve.seconds) == ((0, 640), (0.0, 10.0))
    assert curve.scores == {"clip": (0.3, 0.3), "contrast": (1.0, 0.9)}


def test_results_that_were_cut_off_are_one_clear_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for text in ("", '{"run": ', "[1]"):
        folder.results_file.write_text(text)
        with pytest.raises(WorkbenchError, match=r"results\.json is damaged"):
            folder.results()


def test_a_run_is_told_by_what_judges_it(tmp_path: Path) -> None:
    """Of points with a known truth there is no FID; only the last evaluation counts."""
    folder = RunFolder(tmp_path / "experiment" / "run")
    folder.prepare(RunConfig())
    spool = Outbox(folder.path)
    for nimg, distance, outliers in ((640, 0.2, 0.1), (1280, 0.3, 0.0)):
        values = {"eval/sliced_w2": distance, "eval/outliers": outliers, "best/sliced_w2": 0.2}
        spool.metrics(values, nimg)
    spool.journal.close()
    found = summarize(folder)
    assert found["primary_metric"] == "sliced_w2"
    assert (found["score"], found["best"], found["sliced_w2"]) == (0.3, 0.2, 0.3)
    assert found["outliers"] == 0.0
    assert "fid" not in found
