"""runs logs, stop, archive, gc and list: on a finished run's copies, and on one that goes on."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import QUICK, InsideWorkbench, Workbench
from tests.cli.test_runs import copied, folder_of, second
from workbench.cli.run_list import State
from workbench.evaluation.feature_cache import FeatureCache
from workbench.evaluation.metrics import ReferenceRows
from workbench.evaluation.references import ReferenceRecord, save_reference
from workbench.launching.slurm import submission_file
from workbench.registry import find_experiments
from workbench.runs.spec import RunSpec
from workbench.runs.state import RunState
from workbench.tracking import default_uri
from workbench.training.config import load_config
from workbench.workspace import exclusive, open_workspace

__all__ = ["copied"]

LOOKED = {"inception": "inception/0"}
DAYS = 3 * 24 * 3600


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 200
    while not ready():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def age(path: Path) -> None:
    """As if nobody had touched it for days."""
    for each in [path, *path.rglob("*")]:
        os.utime(each, (time.time() - DAYS,) * 2)


def rows_of(workbench: Workbench, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(workbench("runs", "list", *arguments, "--json").stdout))


def names_of(workbench: Workbench, *arguments: str) -> list[str]:
    return [row["run"].split("/")[1] for row in rows_of(workbench, *arguments)]


def test_a_run_is_followed_stopped_archived_and_begun_anew(prepared: InsideWorkbench) -> None:
    """As `run --parallel` does it: in a process of its own, whose output goes to a log."""
    settings = tuple("training.kimg=6.4" if "training.kimg" in text else text for text in QUICK)
    assignments = [part for text in settings for part in ("--set", text)]
    teacher = ("--teacher", str(prepared.teacher), "--recipe", "digits", *assignments)
    runs = ("--seed", "0,1", "--parallel", "2")
    first = prepared.start("run", "quickstart", *teacher, *runs)
    wait_for(prepared.nimg_reached(320), first)
    names = sorted(
        f"{file.parent.parent.name}/{file.parent.name}"
        for file in prepared.workspace.glob("runs/*/*/config.json")
    )
    followed = prepared.start("runs", "logs", names[0], "--follow")
    assert {row["state"] for row in rows_of(prepared, "--local")} == {"RUNNING"}
    assert "is running" in prepared("runs", "archive", names[0], code=2).stderr
    assert prepared("runs", "gc").stderr.strip() == "Everything here is needed."
    stopped = prepared("runs", "stop", *names)
    assert stopped.stderr.count("writes a checkpoint and ends") == len(names)
    first.communicate(timeout=120)
    said, problems = followed.communicate(timeout=60)
    assert followed.returncode == 0, problems
    assert "the checkpoint is written. The same command continues" in said
    last = prepared("runs", "logs", names[0], "--lines", "1").stdout
    assert last.strip() == said.splitlines()[-1]
    assert prepared("runs", "logs", names[0]).stdout == said
    assert "does not go on" in prepared("runs", "stop", names[0], code=2).stderr
    assert names_of(prepared, "--state", "interrupted") == [n.split("/")[1] for n in names]

    before = sorted(file.name for file in (prepared.workspace / "runs" / names[0]).rglob("*"))
    told = prepared("runs", "archive", names[0]).stderr
    assert f"{names[0]} is now {names[0]}~1" in told
    kept = prepared.workspace / "runs" / f"{names[0]}~1"
    assert sorted(file.name for file in kept.rglob("*")) == before
    assert names_of(prepared, "--state", "archived") == [kept.name]
    assert "archived already" in prepared("runs", "archive", f"{names[0]}~1", code=2).stderr
    anew = ("run", str(kept / "config.json"), "--dry-run")
    assert f"would start {prepared.workspace / 'runs' / names[0]}" in prepared(*anew).stdout

    listed = prepared("runs", "gc", "--dry-run").stdout
    assert kept.name not in listed
    prepared("runs", "gc", "--archived", "--yes")
    assert not kept.exists()
    assert (prepared.workspace / "runs" / names[1]).exists()
    store = [row for row in rows_of(prepared) if row["folder"] is None]
    assert [row["run"] for row in store] == [names[0]]  # the store keeps what it said
    assert store[0]["state"] == "INTERRUPTED"


def test_a_run_in_a_terminal_has_its_journal(inside_finished: InsideWorkbench) -> None:
    name = rows_of(inside_finished)[0]["run"]
    told = inside_finished("runs", "logs", name)
    assert "terminal" in told.stderr
    lines = told.stdout.splitlines()
    assert any(line.endswith("FINISHED") for line in lines)  # scores may have followed
    (score,) = [line for line in lines if "1.6 kimg" in line and "eval/fid" in line]
    row = rows_of(inside_finished)[0]
    assert f"eval/fid {row['fid']:.4g}" in score
    ended = inside_finished("runs", "logs", name, "--follow", "--lines", "2").stdout
    assert ended.splitlines() == lines[-2:]


def test_who_goes_on_elsewhere_is_told(copied: InsideWorkbench) -> None:
    """A lock that no process here is seen to hold, and a run that only the store knows."""
    folder = folder_of(copied)
    name = f"{folder.parent.name}/{folder.name}"
    held = "import sys, time; from workbench.workspace import exclusive; from pathlib import Path\n"
    held += "with exclusive(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(100)"
    lock = folder.with_name(f".{folder.name}.lock")
    process = subprocess.Popen(
        [sys.executable, "-c", held, str(lock)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        copied.monkeypatch.setattr("workbench.launching.control.holder_of", lambda lock: None)
        assert "stop it where it was started" in copied("runs", "stop", name, code=2).stderr
        copied.monkeypatch.undo()
        assert f"process {process.pid}" in copied("runs", "stop", name).stderr
        assert process.wait(20) == -signal.SIGTERM
    finally:
        process.kill()
    copied("runs", "rm", name, "--yes")
    (row,) = rows_of(copied)
    assert (row["folder"], row["run"], row["state"]) == (None, name, "FINISHED")
    assert rows_of(copied, "--local") == []
    assert f"a run of {row['host']}" in copied("runs", "stop", name, code=2).stderr


def test_runs_are_filtered_sorted_and_cut(copied: InsideWorkbench) -> None:
    folder = folder_of(copied)
    for seed, variant in ((7, "other"), (8, "other")):
        second(folder, f"{variant}-seed{seed}-x", seed=seed, variant=variant)
    whole = rows_of(copied)
    assert len(whole) == 3  # copies have the record of the first: the store adds nothing
    assert {"run", "state", "kimg", "total_kimg", "score", "best", "folder"} <= whole[0].keys()
    one, two = "other-seed7-x", "other-seed8-x"
    assert names_of(copied, "--variant", "other") == [one, two]
    assert names_of(copied, "--seed", "8,9") == [two]
    assert names_of(copied, "--variant", "other", "--seed", "0") == []
    assert names_of(copied, "--state", "Finished", "--limit", "1", "--sort", "-seed") == [two]
    assert names_of(copied, "--state", "failed", "--state", "running") == []
    assert names_of(copied, "--experiment", "t_range") == []
    assert len(names_of(copied, "--teacher", str(copied.teacher), "--method", "sid")) == 3
    assert names_of(copied, "--sort", "-seed")[:2] == [two, one]
    shutil.rmtree(folder.parent / one / "tracking")  # nothing measured: last, either way
    assert names_of(copied, "--sort", "fid")[-1] == names_of(copied, "--sort", "-fid")[-1] == one
    assert "'fid'" in copied("runs", "list", "--sort", "fidd", code=2).stderr
    assert "drop --json" in copied("runs", "list", "--watch", "--json", code=2).stderr
    assert {*State} == {*RunState} - {RunState.PENDING}


def test_the_list_outlives_its_store(copied: InsideWorkbench) -> None:
    nowhere = ("--tracking-uri", "http://127.0.0.1:9")
    listed = copied("runs", "list", *nowhere, "--json")
    assert "Only this workspace's runs" in listed.stderr
    assert len(json.loads(listed.stdout)) == 1


def test_a_watched_list_ends_with_ctrl_c(finished: Workbench) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        finished.command("runs", "list", "--watch"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "WORKBENCH_WORKSPACE": str(finished.workspace), "COLUMNS": "200"},
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"Ctrl-C ends") < 2:  # drawn, and drawn anew
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert b"FINISHED" in shown


def test_what_nothing_needs_goes_and_all_else_stays(copied: InsideWorkbench) -> None:
    """Of each kind one that may go beside one that must stay."""
    folder, root = folder_of(copied), copied.workspace
    last = max(folder.glob("checkpoints/nimg-*"))
    best = json.loads((last / "manifest.json").read_text())["progress"]["best_nimg"]
    old = last.with_name("nimg-000000000001")
    shutil.copytree(last, old)
    cut_off = folder / "checkpoints" / ".partial-nimg-000000000002"
    cut_off.mkdir()
    text = next((root / "cache" / "text").iterdir())
    unnamed = text.with_name("0123456789abcdef")
    shutil.copytree(text, unnamed)
    latents = root / "cache" / "latents" / "fedcba9876543210"
    latents.mkdir(parents=True)
    stale, new = (root / "cache" / f".x.json.host-{n}.partial" for n in "12")
    for path in (stale, new):
        path.write_text("half")
    age(stale)
    place, config = open_workspace(root), load_config(folder / "config.json")
    for seed in (50, 51):
        other = config.model_copy(update={"seed": seed})
        RunSpec(other, place, default_uri(root)).write()
    gone, fresh = sorted((root / "jobs").glob("*/*.json"))
    gone.with_suffix(".log").write_text("why it failed")
    for path in gone.parent.glob(f"{gone.stem}.*"):
        age(path)
    running = second(folder, "running", seed=9)
    with exclusive(running.with_name(".running.lock"), "running"):
        listed = json.loads(copied("runs", "gc", "--dry-run", "--json").stdout)
        assert sum(row["droppable"] for row in copied.json("runs", "du")) > 0
    go = [old, cut_off, unnamed, latents, stale, gone, gone.with_suffix(".log")]
    gone_too = [p for p in folder.glob("checkpoints/**/nimg-*") if _may_go(p, last, best)]
    assert {row["path"] for row in listed} == {str(path) for path in {*go, *gone_too}}
    size = sum(file.stat().st_size for file in old.rglob("*") if file.is_file())
    (row,) = (row for row in listed if row["path"] == str(old))
    assert row["bytes"] == size
    assert "neither its last nor its best" in row["reason"]
    shutil.rmtree(running)
    assert "--yes" in copied("runs", "gc", code=2).stderr
    assert all(path.exists() for path in go)
    copied("runs", "gc", "--yes")
    assert not any(path.exists() for path in go)
    for path in (last, text, new, fresh, folder / "results.json"):
        assert path.exists(), path
    sampled = copied("sample", folder.name, "--prompt", "a seven", "--out", str(root / "x.png"))
    assert sampled.returncode == 0
    assert copied("runs", "gc").stderr.strip() == "Everything here is needed."
    # Where a teacher is not here, nobody can say which encoded prompts its run needs.
    settings = json.loads((folder / "config.json").read_text())
    lost = {**settings, "teacher": str(root / "nowhere")}
    (folder / "config.json").write_text(json.dumps(lost))
    shutil.copytree(text, unnamed)
    assert copied("runs", "gc").stderr.strip() == "Everything here is needed."


def _may_go(path: Path, last: Path, best: int | None) -> bool:
    number = int(path.name.removeprefix("nimg-"))
    return path != last and number != best


def test_names_complete_in_the_shell(finished: Workbench) -> None:
    """As bash asks: the program itself answers, quickly, and never with a traceback."""
    run = finished.only_run()
    code = (
        "import sys; sys.argv[0] = 'workbench'; from workbench.cli.main import run_cli; run_cli()"
    )

    def complete(*words: str, workspace: Path = finished.workspace) -> set[str]:
        ended = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code],
            env={
                **os.environ,
                "WORKBENCH_WORKSPACE": str(workspace),
                "_WORKBENCH_COMPLETE": "complete_bash",
                "COMP_WORDS": " ".join(("workbench", *words)),
                "COMP_CWORD": str(len(words)),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in ended.stderr
        loaded = set(re.findall(r"\| +(\w+)$", ended.stderr, re.MULTILINE))
        assert loaded.isdisjoint({"torch", "mlflow", "pandas", "optuna", "sqlalchemy"})
        return set(ended.stdout.split())

    name = f"{run.parent.name}/{run.name}"
    assert complete("runs", "show", "quick") == {name}
    assert complete("runs", "stop", name, "quick") == {name}
    assert complete("runs", "list", "--state", "inter") == {"interrupted"}
    assert complete("runs", "list", "--sort", "sco") == {"score"}
    assert complete("run", "t_ra") == {"t_range"}
    assert complete("experiments", "show", "t_ra") == {"t_range"}
    assert complete("evaluate", name, "--metric", "fid,ki") == {"fid,kid"}
    variants = find_experiments().experiments["t_range"].variants
    last = sorted(variants)[-1]
    assert last in complete("run", "t_range", "--variant", last[:1]) <= {*variants}
    nowhere = finished.workspace.parent / "nowhere"
    assert complete("runs", "show", "quick", workspace=nowhere) == set()
    assert not nowhere.exists()


def test_a_slurm_job_that_waits_is_known_and_stopped(
    inside_finished: InsideWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has neither a folder nor a log yet; scancel hears what the launcher would say."""
    config = load_config(inside_finished.only_run() / "config.json")
    inside_finished.workspace = tmp_path / "cluster"
    place = open_workspace(inside_finished.workspace)
    job = RunSpec(config, place, default_uri(place.root))
    job.write()
    submission = submission_file(place, job.folder)
    submission.parent.mkdir()
    submission.write_text("17")
    heard = tmp_path / "heard"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    scripts = {"squeue": "echo '17 PENDING'", "scancel": f'echo "$@" >> {heard}'}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    name = job.folder.name
    assert inside_finished("runs", "logs", name).stdout == ""
    assert inside_finished("runs", "gc").stderr.strip() == "Everything here is needed."
    age(place.root / "jobs")  # even then: Slurm may still start it
    assert inside_finished("runs", "gc").stderr.strip() == "Everything here is needed."
    assert "Slurm job 17" in inside_finished("runs", "stop", name).stderr
    assert heard.read_text() == "--state=PENDING 17\n--signal=USR1 17\n"
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    refused = inside_finished("runs", "stop", name, code=1)
    assert "squeue does not answer" in refused.stderr
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '17 FAILED'\n")
    assert "does not go on" in inside_finished("runs", "stop", name, code=2).stderr
    (submission.parent / "17.exit").write_text("1\n")
    age(place.root / "jobs")
    inside_finished("runs", "gc", "--yes")
    assert [file.name for file in (place.root / "jobs").rglob("*") if file.is_file()] == []


def test_a_built_reference_stays_and_its_left_over_features_may_go(copied: InsideWorkbench) -> None:
    place = open_workspace(copied.workspace)
    record = ReferenceRecord("mine", 4, "images", None, 32, "all", LOOKED, "mine")
    rows = {"inception": ReferenceRows(np.zeros((4, 2), np.float32))}
    save_reference(place.root / "references" / "mine", record, (), rows)
    seen = FeatureCache(place.cache / "features", {"images": record.images_hash}).folder
    seen.mkdir(parents=True)
    offered = {
        row["path"] for row in json.loads(copied("runs", "gc", "--dry-run", "--json").stdout)
    }
    with exclusive(place.root / "references" / ".mine.lock", "being built"):
        being_built = json.loads(copied("runs", "gc", "--dry-run", "--json").stdout)
    assert str(place.root / "references" / "mine") not in offered
    assert offered - {row["path"] for row in being_built} == {str(seen)}
