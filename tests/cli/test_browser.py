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
from workbench.tracking import default_uri, list_runs, run_address

CHROMIUM = shutil.which("chromium")
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
    address = run_address(served, run.experiment_id, run.run_id)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(f"{address}/model-metrics")
        page.wait_for_selector(".js-plotly-plot .scatterlayer .trace", timeout=60_000)
        for section in ("best (1)", "eval (2)"):
            page.get_by_text(section).first.wait_for(timeout=30_000)
        page.goto(f"{address}/artifacts/figures/samples.png")
        picture = page.wait_for_selector("img[src*='blob'], img[src*='samples']", timeout=60_000)
        assert picture is not None
        page.wait_for_function("image => image.naturalWidth > 500", arg=picture, timeout=30_000)
        browser.close()
