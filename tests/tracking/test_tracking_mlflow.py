"""The tracker against a real SQLite store."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import PIL.Image
import pytest
import tracking_victim

import workbench.tracking.mlflow_tracker as tracker_module
from workbench.errors import RequestError, WorkbenchError
from workbench.tracking import (
    DeletedRunError,
    InputData,
    MlflowTracker,
    RunIdentity,
    RunStatus,
    UploaderSettings,
    add_later,
    default_uri,
    end_later,
    journal_path,
    last_status,
    list_artifacts,
    list_runs,
    load_record,
    log_files,
    read_operations,
    read_points,
    sync,
)
from workbench.tracking.outbox import Outbox
from workbench.tracking.record import RunRecord, save_record

IDENTITY = RunIdentity("digits", "sid-0", {"training.batch_size": "128"}, {"method": "sid"})


def test_everything_a_run_says_is_in_the_store_once(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], workspace: Path
) -> None:
    figure = workspace / "fid.csv"
    figure.write_text("kimg,fid\n")
    params = {f"training.key_{index}": str(index) for index in range(230)} | {"long": "x" * 7000}
    identity = RunIdentity("digits", "sid-0", params, {"method": "sid"}, "A description.")
    tracker = track(identity)
    for step in range(1500):
        tracker.log_metrics({"train/loss": step / 7, "perf/images_per_s": 350.0}, step * 128)
    tracker.log_metrics({"odd": math.nan}, 0)
    tracker.log_metrics({"odd": -math.inf}, 1)
    tracker.log_image("grid/student", PIL.Image.new("RGB", (300, 40), "red"), 128)
    tracker.log_artifact(figure, "figures")
    figure.write_text("changed afterwards")
    tracker.log_inputs(InputData.of_prompts("digit prompts", ["one", "zwei ü"], "/data/prompts"))
    tracker.set_tags({"device": "cpu"})
    assert tracker.finish("FINISHED") == 0

    run = stored()
    assert run.points("train/loss") == [(step * 128, step / 7) for step in range(1500)]
    assert len(run.points("perf/images_per_s")) == 1500
    (_, first), (_, second) = run.points("odd")
    assert math.isnan(first)
    assert second == -sys.float_info.max  # MLflow's way to hold an infinity
    assert run.run.info.status == "FINISHED"
    assert run.run.info.run_name == "sid-0"
    assert len(run.run.data.params) == 231
    assert run.run.data.params["training.key_229"] == "229"
    assert run.run.data.params["long"] == "x" * 6000
    tags = run.run.data.tags
    assert (tags["method"], tags["device"]) == ("sid", "cpu")
    assert tags["mlflow.note.content"] == "A description."
    assert tags["mlflow.loggedImages"] == "True"
    assert run.text("figures/fid.csv") == "kimg,fid\n"
    assert run.text("inputs/digit_prompts.txt") == "one\nzwei ü\n"
    assert [Path(path).suffix for path in sorted(run.files("images"))] == [".webp", ".png"]
    with PIL.Image.open(
        run.client.download_artifacts(
            run.run_id, next(p for p in run.files("images") if ".png" in p)
        )
    ) as image:
        assert image.size == (300, 40)


def test_images_are_named_as_mlflow_names_them(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any]
) -> None:
    image = PIL.Image.new("RGB", (300, 40), "red")
    tracker = track()
    tracker.log_image("grid/student", image, 128)
    tracker.finish("FINISHED")
    run = stored()
    ours = run.files("images")
    run.client.log_image(run.run_id, image, key="grid/student", step=128)
    theirs = set(run.files("images")) - set(ours)

    def pattern(name: str) -> str:
        return re.sub(r"timestamp\+\d{13}\+[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "T", name)

    assert sorted(map(pattern, ours)) == sorted(map(pattern, theirs))
    assert all("+T" in pattern(name) for name in ours)


def test_data_sets_are_inputs_that_mlflow_can_trace_back(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], workspace: Path
) -> None:
    import mlflow.data
    import numpy

    images = numpy.zeros((5, 8, 8), numpy.uint8)
    sources = ("https://name:pw@example.org/d", "/data/digits", "sklearn.datasets.load_digits")
    tracker = track()
    for index, source in enumerate(sources):
        tracker.log_inputs(InputData.of_images(f"set {index}", images, source, "teacher"))
    tracker.log_inputs(InputData.of_images("set 0", images, sources[0], "teacher"))
    tracker.finish("FINISHED")

    assert ":pw@" not in "".join(map(str, read_operations(journal_path(workspace / "run"))))
    inputs = sorted(stored().run.inputs.dataset_inputs, key=lambda item: item.dataset.name)
    assert [item.dataset.name for item in inputs] == ["set 0", "set 1", "set 2"]
    assert {item.tags[0].value for item in inputs} == {"teacher"}
    assert json.loads(inputs[0].dataset.profile) == {"num_rows": 5}
    http, local, code = (mlflow.data.get_source(item.dataset).to_dict() for item in inputs)
    assert http["url"] == "https://name:***@example.org/d"
    assert local["uri"] == "/data/digits"
    assert code["tags"] == {"mlflow.source.name": "sklearn.datasets.load_digits"}


def test_a_resume_continues_the_same_run(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any]
) -> None:
    first = track()
    first.log_metrics({"loss": 1.0}, 128)
    first.log_image("grid", PIL.Image.new("RGB", (4, 4)), 128)
    first.finish("KILLED")
    assert stored().run.info.status == "KILLED"

    changed = RunIdentity("digits", "sid-0", {"training.batch_size": "64"}, {"host": "other"})
    second = track(changed)
    assert second.flush(60)
    assert stored().run.info.status == "RUNNING"
    second.log_metrics({"loss": 5.0}, 128)
    second.log_metrics({"loss": 0.5}, 256)
    second.log_image("grid", PIL.Image.new("RGB", (4, 4)), 128)
    second.finish("FINISHED")

    run = stored()
    assert run.points("loss") == [(128, 1.0), (256, 0.5)]
    assert len(run.files("images")) == 2
    assert run.run.info.status == "FINISHED"
    assert run.run.data.params == {"training.batch_size": "128"}
    assert run.run.data.tags["method"] == "sid"
    assert run.run.data.tags["host"] == "other"
    assert len(run.client.search_runs([run.run.info.experiment_id])) == 1


def _killed(workspace: Path, counted: str, moment: int) -> int:
    command = [sys.executable, tracking_victim.__file__, str(workspace), counted, str(moment)]
    return subprocess.run(command, check=False, timeout=120).returncode


@pytest.mark.parametrize(
    ("counted", "moment"),
    [
        ("step", 37),  # between two deliveries
        ("save_record", 1),  # the run is created, its id not yet noted
        ("save_record", 6),  # sent, and not yet noted
    ],
)
def test_after_kill_nine_and_a_resume_every_point_is_there_once(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    workspace: Path,
    counted: str,
    moment: int,
) -> None:
    assert _killed(workspace, counted, moment) == -signal.SIGKILL
    reached = max((p.step for p in read_points(workspace / "run", ["loss"])), default=0)
    tracker = track(settings=UploaderSettings(0.01, 60.0, 0.01))
    # From the last checkpoint, some steps back: those are trained and logged a second time.
    tracking_victim.train(tracker, max(0, reached - 15))
    assert tracker.finish("FINISHED") == 0

    run = stored()
    assert run.points("loss") == [(step, 1 / (step + 1)) for step in range(60)]
    assert [step for step, _ in run.points("perf")] == list(range(60))
    assert run.twice() == []
    system = [step for step, _ in run.points("system/cpu_utilization_percentage")]
    assert system == list(range(len(system)))
    assert len(run.files("images")) == 2 * 3
    assert run.run.info.status == "FINISHED"
    assert len(run.client.search_runs([run.run.info.experiment_id])) == 1


def test_sending_everything_a_second_time_changes_nothing(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], workspace: Path
) -> None:
    tracker = track()
    for step, value in enumerate([1.0, math.nan, math.inf, 0.0, 0.1]):
        tracker.log_metrics({"loss": value, "other": 1.0}, step)
    tracker.log_image("grid", PIL.Image.new("RGB", (4, 4)), 0)
    tracker.log_inputs(InputData.of_prompts("p", ["x"], "code"))
    tracker.finish("FAILED")
    before = stored()
    files = {folder: before.files(folder) for folder in ("images", "inputs")}

    record = load_record(workspace / "run")
    assert record is not None
    save_record(workspace / "run", replace(record, rows=0, files=0))
    assert sync(workspace / "run") == 0
    after = stored()
    assert after.twice() == []
    assert len(after.points("loss")) == len(after.points("other")) == 5
    assert {folder: after.files(folder) for folder in ("images", "inputs")} == files
    assert len(after.run.inputs.dataset_inputs) == 1
    assert after.run.info == before.run.info


@pytest.mark.parametrize("status", get_args(RunStatus))
def test_the_end_is_told_truthfully(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], status: RunStatus
) -> None:
    tracker = track()
    tracker.log_metrics({"loss": 1.0}, 0)
    assert tracker.finish(status) == 0
    assert tracker.finish("FINISHED") == 0
    run = stored().run
    assert run.info.status == status
    assert run.info.end_time >= run.info.start_time
    with pytest.raises(ValueError, match="finished before"):
        tracker.log_metrics({"loss": 1.0}, 1)


def test_an_unknown_end_is_refused(track: Callable[..., MlflowTracker]) -> None:
    tracker = track()
    with pytest.raises(RequestError, match="Did you mean 'FINISHED'"):
        tracker.finish("FINISH")
    tracker.finish("FINISHED")


def test_last_words_are_spoken_for_a_run_that_vanished_but_an_end_stays(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], workspace: Path
) -> None:
    said = workspace / "said.txt"
    said.write_text("all done")
    ended = 1_800_000_000_000
    words: tuple[Any, ...] = ("FINISHED", ended, {"outcome": "finished"}, (said,))
    track().finish("FAILED")
    assert end_later(workspace / "run", *words) == 0
    assert stored().run.info.status == "FAILED"

    spool = Outbox(workspace / "run")
    spool.status("RUNNING")
    spool.journal.close()
    assert sync(workspace / "run") == 0
    assert stored().run.info.status == "RUNNING"
    assert end_later(workspace / "run", *words) == 0
    run = stored().run
    assert (run.info.status, run.info.end_time) == ("FINISHED", ended)
    assert run.data.tags["outcome"] == "finished"
    assert "said.txt" in list_artifacts(default_uri(workspace), run.info.run_id)
    assert last_status(workspace / "run") == "FINISHED"


def test_a_second_process_is_refused(
    track: Callable[..., MlflowTracker], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "_LOCK_SECONDS", 0.1)
    tracker = track()
    with pytest.raises(WorkbenchError, match="Another process"):
        track()
    with pytest.raises(WorkbenchError, match="Another process"):
        sync(workspace / "run")
    tracker.finish("FINISHED")
    track().finish("FINISHED")


def test_what_mlflow_refuses_does_not_hold_back_the_rest(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    workspace: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    track().finish("KILLED")
    spool = Outbox(workspace / "run")
    spool.metrics({"loss": 1.0}, 0)
    spool.params({"training.batch_size": "64"})  # MLflow: a parameter never changes
    spool.metrics({"loss": 2.0}, 1)
    spool.journal.close()
    assert sync(workspace / "run") == 0
    assert "refuses {'values': {'training.batch_size': '64'}}" in caplog.text
    assert stored().points("loss") == [(0, 1.0), (1, 2.0)]
    assert stored().twice() == []


def test_an_artifact_store_out_of_reach_does_not_hold_back_the_curves(
    workspace: Path, stored: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    blocker = workspace / "occupied"
    blocker.write_text("a file, not a folder")
    settings = UploaderSettings(0.05, 0.3, 0.0)
    tracker = MlflowTracker(
        workspace / "run", default_uri(workspace), blocker / "artifacts", IDENTITY, settings
    )
    tracker.log_image("grid", PIL.Image.new("RGB", (4, 4)), 0)
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.flush(60)
    assert tracker.finish("FINISHED") == 1
    assert stored().points("loss") == [(0, 1.0)]
    assert stored().run.info.status == "FINISHED"
    assert caplog.text.count("kept, sent later") == 1

    blocker.unlink()
    assert sync(workspace / "run") == 0
    assert len(stored().files("images")) == 2


def test_a_deleted_run_stays_deleted_and_a_lost_store_is_filled_again(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    workspace: Path,
    fresh_store: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = track()
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.finish("KILLED")
    client, run_id = stored().client, stored().run_id
    client.delete_run(run_id)
    tracker = track()
    tracker.log_metrics({"loss": 2.0}, 1)
    assert tracker.finish("KILLED") > 0
    restore = f"stays so: nothing is sent. `mlflow runs restore --run-id {run_id}` takes that back."
    assert restore in caplog.text
    with pytest.raises(DeletedRunError, match="was deleted in MLflow at sqlite:"):
        sync(workspace / "run")
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    client.restore_run(run_id)
    assert sync(workspace / "run") == 0
    assert stored().points("loss") == [(0, 1.0), (1, 2.0)]

    tracker = track()
    assert tracker.flush(30.0)
    client.delete_run(run_id)  # while it goes on
    tracker.log_metrics({"loss": 3.0}, 2)
    assert tracker.finish("KILLED") > 0
    assert caplog.text.count(restore) == 3  # two attempts, and a sync
    client.restore_run(run_id)

    other = workspace / "other"
    other.mkdir()
    shutil.copy(fresh_store, other / "mlflow.db")
    before = load_record(workspace / "run")
    assert sync(workspace / "run", to=default_uri(other)) == 0
    moved = stored(uri=default_uri(other))
    assert before is not None
    assert moved.run_id != before.run_id
    assert moved.points("loss") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert moved.run.data.params == {"training.batch_size": "128"}
    assert moved.run.info.status == "KILLED"


def test_only_who_is_told_to_moves_a_run(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    workspace: Path,
    fresh_store: Path,
) -> None:
    other = workspace / "other"
    other.mkdir()
    shutil.copy(fresh_store, other / "mlflow.db")
    elsewhere, run = default_uri(other), workspace / "run"
    track().finish("KILLED")
    spool = Outbox(run)
    spool.metrics({"loss": 1.0}, 0)
    spool.journal.close()
    assert sync(run, elsewhere) == 0
    assert add_later(run, {"eval/fid": 2.0}, 0, {}, elsewhere) == 0
    assert end_later(run, "FINISHED", 1_800_000_000_000, {}, (), elsewhere) == 0
    assert list_runs(elsewhere) == []
    assert stored().points("loss") == [(0, 1.0)]
    assert stored().points("eval/fid") == [(0, 2.0)]

    assert sync(run, to=elsewhere) == 0
    assert [row.metrics for row in list_runs(elsewhere)] == [{"loss": 1.0, "eval/fid": 2.0}]
    assert add_later(run, {"eval/kid": 3.0}, 0, {}) == 0  # it lives there now
    assert stored(uri=elsewhere).points("eval/kid") == [(0, 3.0)]


def test_a_resumed_run_keeps_what_made_it_and_appends_what_goes_on(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any]
) -> None:
    def attempt(commit: str, host: str) -> dict[str, str]:
        made = {"git.commit": commit, "host": host, "mlflow.source.git.commit": commit}
        track(replace(IDENTITY, tags={"host": host}, provenance=made)).finish("KILLED")
        tags: dict[str, str] = stored().run.data.tags
        return {key: tags[key] for key in tags if key.startswith(("provenance", "git", "host"))}

    first = {"git.commit": "a", "host": "one"}
    assert attempt("a", "one") == first
    assert attempt("a", "one") == first
    two = attempt("b", "two")
    assert (two["git.commit"], two["host"]) == ("a", "two")
    assert attempt("b", "two") == two
    three = attempt("c", "one")
    said = [json.loads(three[f"provenance.{place}"]) for place in (1, 2, 3)]
    assert said == [first, {"git.commit": "b", "host": "two"}, {"git.commit": "c", "host": "one"}]
    assert stored().run.data.tags["mlflow.source.git.commit"] == "a"


def test_a_disk_that_is_full_for_a_while_ends_nothing_and_loses_nothing(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = threading.Event()

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            if full.is_set():
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)

        return called

    tracker = track()
    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    for step in range(90):
        if step == 30:
            full.set()
        if step == 60:
            assert not tracker.flush(30)
            full.clear()
        tracker.log_metrics({"loss": float(step)}, step)
    assert tracker.flush(30)
    full.set()
    tracker.log_metrics({"loss": 90.0}, 90)
    threading.Timer(1.0, full.clear).start()
    assert tracker.finish("FINISHED") == 0
    assert stored().points("loss") == [(step, float(step)) for step in range(91)]
    assert stored().twice() == []
    assert stored().run.info.status == "FINISHED"
    assert 2 <= caplog.text.count("It is tried again.") <= 3


def test_a_disk_that_stays_full_does_not_raise_into_the_training(
    track: Callable[..., MlflowTracker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = track(settings=UploaderSettings(0.05, 0.5, 0.0))
    assert tracker.flush(30)

    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "fsync", full)
    tracker.log_metrics({"loss": 90.0}, 90)
    tracker.finish("FINISHED")
    assert "2 operations are lost" in caplog.text


def test_nothing_is_sent_that_a_power_loss_could_take(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = track()
    assert tracker.flush(30)
    real = os.fsync

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    tracker.log_metrics({"loss": 1.0}, 1)
    assert not tracker.flush(2)
    assert stored().points("loss") == []
    monkeypatch.setattr(os, "fsync", real)
    assert tracker.finish("FINISHED") == 0
    assert stored().points("loss") == [(1, 1.0)]


def test_a_journal_that_lost_its_end_is_sent_once_more(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], workspace: Path
) -> None:
    """The record of what was sent is then ahead of it, and would hide what comes next."""
    track().finish("FINISHED")
    record = load_record(workspace / "run")
    assert record is not None
    save_record(workspace / "run", replace(record, rows=10**6, files=10**6))
    tracker = track()
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.finish("FINISHED") == 0
    assert stored().points("loss") == [(1, 1.0)]
    assert stored().twice() == []


def test_a_run_that_moves_is_sent_whole(
    track: Callable[..., MlflowTracker], workspace: Path
) -> None:
    tracker = track()
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.finish("FINISHED") == 0
    assert sync(workspace / "run", to="http://127.0.0.1:9") > 3
    moved = load_record(workspace / "run")
    assert moved is not None
    assert (moved.tracking_uri, moved.run_id, moved.rows) == ("http://127.0.0.1:9", None, 0)


def test_the_files_of_a_version_with_a_cursor_of_its_own_are_read(
    track: Callable[..., MlflowTracker], workspace: Path
) -> None:
    track().finish("FINISHED")
    file = workspace / "run/tracking/mlflow.json"
    values = json.loads(file.read_text())
    cursor = {"rows": values.pop("rows"), "files": values.pop("files")}
    assert cursor["rows"] > 0
    file.write_text(json.dumps(values))
    (file.parent / "cursor.json").write_text(json.dumps({"run_id": values["run_id"], **cursor}))
    record = load_record(workspace / "run")
    assert record is not None
    assert (record.rows, record.files) == (cursor["rows"], cursor["files"])
    (file.parent / "cursor.json").write_text(json.dumps({"run_id": "another", **cursor}))
    again = load_record(workspace / "run")
    assert again is not None
    assert (again.rows, again.files) == (0, 0)  # all is sent once more, which changes nothing


def test_files_that_cannot_be_kept_leave_no_run_going_on(workspace: Path) -> None:
    uri, missing = default_uri(workspace), workspace / "missing.png"
    with pytest.raises(WorkbenchError, match="missing"):
        log_files(uri, RunIdentity("figures", "figures"), [missing], None)
    assert [row.status for row in list_runs(uri)] == ["FAILED"]


def test_system_metrics_have_mlflows_names_and_one_growing_step(
    track: Callable[..., MlflowTracker],
    stored: Callable[..., Any],
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered: list[int] = []
    keep = Outbox.metrics

    def offer(spool: Outbox, values: Mapping[str, float], step: int) -> None:
        offered.append(step)
        keep(spool, values, step)

    monkeypatch.setattr(Outbox, "metrics", offer)
    for _ in range(2):
        tracker = track(settings=UploaderSettings(0.05, 60.0, 0.02))
        before = len(read_points(workspace / "run"))
        while len(read_points(workspace / "run")) < before + 24:
            time.sleep(0.02)
        tracker.finish("KILLED")
    # A step offered twice would be dropped, and with it the sample.
    assert offered == list(range(len(offered)))

    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    names = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        names |= {f"system/{name}" for name in monitor.metrics}
    run = stored()
    assert set(run.run.data.metrics) >= names
    memory = run.points("system/system_memory_usage_percentage")
    assert [step for step, _ in memory] == list(range(len(memory)))
    assert len(memory) >= 6
    assert all(0 < value < 100 for _, value in memory)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://user:hunter2@127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_hangs_delays_only_the_end_and_for_a_bounded_time(
    silent_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = UploaderSettings(0.05, 0.5, 0.0)
    tracker = MlflowTracker(tmp_path / "run", silent_server, None, IDENTITY, settings)
    for step in range(100):
        tracker.log_metrics({"loss": 1.0}, step)
    assert not tracker.flush(0.1)
    assert tracker.finish("FINISHED") == 104
    assert len(read_points(tmp_path / "run")) == 100
    assert "104 tracked operations could not be delivered" in caplog.text


def test_a_dead_server_is_warned_of_once_and_no_password_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = UploaderSettings(0.02, 0.3, 0.0)
    uri = f"http://user:hunter2@127.0.0.1:{port}"
    tracker = MlflowTracker(tmp_path / "run", uri, None, IDENTITY, settings)
    for _ in range(4):
        assert not tracker.flush(30)
    assert tracker.finish("FINISHED") > 0
    said = [record.getMessage() for record in caplog.records if str(port) in record.getMessage()]
    assert sum("kept, sent later" in message for message in said) == 1

    saved = "".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert "hunter2" not in saved + caplog.text
    assert f"http://user:***@127.0.0.1:{port}" in caplog.text
    with pytest.raises(RequestError, match="password"):
        sync(tmp_path / "run")
    with pytest.raises(RequestError, match="password"):
        sync(tmp_path / "run", "http://another:hunter2@127.0.0.1")
    assert sync(tmp_path / "run", uri) > 0


def test_sync_needs_a_tracked_run_and_a_readable_record(
    track: Callable[..., MlflowTracker], workspace: Path
) -> None:
    with pytest.raises(RequestError, match="no tracked run"):
        sync(workspace / "nothing")
    assert not (workspace / "nothing").exists()
    track().finish("FINISHED")
    (workspace / "run/tracking/mlflow.json").write_text("{")
    with pytest.raises(RequestError, match="damaged"):
        sync(workspace / "run")
    with pytest.raises(RequestError, match="damaged"):
        track()


def test_an_address_that_mlflow_does_not_take_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="refuses plain folders"):
        MlflowTracker(tmp_path / "run", str(tmp_path / "mlruns"), None, IDENTITY)
    assert not (tmp_path / "run").exists()


def test_a_full_artifact_copy_never_raises_into_the_training(
    track: Callable[..., MlflowTracker], workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = track()
    (workspace / "run/tracking/images").write_text("in the way")
    tracker.log_image("grid", PIL.Image.new("RGB", (4, 4)), 0)
    assert "could not be kept" in caplog.text
    assert tracker.finish("FINISHED") == 0


def test_a_lost_run_id_finds_the_same_run(
    track: Callable[..., MlflowTracker], stored: Callable[..., Any], workspace: Path
) -> None:
    track().finish("KILLED")
    record = load_record(workspace / "run")
    assert record is not None
    save_record(workspace / "run", replace(record, run_id=None))
    track().finish("FINISHED")
    assert stored().run_id == record.run_id
    assert len(stored().client.search_runs([stored().run.info.experiment_id])) == 1


def test_a_token_that_was_saved_in_clear_is_taken_out_when_it_is_read(workspace: Path) -> None:
    """As versions did that knew of passwords alone."""
    save_record(
        workspace / "run",
        RunRecord("e", "n", "key", 1, "https://host", None, run_id="abc", rows=7),
    )
    (file,) = (workspace / "run").glob("tracking/mlflow.json")
    file.write_text(file.read_text().replace("https://host", "https://hunter2@host"))
    record = load_record(workspace / "run")
    assert record is not None
    assert (record.tracking_uri, record.run_id, record.rows) == ("https://***@host", "abc", 7)
    assert "hunter2" not in file.read_text()
    assert load_record(workspace / "run") == record
