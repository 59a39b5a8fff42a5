"""Hub ids, through the hub's own client: downloaded, gated, absent, unsupported, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.teachers.hub_server import hub_server
from workbench.teachers import PipelineTeacher

ASK = """
import json, sys
from pathlib import Path
from workbench.errors import RequestError
from workbench.teachers import load_teacher
answers = {}
for reference in sys.argv[1:]:
    try:
        teacher = load_teacher(reference, Path("unused"))
        answers[reference] = [teacher.fingerprint, str(teacher.call_arguments["height"])]
    except RequestError as error:
        answers[reference] = str(error)
print(json.dumps(answers))
"""
TOKEN = "hf_secretsecretsecretsecret"


def ask(home: Path, endpoint: str, offline: bool, *references: str) -> dict[str, object]:
    """load_teacher in a fresh process, because the client reads its environment on import."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, *references],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    answers: dict[str, object] = json.loads(done.stdout)
    return answers


@pytest.mark.timeout(240)
def test_the_hub(digits_teacher: PipelineTeacher, digits_teacher_dir: Path, tmp_path: Path) -> None:
    foreign, empty = tmp_path / "foreign", tmp_path / "empty"
    foreign.mkdir()
    empty.mkdir()
    (foreign / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (foreign / "weights.safetensors").write_bytes(bytes(1000))
    repositories = {"me/tiny": digits_teacher_dir, "me/flux": foreign, "me/empty": empty}
    with hub_server(repositories, gated={"me/gated"}) as (endpoint, requests):
        online = ask(
            tmp_path / "home",
            endpoint,
            False,
            *("me/tiny", "me/flux", "me/empty", "me/gated", "me/nothing"),
        )
    assert online["me/tiny"] == [digits_teacher.fingerprint, "32"]
    assert "Unknown pipeline class 'FluxPipeline'" in str(online["me/flux"])
    assert not [line for line in requests if "me/flux" in line and "weights" in line]
    assert "no model_index.json" in str(online["me/empty"])
    assert "HF_TOKEN" in str(online["me/gated"])
    assert "licence" in str(online["me/gated"])
    assert "no folder 'me/nothing'" in str(online["me/nothing"])

    offline = ask(
        tmp_path / "home", "http://127.0.0.1:9", True, "me/tiny", "me/other", "sana-0.6b-512"
    )
    assert offline["me/tiny"] == online["me/tiny"]
    for reference in ("me/other", "sana-0.6b-512"):
        assert "HF_HUB_OFFLINE" in str(offline[reference])
        assert "hf download" in str(offline[reference])
        assert "pass the folder" in str(offline[reference])
