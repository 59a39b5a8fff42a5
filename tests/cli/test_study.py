"""Studies at the command line: from a first trial to a promoted variant, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.conftest import InsideWorkbench, Workbench
from tests.drill import BRIEF
from tests.services import free_port
from workbench.teachers.catalog import default_teacher
from workbench.tracking import default_uri, list_runs
from workbench.tracking.store import open_store
from workbench.training.recipes import recipe_for

EXPERIMENT = """
name = "searched"
question = "?"
hypothesis = "!"
[variants.default]
[space]
method.sid_alpha = { low = 0.8, high = 1.4 }
generator.noise = ["fresh", "ddim"]
[study]
sampler = "random"
heartbeat_s = 1
grace_s = 2
"""


@pytest.fixture
def searched(
    prepared: InsideWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> InsideWorkbench:
    """A workspace that has evaluated before, and an experiment with a space and a quick pace."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "searched.toml").write_text(EXPERIMENT)
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(folder))
    return prepared


def study_run(workbench: Workbench, *more: str, settings: tuple[str, ...] = ()) -> list[str]:
    chosen = {text.partition("=")[0]: text for text in (*BRIEF, *settings)}
    assignments = [part for text in chosen.values() for part in ("--set", text)]
    recipe = recipe_for(default_teacher()).name
    base = ["--teacher", str(workbench.teacher), "--recipe", recipe, *assignments]
    return ["studies", "run", "searched", *base, *more]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if "worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE
    ]


def test_from_a_first_trial_to_a_promoted_variant(
    searched: InsideWorkbench, tmp_path: Path
) -> None:
    first = searched.json(*study_run(searched, "--trials", "1"))
    assert (first["counts"]["complete"], first["total"]) == (1, 1)
    searched("studies", "enqueue", "searched", "--set", "method.sid_alpha=1.25")
    second = searched(*study_run(searched, "--trials", "2", "--workers", "2"))
    assert "2 of 2 trials ended (2 complete)" in second.stderr
    assert "Best of 2 complete trials" in second.stdout

    status = searched.json("studies", "status", "searched")
    assert (status["ended"], status["counts"]["waiting"], status["running"]) == (2, 0, [])
    assert "2 of 2 trials ended" in searched("studies", "status", "searched").stdout
    (best,) = searched.json("studies", "best", "searched")["best"]
    assert best["values"]["fid"] == min(status["history"])
    assert "FID" in searched("studies", "best", "searched").stdout

    files = searched.json("studies", "plot", "searched", "--out", str(tmp_path / "figures"))
    assert {Path(file).name for file in files} >= {"history.png", "slices.svg", "history.csv"}
    assert all(Path(file).stat().st_size > 50 for file in files)
    refused = searched("studies", "importance", "searched", code=2).stderr
    assert "2 complete trials; importance needs at least 4" in refused

    uri = default_uri(searched.workspace)
    runs = list_runs(uri, "study-searched")
    (parent,) = [run for run in runs if run.tags["kind"] == "study"]
    assert (parent.status, len(runs)) == ("FINISHED", 3)
    assert parent.metrics["best/fid"] == best["values"]["fid"]

    listed = searched.json("studies", "trials", "searched", "--sort", "fid")
    assert [trial["values"]["fid"] for trial in listed] == sorted(status["history"])
    assert all(trial["duration"] > 0 and len(trial["runs"]) == 1 for trial in listed)
    alone = ("--state", "complete", "--limit", "1", "--format", "csv")
    names, values = searched("studies", "trials", "searched", *alone).stdout.splitlines()
    row = dict(zip(names.split(","), values.split(","), strict=True))
    assert (row["trial"], row["state"]) == ("0", "complete")
    assert float(row["fid"]) == status["history"][0]
    assert (
        "0 trials of searched"
        in searched("studies", "trials", "searched", "--state", "lost").stdout
    )
    wrong = searched("studies", "trials", "searched", "--sort", "fidd", code=2).stderr
    assert "Unknown column of trials 'fidd'. Did you mean 'fid'?" in wrong

    told = searched.json(
        *("studies", "promote", "searched", "--trial", str(best["number"]), "--variant", "tuned")
    )
    assert Path(told["file"]).parent == tmp_path / "experiments"
    plan = searched.json("run", "searched", "--variant", "tuned", "--dry-run")
    assert plan["method"]["sid_alpha"] == pytest.approx(best["params"]["method.sid_alpha"])
    assert plan["teacher"] == str(searched.teacher)
    assert plan["evaluation"]["student_steps"] is None  # the base's, not the trial's own

    assert "add --yes" in searched("studies", "rm", "searched", code=2).stderr
    gone = searched("studies", "rm", "searched", "--yes").stderr
    assert "searched.v1 in sqlite" in gone
    assert "2 trials. Their runs stay, as study-searched/...: 2 in this workspace." in gone
    assert "Unknown study" in searched("studies", "status", "searched", code=2).stderr
    assert [run.tags["kind"] for run in list_runs(uri, "study-searched")] == ["run", "run"]
    assert open_store(uri).get_run(parent.run_id).info.lifecycle_stage == "deleted"
    assert len(list(searched.workspace.glob("runs/study-searched/*/results.json"))) == 2


