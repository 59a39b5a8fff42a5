"""Hub ids, through the hub's own client: pinned, gated, refused, absent, unsupported, offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.teachers.hub_server import COMMIT, KNOWN_TOKEN, OLDER, hub_server
from workbench.teachers import PipelineTeacher
from workbench.teachers.hub import HUB_ID, revision_of

ASK = """
import json, sys
from workbench.errors import RequestError
from workbench.teachers import load_pipeline_teacher
from workbench.teachers.hub import cached_snapshot, check_access, download, revision_of
answers = {}
for reference in sys.argv[1:]:
    try:
        folder = download(reference)
        teacher = load_pipeline_teacher(reference, folder)
        answers[reference] = {
            "fingerprint": teacher.fingerprint,
            "height": teacher.call_arguments["height"],
            "revision": revision_of(folder),
            "cached": cached_snapshot(reference) == folder,
        }
    except RequestError as error:
        answers[reference] = str(error)
    try:
        answers[f"access {reference}"] = check_access(reference)
    except RequestError as error:
        answers[f"access {reference}"] = str(error)
print(json.dumps(answers))
"""
WRONG_TOKEN = "hf_wrongwrongwrongwrong"


def ask(
    home: Path, endpoint: str, *references: str, token: str | None = None, offline: bool = False
) -> dict[str, object]:
    """Download in a fresh process, because the client reads its environment on import."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_TOKEN"},
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({"HF_TOKEN": token} if token else {}),
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
    assert WRONG_TOKEN not in done.stdout + done.stderr
    assert KNOWN_TOKEN not in done.stdout + done.stderr
    answers: dict[str, object] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def pipelines(
    digits_teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Repositories by name: a teacher, a pipeline that is none, and one without a pipeline."""
    root = tmp_path_factory.mktemp("repositories")
    (root / "epsilon").mkdir()
    (root / "empty").mkdir()
    index = json.dumps({"_class_name": "StableDiffusionPipeline"})
    (root / "epsilon" / "model_index.json").write_text(index)
    (root / "epsilon" / "weights.safetensors").write_bytes(bytes(1000))
    (root / "epsilon" / "scheduler").mkdir()
    settings = json.dumps({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"})
    (root / "epsilon" / "scheduler" / "scheduler_config.json").write_text(settings)
    shutil.copytree(digits_teacher_dir, root / "student")
    (root / "student" / "student.json").write_text("{}")
    return {
        "me/student": root / "student",
        "me/tiny": digits_teacher_dir,
        "me/epsilon": root / "epsilon",
        "me/empty": root / "empty",
    }


@pytest.mark.timeout(240)
def test_found_absent_unsupported_and_offline(
    digits_teacher: PipelineTeacher, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    references = ("me/tiny", "me/epsilon", "me/student", "me/empty", "me/nothing", "me--too/odd")
    with hub_server(pipelines, gated=set()) as (endpoint, requests):
        online = ask(tmp_path / "home", endpoint, *references, token=KNOWN_TOKEN)
    found = online["me/tiny"]
    assert found == {
        "fingerprint": digits_teacher.fingerprint,
        "height": 32,
        "revision": COMMIT,
        "cached": True,
    }
    fetched = [path for path in pipelines["me/tiny"].rglob("*") if path.is_file()]
    assert online["access me/tiny"] == sum(path.stat().st_size for path in fetched)
    assert "StableDiffusionPipeline predicts epsilon" in str(online["me/epsilon"])
    assert "me/student is a few-step student" in str(online["me/student"])
    for refused in ("me/epsilon", "me/student"):
        assert not [line for line in requests if refused in line and ".safetensors" in line]
    assert "'me--too/odd' is no hub id" in str(online["me--too/odd"])
    assert "no model_index.json" in str(online["me/empty"])
    assert "no folder 'me/nothing'" in str(online["me/nothing"])

    nobody = "http://127.0.0.1:9"
    offline = ask(tmp_path / "home", nobody, "me/tiny", "me/other", offline=True)
    unreachable = ask(tmp_path / "home", nobody, "me/other")
    assert offline["me/tiny"] == found
    for answers in (offline, unreachable):
        for part in ("HF_HUB_OFFLINE", "hf download me/other", "pass the folder"):
            assert part in str(answers["me/other"])
            assert part in str(answers["access me/other"])


@pytest.mark.timeout(240)
def test_revisions_are_pinned_to_their_commit(
    digits_teacher: PipelineTeacher, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(pipelines["me/tiny"], older)
    notes = json.loads((older / "teacher.json").read_text())
    notes["call"]["height"] = notes["call"]["width"] = 64
    (older / "teacher.json").write_text(json.dumps(notes))
    with hub_server(pipelines, set(), {"me/tiny": older}) as (endpoint, requests):
        references = ("me/tiny@v1", f"me/tiny@{OLDER}", "me/tiny", "me/tiny@nowhere")
        answers = ask(tmp_path / "home", endpoint, *references)
    tagged, by_commit, newest = (answers[reference] for reference in references[:3])
    assert isinstance(tagged, dict)
    assert isinstance(newest, dict)
    assert (tagged["revision"], tagged["height"]) == (OLDER, 64)
    assert (newest["revision"], newest["height"]) == (COMMIT, 32)
    assert by_commit == tagged
    assert tagged["fingerprint"] != newest["fingerprint"] == digits_teacher.fingerprint
    assert "no revision 'nowhere'" in str(answers["me/tiny@nowhere"])
    # Everything but the question which commit a name stands for is asked of that commit.
    files = [line.split("/resolve/")[1] for line in requests if "/resolve/" in line]
    by_name = {file for file in files if not file.startswith((COMMIT, OLDER))}
    assert {file.split("/", 1)[1] for file in by_name} == {"model_index.json"}


@pytest.mark.timeout(240)
def test_a_missing_an_unknown_and_a_refused_token(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    with hub_server(pipelines, gated={"me/gated"}) as (endpoint, _):
        missing, unknown, refused = (
            ask(tmp_path / "home", endpoint, "me/gated", token=token)
            for token in (None, WRONG_TOKEN, KNOWN_TOKEN)
        )
    page = "https://huggingface.co/me/gated"
    for answers, expected in (
        (missing, ("is gated and there is no access token", page, "set HF_TOKEN")),
        (unknown, ("does not know the access token of HF_TOKEN", "settings/tokens")),
        (refused, ("is gated and refused the access token of HF_TOKEN", page)),
    ):
        for question in ("me/gated", "access me/gated"):
            answer = str(answers[question])
            assert "\n" not in answer
            for part in expected:
                assert part in answer


def test_folders_and_snapshots(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert revision_of(snapshot) == COMMIT
    assert revision_of(snapshot.parent) is None
    assert revision_of(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("me/tiny", True),
        ("me/tiny@v1.0", True),
        ("me/tiny@refs/pr/3", True),
        ("tiny", False),
        ("me/tiny@", False),
        ("../tiny", False),
        ("me/tiny/more", False),
    ],
)
def test_what_a_hub_id_is(text: str, is_id: bool) -> None:
    assert (HUB_ID.fullmatch(text) is not None) == is_id
