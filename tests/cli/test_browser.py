"""The MLflow UI in a real browser: what a person sees of a finished run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Workbench
from workbench.tracking import default_uri, list_runs, metric_history, run_address

CHROMIUM = shutil.which("chromium")
CURVES = """() => [...document.querySelectorAll(".js-plotly-plot")]
    .flatMap(plot => plot.data || []).map(trace => [...(trace.y || [])])"""
ON_CI = os.environ.get("CI") == "true"


@pytest.fixture
def served(finished: Workbench) -> Iterator[str]:
    """`workbench ui` on the finished run's workspace; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    server = finished.start("ui", "--port", str(port), "--experiment", "quickstart")
    try:
        deadline = time.monotonic() + 90
        while True:
            assert server.poll() is None
            try:
                urllib.request.urlopen(f"{base}/health", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline
                time.sleep(0.3)
        yield base
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


@pytest.mark.skipif(CHROMIUM is None and not ON_CI, reason="needs Debian's chromium (CI has it)")
def test_curves_and_grids_are_there_to_see(served: str, finished: Workbench) -> None:
    from playwright.sync_api import sync_playwright

    (run,) = list_runs(default_uri(finished.workspace), "quickstart")
    history = metric_history(default_uri(finished.workspace), run.run_id, ["best/fid"])
    fid = history["value"].tolist()
    address = run_address(served, run.experiment_id, run.run_id)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(f"{address}/model-metrics")
        page.wait_for_selector(".js-plotly-plot .scatterlayer .trace", timeout=60_000)
        # Sections draw when they come into view; the first ones are best/ and eval/.
        curves = page.evaluate(CURVES)
        assert any(curve == pytest.approx(fid, rel=1e-6) for curve in curves), curves
        page.goto(f"{address}/artifacts/figures/samples.png")
        picture = page.wait_for_selector("img[src*='blob'], img[src*='samples']", timeout=60_000)
        assert picture is not None
        page.wait_for_function("image => image.naturalWidth > 500", arg=picture, timeout=30_000)
        browser.close()
