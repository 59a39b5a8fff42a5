"""runs show, diff, du and rm, on copies of a finished run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import InsideWorkbench, Workbench
from workbench.students.models import Drawing, load_student
from workbench.students.sampling import sample_model
from workbench.workspace import exclusive, open_workspace

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def copied(finished: Workbench, workbench: InsideWorkbench) -> InsideWorkbench:
    """A workspace of its own with the finished run."""
    shutil.copytree(finished.workspace, workbench.workspace)
    return workbench


def folder_of(workbench: Workbench) -> Path:
    (config,) = workbench.workspace.glob("runs/*/*/config.json")
    return config.parent


def second(folder: Path, name: str, **settings: object) -> Path:
    """The same run with other settings."""
    other = folder.with_name(name)
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | settings))
    return other


def test_a_run_is_shown_as_its_files_say(copied: InsideWorkbench) -> None:
    folder = folder_of(copied)
    results = json.loads((folder / "results.json").read_text())
    shown = json.loads(copied("runs", "show", str(folder), "--json").stdout)
    assert shown["state"] == "FINISHED"
    assert shown["kimg"] == shown["total_kimg"] > 0
    assert shown["settings"]["generator.steps"] == 4
    kept = [{k: v for k, v in row.items() if k != "fingerprint"} for row in results["table"]]
    assert shown["scores"] == kept
    assert shown["versions"] == results["table"][0]["fingerprint"]["versions"]
    assert "id" not in shown["evaluation"]
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(shown["sizes"].values()) == sum(file.stat().st_size for file in files)
    text = copied("runs", "show", str(folder)).stdout
    for part in (shown["run"], "FINISHED", "generator.steps", "checkpoints"):
        assert part in text


def test_two_runs_differ_in_what_was_changed(copied: InsideWorkbench) -> None:
    folder = folder_of(copied)
    same = second(folder, "same")
    assert json.loads(copied("runs", "diff", str(folder), str(same), "--json").stdout) == []
    other = second(folder, "other", seed=7)
    results = json.loads((other / "results.json").read_text())
    row = results["table"][-1]
    row["fid"] += 1.0
    results["teacher"]["fingerprint"] = "another"
    for each in results["table"]:
        each["fingerprint"]["versions"]["torch"] = "1.0"
        each["fingerprint"]["samples"] = 3
    (other / "results.json").write_text(json.dumps(results))
    found = json.loads(copied("runs", "diff", str(folder), str(other), "--json").stdout)
    score = f"{row['model']}, {row['steps']} step{'s' * (row['steps'] != 1)}: fid"
    assert [(each["kind"], each["name"]) for each in found] == [
        ("setting", "seed"),
        ("teacher", "fingerprint"),
        ("version", "torch"),
        ("evaluation", "samples"),
        ("score", score),
    ]
    assert found[4]["second"] == pytest.approx(found[4]["first"] + 1.0)
    assert "seed" in copied("runs", "diff", str(folder), str(other)).stdout


def test_a_removed_run_gives_its_room_back(copied: InsideWorkbench) -> None:
    folder = folder_of(copied)
    second(folder, "other", seed=7)
    before = {row["what"]: row for row in json.loads(copied("runs", "du", "--json").stdout)}
    name = f"{folder.parent.name}/other"
    assert before[name]["bytes"] == sum(before[name]["sizes"].values()) > 0
    assert before["files"]["bytes"] >= (copied.workspace / "mlflow.db").stat().st_size
    whole = sum(f.stat().st_size for f in copied.workspace.rglob("*") if f.is_file())
    assert sum(row["bytes"] for row in before.values()) == pytest.approx(whole, rel=0.01)
    refused = copied("runs", "rm", name, code=2)
    assert "--yes" in refused.stderr
    assert (folder.parent / "other").exists()
    removed = copied("runs", "rm", name, "--yes")
    assert "MiB" in removed.stderr
    after = {row["what"] for row in json.loads(copied("runs", "du", "--json").stdout)}
    assert before.keys() - after == {name}
    assert json.loads(copied("runs", "list", "--json").stdout)[0]["folder"] == str(folder)


def test_what_is_in_use_is_not_removed(copied: InsideWorkbench) -> None:
    folder = folder_of(copied)
    name = f"{folder.parent.name}/{folder.name}"
    with exclusive(folder.with_name(f".{folder.name}.lock"), name):
        assert "running" in copied("runs", "rm", name, "--yes", code=2).stderr
    assert "in full" in copied("runs", "rm", name[:-2], "--yes", code=2).stderr
    copied("runs", "rm", name, "--yes")
    assert not folder.exists()


def test_what_the_store_lacks_is_not_removed(copied: InsideWorkbench) -> None:
    """A run that moved to a store which cannot be reached is nowhere but in its folder."""
    folder = folder_of(copied)
    name = f"{folder.parent.name}/{folder.name}"
    nowhere = "http://127.0.0.1:9"
    moved = json.loads(copied("runs", "sync", "--to", nowhere, "--json", code=1).stdout)
    (row,) = (row for row in moved if row["run"] == name)
    assert row["undelivered"] > 10
    assert "does not have" in copied("runs", "rm", name, "--yes", code=2).stderr
    assert folder.exists()
    never_tracked = second(folder, "new")
    shutil.rmtree(never_tracked / "tracking")
    told = copied("runs", "rm", f"{folder.parent.name}/new", "--yes", code=2).stderr
    assert "no tracking store was ever told of it" in told
    copied("runs", "rm", f"{folder.parent.name}/new", "--yes", "--unsent")
    assert not never_tracked.exists()
    copied("runs", "rm", name, "--yes", "--unsent")
    assert not folder.exists()


def test_a_run_from_python(finished: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/python.md, and what it says of its values."""
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(finished.workspace))
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python run\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    run, images, frame = names["run"], names["images"], names["frame"]
    prompts = ["the digit 7", "a handwritten two"]
    student = load_student(open_workspace(finished.workspace), run.name)
    assert torch.equal(images, sample_model(student, Drawing(prompts, 4)))
    assert not torch.equal(images[:1], run.sample(prompts[0], seed=5))
    again = run.sample(prompts[1], steps=4, seed=1)
    torch.testing.assert_close(again, images[1:], atol=1e-4, rtol=0)
    assert run.config.generator.steps == 4
    (row,) = (r for r in run.describe()["scores"] if (r["model"], r["steps"]) == ("student", 4))
    own = (frame["source"] == "table") & (frame["model"] == "student") & (frame["steps"] == 4)
    (fid,) = frame[own & (frame["metric"] == "fid")]["value"]
    assert fid == pytest.approx(row["fid"], rel=1e-6)
