"""workbench doctor --teacher: what it finds, what it advises, how it exits."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import InsideWorkbench, Workbench
from tests.teachers.hub_server import KNOWN_TOKEN, hub_server
from workbench.workspace import open_workspace

WRONG_TOKEN = "hf_wrongwrongwrongwrong"
SMALL = ("--set", "training.batch_size=8")


def findings(report: dict[str, object]) -> dict[str, tuple[bool, str]]:
    checks = report["checks"]
    assert isinstance(checks, list)
    return {check["name"]: (check["passed"], check["finding"]) for check in checks}


def test_a_teacher_that_fits(workbench: InsideWorkbench) -> None:
    report = workbench.json("doctor", "--teacher", str(workbench.teacher), *SMALL)
    found = findings(report)
    assert report["fits"] is True
    assert all(passed for passed, _ in found.values())
    assert set(found) == {
        "files",
        "precision",
        "disk for checkpoints",
        "memory to load",
        "memory to distil",
    }
    memory = report["memory"]
    assert memory["total_bytes"] == sum(memory["parts_bytes"].values())
    assert memory["total_bytes"] < memory["available_bytes"]
    assert report["would_fit"] is None
    table = workbench("doctor", "--teacher", str(workbench.teacher), *SMALL).stdout
    assert "activations" in table
    assert "PROBLEM" not in table


def test_what_would_fit_does(workbench: InsideWorkbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for less than the run needs, the advice is settings that the doctor accepts."""
    ask = ("doctor", "--teacher", str(workbench.teacher), "--set", "training.batch_size=64")
    needed = workbench.json(*ask)["memory"]["total_bytes"]
    real = psutil.virtual_memory()
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: real._replace(available=int(0.8 * needed))
    )
    answer = workbench(*ask, "--json", code=1)
    report = json.loads(answer.stdout)
    assert report["fits"] is False
    assert findings(report)["memory to distil"][0] is False
    assert "cannot be distilled here so: memory to distil" in answer.stderr
    advice = [part for text in report["would_fit"]["set"] for part in ("--set", text)]
    assert workbench.json(*ask, *advice)["fits"] is True
    assert f"--set {advice[1]}" in workbench(*ask, code=1).stdout


def test_a_damaged_folder(workbench: InsideWorkbench, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(workbench.teacher, broken)
    shutil.rmtree(broken / "vae")
    answer = workbench("doctor", "--teacher", str(broken), "--json", code=1)
    passed, finding = findings(json.loads(answer.stdout))["files"]
    assert not passed
    assert "no folder vae" in finding


def test_a_student_is_no_teacher(workbench: InsideWorkbench, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(workbench.teacher, student)
    (student / "student.json").write_text("{}")
    answer = workbench("doctor", "--teacher", str(student), "--json", code=1)
    assert "few-step student" in findings(json.loads(answer.stdout))["files"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "sd3-medum"], "Unknown teacher 'sd3-medum'. Did you mean 'sd3-medium'?"),
        (["--teacher", "./nowhere"], "'./nowhere' is no folder"),
        (["--nproc", "2"], "add --teacher NAME"),
        (["--teacher", "digits-sana", "--set", "training.bach_size=3"], "training.batch_size"),
    ],
)
def test_wrong_requests(workbench: InsideWorkbench, arguments: list[str], message: str) -> None:
    answer = workbench("doctor", *arguments, code=2)
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1


