"""A workspace that an earlier version made opens, compares and resumes.

``tests/kept/workspace.tar.xz`` was made by commit 4bd9b3e: a finished run, one that was killed at
half its length, a registered plan and a study. ``expected.json`` holds what that version told of
it, and the table of the killed run as it is when nobody kills it.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import InsideWorkbench

KEPT = Path(__file__).parents[1] / "kept"
EXPECTED = json.loads((KEPT / "expected.json").read_text())
MADE_IN = "file:///tmp/old/ws"


@pytest.fixture
def kept(
    workbench: InsideWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> InsideWorkbench:
    with tarfile.open(KEPT / "workspace.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "ws").rename(workbench.workspace)
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path / "experiments"))
    with sqlite3.connect(workbench.workspace / "mlflow.db") as store:  # it names absolute folders
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            place = workbench.workspace.as_uri()
            store.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (MADE_IN, place)
            )
    return workbench


def test_an_earlier_versions_workspace_opens_compares_and_resumes(kept: InsideWorkbench) -> None:
    compared, expected = kept.json("compare", "kept"), EXPECTED["compare"]
    assert (compared["metric"], compared["kimg"]) == (expected["metric"], expected["kimg"])
    for group, known in zip(compared["groups"], expected["groups"], strict=True):
        assert (group["label"], group["seeds"]) == (known["label"], known["seeds"])
        for metric, by_kind in known["scores"].items():
            own = {kind: group["scores"][metric][kind]["mean"] for kind in by_kind}
            assert own == by_kind, (group["label"], metric)

    listed = kept.json("runs", "list", "--experiment", "kept")
    states = {run["run"].split("/")[1].split("-")[0]: run["state"] for run in listed}
    assert states == {"sid": "FINISHED", "dmd": "INTERRUPTED"}
    (plan,) = kept.json("experiments", "status", "kept")
    assert {c["variant"]: c["state"].upper() for c in plan["cells"]} == states
    study = kept.json("studies", "best", "kept")
    assert study["counts"] == EXPECTED["best"]["counts"]
    for found, known in zip(study["best"], EXPECTED["best"]["best"], strict=True):
        assert {key: found[key] for key in known} == known

    told = kept("run", "kept", "--json")
    assert "Resuming at" in told.stderr
    tables: dict[str, Any] = {
        run["run"].split("/")[1].split("-")[0]: run["table"]
        for run in json.loads(told.stdout)["runs"]
    }
    for row, uncut in zip(tables["dmd"], EXPECTED["uncut"], strict=True):
        # Bit for bit on the machine that made it; another processor may round otherwise.
        assert (row["model"], row["how"]) == (uncut.pop("model"), uncut.pop("how"))
        assert {key: row[key] for key in uncut} == pytest.approx(uncut, rel=0.02, abs=0.02), row[
            "model"
        ]
