"""The MLflow UI in a real browser: what a person sees of a finished run."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.cli.conftest import InsideWorkbench, Workbench
from tests.services import ON_CI, free_port, wait_until_healthy
from workbench.tracking import (
    MlflowTracker,
    RunIdentity,
    UploaderSettings,
    default_artifact_root,
    default_uri,
    list_runs,
    metric_history,
    run_address,
)
from workbench.workspace import open_workspace

CHROMIUM = shutil.which("chromium")
PLOTS = """() => [...document.querySelectorAll(".js-plotly-plot")].map(plot => ({
    scale: plot.layout.yaxis.type,
    lines: (plot.data || []).map(trace => ({
        x: [...(trace.x || [])], y: [...(trace.y || [])], color: trace.marker && trace.marker.color,
    }))}))"""
COLUMNS = """() => [...document.querySelectorAll(".ag-header-cell[col-id]")]
    .map(cell => cell.getAttribute("col-id"))"""
NO_SIDE_PANEL = 'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")'
DRAWN = ".js-plotly-plot .scatterlayer .trace"

FID = {
    "sid": ([8.0, 2.0, 0.5], [8.5, 2.5, 0.7]),
    "1-t": ([9.0, 4.0, 2.0], [9.5, 5.0, 3.0]),
}
STEPS = (128, 256, 384)
RANKING = ["sid-seed0", "sid-seed1", "1-t-seed0", "1-t-seed1"]


@pytest.fixture
def compared(finished: Workbench, tmp_path: Path) -> Workbench:
    """The finished run's store, and in it a younger experiment: two variants, two seeds each."""
    place = open_workspace(tmp_path / "workspace")
    shutil.copy(finished.workspace / "mlflow.db", place.root)
    uri, artifacts = default_uri(place.root), default_artifact_root(place.root)
    for variant, seeds in FID.items():
        for seed, curve in enumerate(seeds):
            tags = {"variant": variant, "seed": str(seed), "teacher": "digits-sana"}
            tags["kind"] = "run"
            identity = RunIdentity("weighting", f"{variant}-seed{seed}", {}, tags)
            folder = place.runs / "weighting" / identity.name
            tracker = MlflowTracker(folder, uri, artifacts, identity, UploaderSettings(0.1, 60, 0))
            for step, fid in zip(STEPS, curve, strict=True):
                tracker.log_metrics({"eval/fid": fid, "best/fid": fid, "eval/alignment": 0.9}, step)
            assert tracker.finish("FINISHED") == 0
    return Workbench(place.root, finished.teacher)


@pytest.fixture
def address(compared: Workbench) -> Iterator[str]:
    """`workbench ui`: the address that it prints."""
    port = free_port()
    server = compared.start("ui", "--port", str(port))
    try:
        assert server.stderr is not None
        printed = re.search(r"http://\S+", server.stderr.readline())
        assert printed is not None
        wait_until_healthy(f"http://127.0.0.1:{port}", server)
        yield printed[0]
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


@pytest.mark.skipif(CHROMIUM is None and not ON_CI, reason="needs Debian's chromium (CI has it)")
def test_comparison_curves_and_grids_are_there_to_see(
    address: str, compared: Workbench, workbench: InsideWorkbench
) -> None:
    from playwright.sync_api import sync_playwright

    base = address.partition("/#")[0]
    is_published_for_a_running_server(base, workbench)
    (run,) = list_runs(default_uri(compared.workspace), "quickstart", where="tags.kind = 'run'")
    history = metric_history(default_uri(compared.workspace), run.run_id, ["best/fid"])
    one_run = run_address(base, run.experiment_id, run.run_id)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.add_init_script(NO_SIDE_PANEL)
        page.goto(address)
        page.wait_for_selector(DRAWN, timeout=60_000)
        see_means_over_seeds(page.evaluate(PLOTS))
        page.locator("input[name=runs-view-mode][value=TABLE]").dispatch_event("click")
        page.wait_for_selector("[col-id='tags.`teacher`']", timeout=30_000)
        see_columns(page.evaluate(COLUMNS))
        names = page.locator(".ag-row[row-index] a").all_inner_texts()
        assert [name for name in names if name] == RANKING
        page.goto(f"{one_run}/model-metrics")
        page.wait_for_selector(DRAWN, timeout=60_000)
        # Sections draw when they come into view; the first ones are best/ and eval/.
        fid = pytest.approx(history["value"].tolist(), rel=1e-6)
        plots = page.evaluate(PLOTS)
        assert any(line["y"] == fid for plot in plots for line in plot["lines"]), plots
        page.goto(f"{one_run}/artifacts/figures/samples.png")
        picture = page.wait_for_selector("img[src*='blob'], img[src*='samples']", timeout=60_000)
        assert picture is not None
        page.wait_for_function("image => image.naturalWidth > 500", arg=picture, timeout=30_000)
        browser.close()


def is_published_for_a_running_server(base: str, workbench: InsideWorkbench) -> None:
    """A view through HTTP instead of into the database, and what is refused there."""
    ui = ("ui", "--tracking-uri", base.replace("//", "//name:secret@"), "--experiment")
    answer = workbench(*ui, "weighting", "--metric", "eval/alignment")
    (address,) = answer.stdout.splitlines()
    assert address.startswith(f"{base}/#/experiments/2/runs?")
    assert address.endswith("&viewStateShareKey=workbench-eval-alignment")
    assert "secret" not in answer.stderr
    assert "Did you mean 'weighting'?" in workbench(*ui, "weihgting", code=2).stderr
    refused = workbench(*ui, "weighting", "--metric", "eval/fdi", code=2)
    assert "Did you mean 'eval/fid'?" in refused.stderr
    assert "is a server already" in workbench(*ui, "weighting", "--port", "5001", code=2).stderr


def see_means_over_seeds(plots: list[dict[str, Any]]) -> None:
    """FID of each variant over images, on a log axis, in two colours."""
    (chart,) = [plot for plot in plots if plot["scale"] == "log"]
    colors = set()
    for seeds in FID.values():
        curve = [mean(values) for values in zip(*seeds, strict=True)]
        found = [line for line in chart["lines"] if line["y"] == pytest.approx(curve, rel=1e-6)]
        assert found, chart
        assert found[0]["x"] == list(STEPS)
        colors.add(found[0]["color"])
    assert len(colors) == 2, colors


def see_columns(columns: list[str]) -> None:
    scores = ["metrics.`best/fid`", "metrics.`eval/fid`", "metrics.`eval/alignment`"]
    tags = ["tags.`variant`", "tags.`seed`", "tags.`teacher`"]
    assert {*scores, *tags} <= set(columns)