@contextmanager
def some_server(status: int, body: bytes) -> Iterator[str]:
    """Answers everything alike; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_served_store_is_named_on_no_command_line_and_openness_is_said(
    workbench: InsideWorkbench, host: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[list[str], dict[str, str]]] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        served.append((command, environment))

    monkeypatch.setattr(os, "execve", execve)
    open_workspace(workbench.workspace)
    uri = f"sqlite:///{workbench.workspace}/mlflow.db?timeout=9&password=hunter2"
    told = workbench("ui", "--host", host, "--tracking-uri", uri)
    ((command, environment),) = served
    assert "hunter2" not in " ".join(command) + told.stderr + told.stdout
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert ("can read, change and delete every run" in told.stderr) == warned


def test_a_tracking_server_is_asked(
    workbench: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.5")

    def found(uri: str, code: int) -> str:
        answer = workbench("doctor", "--tracking-uri", uri, "--json", code=code)
        (check,) = [c for c in json.loads(answer.stdout) if c["name"] == "tracking store"]
        assert check["passed"] == (code == 0)
        assert "geheim" not in answer.stdout + answer.stderr
        return str(check["finding"])

    with some_server(200, b'{"experiments": []}') as uri:
        address = uri.replace("//", "//me:geheim@")
        assert found(address, 0) == f"{uri.replace('//', '//me:***@')} answers"
    assert "refused" in found("http://127.0.0.1:9", 1)
    with some_server(200, b"<html>Welcome</html>") as uri:
        assert "no MLflow server's answer: <html>Welcome" in found(uri, 1)
    with some_server(401, b'{"message": "You are not authenticated."}') as uri:
        assert "You are not authenticated. (HTTP 401)" in found(uri, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timed out" in found(f"http://127.0.0.1:{silent.getsockname()[1]}", 1)
    nobody = "postgresql://me:geheim@127.0.0.1:9/lab"
    assert "postgresql://me:***@127.0.0.1:9/lab: " in found(nobody, 1)


def test_a_teacher_that_is_not_built_yet(workbench: InsideWorkbench) -> None:
    report = workbench.json("doctor", "--teacher", "digits-sana")
    assert report["fits"] is True
    assert "not built yet" in findings(report)["files"][1]


@pytest.mark.timeout(240)
def test_tokens_that_are_missing_unknown_or_refused(
    digits_teacher_dir: Path, tmp_path: Path
) -> None:
    repositories = {"me/open": digits_teacher_dir}
    with hub_server(repositories, gated={"me/gated"}) as (endpoint, _):

        def access(teacher: str, token: str, code: int) -> tuple[bool, str]:
            settings = {
                "HF_HOME": str(tmp_path / "home"),
                "HF_ENDPOINT": endpoint,
                "HF_TOKEN": token,
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_TELEMETRY": "1",
            }
            process = Workbench(tmp_path / "workspace", digits_teacher_dir, settings)
            answer = process("doctor", "--teacher", teacher, "--json", code=code)
            assert WRONG_TOKEN not in answer.stdout + answer.stderr
            assert KNOWN_TOKEN not in answer.stdout + answer.stderr
            return findings(json.loads(answer.stdout))["access"]

        page = "https://huggingface.co/me/gated"
        passed, finding = access("me/gated", "", code=1)
        assert not passed
        assert page in finding
        assert "set HF_TOKEN" in finding
        assert "does not know the access token" in access("me/gated", WRONG_TOKEN, code=1)[1]
        passed, finding = access("me/gated", KNOWN_TOKEN, code=1)
        assert not passed
        assert page in finding
        assert "refused the access token" in finding
        passed, finding = access("me/open", "", code=0)
        assert passed
        size = sum(file.stat().st_size for file in digits_teacher_dir.rglob("*") if file.is_file())
        assert f"{size / 2**20:.1f} MiB" in finding


def test_a_gated_teacher_of_the_catalog_offline(digits_teacher_dir: Path, tmp_path: Path) -> None:
    """Without a token no network is needed to say what to do; sizes come from the catalog."""
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_TOKEN": ""}
    process = Workbench(tmp_path / "workspace", digits_teacher_dir, settings)
    # The whole plan, but of adapters: their step is soon followed.
    small = ("--set", "training.batch_size=1", "--set", "training.lora.rank=4")
    answer = process("doctor", "--teacher", "sd3-medium", *small, "--json", code=1)
    report = json.loads(answer.stdout)
    found = findings(report)
    page = "https://huggingface.co/stabilityai/stable-diffusion-3-medium-diffusers"
    assert found["access"][0] is False
    assert page in found["access"][1]
    assert "set HF_TOKEN" in found["access"][1]
    assert f"Stability AI Community License (gated): {page}" in found["licence"][1]
    parts = report["memory"]["parts_bytes"]
    assert parts["teacher"] == 2 * 2_028_328_000  # bf16
    assert parts["moments"] == pytest.approx(2 * parts["students"], rel=1e-3)
