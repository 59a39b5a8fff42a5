"""A real MLflow server that is away, comes, dies and comes back."""

from __future__ import annotations

import math
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.services import MlflowServer
from workbench.tracking import (
    InputData,
    MlflowTracker,
    RunIdentity,
    UploaderSettings,
    default_uri,
    list_runs,
    load_record,
    metric_history,
    sync,
)


@pytest.fixture
def server(workspace: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(workspace, default_uri(workspace))
    yield server
    server.kill()


def test_an_outage_at_the_start_in_the_middle_and_at_the_end_costs_no_point(
    server: MlflowServer,
    workspace: Path,
    stored: Callable[..., Any],
    track: Callable[..., MlflowTracker],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    identity = RunIdentity("served", "sid-0", {"a": "1"}, {"method": "sid"})
    settings = UploaderSettings(0.05, 1.0, 0.0)
    tracker = MlflowTracker(workspace / "run", server.uri, None, identity, settings)

    def train(steps: range) -> None:
        for step in steps:
            tracker.log_metrics({"loss": 1 / (step + 1), "odd": math.nan}, step)
        tracker.log_image("grid", PIL.Image.new("RGB", (4, 4)), steps[0])

    train(range(50))
    assert not tracker.flush(30)
    record = load_record(workspace / "run")
    assert record is not None
    assert record.run_id is None

    server.start()
    tracker.log_inputs(InputData.of_prompts("prompts", ["one"], "code"))
    assert tracker.flush(60)
    assert stored(uri=server.uri).run.info.status == "RUNNING"
    train(range(50, 100))
    assert tracker.flush(60)

    server.kill()
    train(range(100, 150))
    assert tracker.finish("FAILED") == 52
    assert caplog.text.count("kept, sent later") == 2
    assert caplog.text.count("answers again") == 1

    server.start()
    assert sync(workspace / "run") == 0
    run = stored(uri=server.uri)
    assert run.points("loss") == [(step, 1 / (step + 1)) for step in range(150)]
    assert len(run.points("odd")) == 150
    assert run.twice() == []
    assert len(run.files("images")) == 6
    assert run.run.info.status == "FAILED"
    assert [item.dataset.name for item in run.run.inputs.dataset_inputs] == ["prompts"]
    [row] = list_runs(server.uri, "served")
    assert (row.status, row.metrics["loss"]) == ("FAILED", 1 / 150)
    assert len(metric_history(server.uri, row.run_id, ["loss"])) == 150
    assert capfd.readouterr().out == ""

    # The UI over the workspace's own store also shows what runs without a server wrote there.
    local = track(run="local")
    local.log_image("grid", PIL.Image.new("RGB", (4, 4)), 0)
    local.finish("FINISHED")
    own = stored("local")
    [path] = [path for path in own.files("images") if path.endswith(".png")]
    query = urllib.parse.urlencode({"run_uuid": own.run_id, "path": path})
    with urllib.request.urlopen(f"{server.uri}/get-artifact?{query}", timeout=10) as answer:
        assert answer.read() == (workspace / "local/tracking" / path).read_bytes()