def test_a_space_of_ones_own_and_any_metric(searched: InsideWorkbench) -> None:
    """Conditions, whole numbers, and a metric whose highest value is the best."""
    arguments = study_run(searched, "--trials", "3", "--objective", "alignment")
    spaces = ("method.name=sid|dmd", "method.sid_alpha=0.8..1.4 if method.name=sid")
    arguments += [part for text in (*spaces, "generator.steps=1..2") for part in ("--space", text)]
    done = searched.json(*arguments)
    assert (done["counts"]["complete"], done["objectives"]) == (3, {"alignment": "maximize"})
    (best,) = done["best"]
    assert best["values"]["alignment"] == max(done["history"])
    trials = [
        json.loads(file.read_text()) for file in searched.workspace.glob("runs/*/*/config.json")
    ]
    assert {config["generator"]["steps"] for config in trials} <= {1, 2}
    assert {config["generator"]["noise"] for config in trials} == {"fresh"}  # not searched here
    assert ("method.sid_alpha" in best["params"]) == (best["params"]["method.name"] == "sid")
    number = str(best["number"])
    searched("studies", "promote", "searched", "--trial", number, "--variant", "highest")
    plan = searched.json("run", "searched", "--variant", "highest", "--dry-run")
    assert plan["method"]["name"] == best["params"]["method.name"]
    assert plan["generator"]["steps"] == best["params"]["generator.steps"]
    assert plan["training"]["kimg"] == 0.032


def test_a_killed_worker_is_started_again_and_ctrl_c_keeps_everything(
    searched: InsideWorkbench,
) -> None:
    settings = ("training.kimg=1.6", "schedule.evaluate_kimg=1.6")
    arguments = study_run(searched, "--trials", "1", settings=settings)
    process = searched.start(*arguments)
    reached = searched.nimg_reached(32)
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    (worker,) = workers_of(process)
    worker.send_signal(signal.SIGKILL)
    assert process.stderr is not None
    line = ""
    while "was killed by signal 9 and is started again" not in line:
        line = process.stderr.readline()
        assert line, "the study ended"
    # The new worker waits until the old one's silence is long enough, and goes on.
    before = max(int(p.name[5:]) for p in searched.workspace.glob("runs/*/*/checkpoints/nimg-*"))
    again = searched.nimg_reached(before + 32)
    while not again():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Stopped; running trials wait with their checkpoints" in error
    assert "Traceback" not in error
    status = searched.json("studies", "status", "searched")
    assert status["counts"]["waiting"] == 1

    done = searched.json(*arguments)
    assert (done["counts"]["complete"], done["best"][0]["attempts"]) == (1, 2)
    assert len(list(searched.workspace.glob("runs/study-searched/*/config.json"))) == 1


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--sampler", "tpee"], 2, "'random'. Did you mean 'tpe'?"),
        (["--pruner", "mediann"], 2, "'none'. Did you mean 'median'?"),
        (["--objective", "fidd"], 2, "Unknown objective 'fidd'. Did you mean 'fid'?"),
        (["--objective", "clip"], 2, "do not measure clip. --objective takes one of fid, align"),
        (["--set", "evaluation.metrics=[]"], 2, "evaluation.metrics is empty. Set it, or name"),
        (["--space", "generator.steps=4"], 2, "Cannot read --space 'generator.steps=4': expected"),
        (["--space", "generator.stps=1..4"], 2, "Did you mean 'generator.steps'?"),
        (["--space", "generator.noise=fresh|dimm"], 2, "reaches generator.noise = dimm."),
        (["--set", "method.sid_alpha=1"], 2, "has no effect: the study searches method.sid_alpha"),
        (["--recipe", "digit"], 2, "Unknown recipe 'digit'. Did you mean 'digits'?"),
        (["--teacher", "a", "--set", "teacher=b"], 2, "Two sources for one value"),
        (["--recipe", "a", "--set", "recipe=a"], 2, "--recipe a and --set recipe=...; drop one"),
        (["--pruner", "wilcoxon", "--seed", "0,1"], 2, "give at least 5 seeds (got 2)"),
        (["--objective", "fid", "--objective", "alignment", "--pruner", "median"], 2, "needs one"),
        (["--set", "method.sid_alfa=1"], 2, "Did you mean 'method.sid_alpha'?"),
        (["--set", "seed=3"], 2, "take their seeds from --seed"),
        (["--teacher", "digits-sanna"], 2, "digits-sana"),
        (["--set", "prompts.source=/nowhere.txt"], 2, "/nowhere.txt"),
        (["--nproc", "3"], 2, "128 is not divisible by 3 ranks"),
        (["--name", "a/b"], 2, "Study name 'a/b' is not possible"),
        (["--storage", "mysql://u:hunter2@h/d"], 2, "'mysql://u:***@h/d'"),
        (["--storage", "postgresql://u:hunter2@127.0.0.1:9/d"], 1, "does not answer"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(
    searched: InsideWorkbench, more: list[str], code: int, message: str
) -> None:
    answer = searched("studies", "run", "searched", *more, code=code)
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert "hunter2" not in answer.stderr
    assert not (searched.workspace / "optuna.db").exists()
    assert not list(searched.workspace.glob("runs/*"))


def test_a_study_that_is_not_there_or_searches_otherwise(searched: InsideWorkbench) -> None:
    from workbench.registry import get_experiment
    from workbench.studies import StudySettings, StudySpec
    from workbench.studies.storage import StudyStorage, default_storage
    from workbench.studies.study import create_or_continue

    for command in (["status", "x"], ["best", "x"], ["worker", "x"], ["plot", "x"]):
        assert "Unknown study in sqlite:" in searched("studies", *command, code=2).stderr
    missing = searched("studies", "run", "methods", code=2).stderr
    assert "declares no search space" in missing
    assert "--space generator.steps=1..8" in missing
    assert '[space] "generator.steps" = { low = 1, high = 8 }' in missing
    assert missing.count("\n") == 1
    assert "holds no study yet" in searched("studies", "dashboard", code=2).stderr

    experiment = get_experiment("searched")
    spec = StudySpec(
        "searched",
        "searched",
        experiment.variant(),
        experiment.space,
        experiment.study or StudySettings(),
    )
    create_or_continue(StudyStorage(default_storage(searched.workspace)), spec)
    refused = searched("studies", "run", "searched", "--sampler", "gp", code=2).stderr
    assert "Study 'searched' searches otherwise: sampler: random -> gp" in refused
    nothing = searched("studies", "best", "searched", code=2).stderr
    assert "No trial of searched is complete yet" in nothing
    promote = ("studies", "promote", "searched", "--trial", "0", "--variant", "v")
    assert "complete are: none" in searched(*promote, code=2).stderr
    wrong = ("--set", "generator.noise=dimm")
    assert "fresh | ddim" in searched("studies", "enqueue", "searched", *wrong, code=2).stderr


@pytest.mark.parametrize(
    "command",
    [
        "worker",
        "status",
        "best",
        "importance",
        "plot",
        "dashboard",
        "trials",
        "enqueue",
        "promote",
        "rm",
    ],
)
def test_help_explains_with_an_example(workbench: InsideWorkbench, command: str) -> None:
    assert (
        f"Example:  workbench studies {command} " in workbench("studies", command, "--help").stdout
    )


def test_the_dashboard_serves_the_studies_on_loopback(searched: InsideWorkbench) -> None:
    from workbench.registry import get_experiment
    from workbench.studies import StudySpec
    from workbench.studies.storage import StudyStorage, default_storage
    from workbench.studies.study import create_or_continue

    experiment = get_experiment("searched")
    spec = StudySpec("searched", "searched", experiment.variant(), experiment.space)
    create_or_continue(StudyStorage(default_storage(searched.workspace)), spec)
    port = free_port()
    process = searched.start("studies", "dashboard", "--port", str(port))
    try:
        found = _studies(process, port)
        open_ = psutil.Process(process.pid).net_connections()
        assert {c.laddr.ip for c in open_ if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert [study["study_name"] for study in found] == ["searched"]


def _studies(process: subprocess.Popen[str], port: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5) as page:
                content: dict[str, Any] = json.load(page)
                return list(content["study_summaries"])
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
