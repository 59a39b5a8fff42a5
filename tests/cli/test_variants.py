"""An experiment of several variants: all run, one that fails does not stop the others."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import ONLY_RUNS, QUICK, InsideWorkbench
from workbench.teachers.catalog import default_teacher, embedded_teachers
from workbench.tracking import default_uri, list_runs
from workbench.training.recipes import recipe_for

FILE = """
name = "pair"
question = "Do variants run one after the other?"
hypothesis = "Yes."

[base]
recipe = "{recipe}"
"""


@pytest.fixture
def pair(
    prepared: InsideWorkbench,
    teacher_folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[str]]:
    """Writes an experiment of these variants; the arguments of its run of seconds."""
    own = tmp_path / "experiments"
    own.mkdir()
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(own))

    def write(**teachers: str) -> list[str]:
        text = FILE.format(recipe=recipe_for(default_teacher()).name)
        for name, kind in teachers.items():
            text += f"[variants.{name}]\nteacher = {json.dumps(str(teacher_folders(kind)))}\n"
        (own / "pair.toml").write_text(text)
        short = [*QUICK, "training.kimg=0.32", "schedule.evaluate_kimg=0.16"]
        return ["run", "pair", *(part for text in short for part in ("--set", text))]

    return write


def test_all_variants_run_and_share_a_figure(
    prepared: InsideWorkbench, pair: Callable[..., list[str]]
) -> None:
    arguments = pair(sana="SanaPipeline", flux="FluxPipeline")
    told = prepared(*arguments)
    assert told.stderr.index("[1/2] sana") < told.stderr.index("[2/2] flux")
    uri = default_uri(prepared.workspace)
    names = {run.name for run in list_runs(uri, "pair", where=ONLY_RUNS)}
    assert names == {"sana-seed0", "flux-seed0"}
    figure = prepared.workspace / "figures" / "pair.png"
    assert str(figure) in told.stdout
    assert figure.stat().st_size > 5000
    rows = (prepared.workspace / "figures" / "pair.csv").read_text().splitlines()[1:]
    # Evaluated at 0, 0.16 and 0.32 kimg each, in the experiment's order.
    assert [(row.split(",")[0], row.split(",")[4]) for row in rows] == [
        (name, kimg) for name in ("sana", "flux") for kimg in ("0.0", "0.16", "0.32")
    ]

    again = prepared.json(*arguments)
    assert [result["run"].split("/")[1].split("-")[0] for result in again["runs"]] == [
        "sana",
        "flux",
    ]
    one = prepared.json(*arguments, "--variant", "flux")
    assert one == again["runs"][1]
    plan = prepared(*arguments, "--dry-run").stdout
    assert plan.count("is finished:") == 2
    assert f"teacher={json.loads(json.dumps(one['teacher']['name']))}" in plan


def test_a_variant_that_fails_is_reported_and_the_others_run(
    prepared: InsideWorkbench, pair: Callable[..., list[str]]
) -> None:
    arguments = pair(bad="SanaPipeline", good="SanaSprintPipeline")
    # Every update of the first is skipped as not finite, so that it stops with an error.
    file = prepared.workspace.parent / "experiments" / "pair.toml"
    bad = "[variants.bad]\n"
    file.write_text(file.read_text().replace(bad, f"{bad}method.loss_scale = 1e38\n"))
    told = prepared(*arguments, "--set", "training.max_nonfinite=2", code=1)
    assert "bad, seed 0: 2 updates of generator in a row were not finite" in told.stderr
    assert told.stderr.rstrip().endswith("1 of 2 runs are done; the same command continues.")
    assert "pair/good-seed0" in told.stdout
    assert "pair/bad-seed0" not in told.stdout


def test_seeds_side_by_side_stop_together_and_go_on(
    prepared: InsideWorkbench, pair: Callable[..., list[str]]
) -> None:
    arguments = [*pair(one="SanaPipeline", two="SanaSprintPipeline"), "--seed", "0,1"]
    arguments += ["--parallel", "2", "--set", "training.kimg=0.32"]
    arguments += ["--set", "schedule.checkpoint_kimg=0.032"]
    stopped = prepared.signal_when(arguments, prepared.nimg_reached(96), signal.SIGTERM)
    assert stopped.returncode == 1
    assert stopped.stderr.rstrip().endswith("runs done; the same command continues.")
    (plan,) = prepared.json("experiments", "status", "pair")
    cells = {(cell["variant"], cell["seed"]): cell for cell in plan["cells"]}
    assert set(cells) == {(name, seed) for name in ("one", "two") for seed in (0, 1)}
    states = [cell["state"] for cell in cells.values()]
    assert states.count("interrupted") == 2
    assert "finished" not in states

    told = prepared(*arguments)
    assert told.stderr.count("done pair/") == 4
    logs = [file.read_text() for file in prepared.workspace.glob("jobs/pair/*.log")]
    # The one whose checkpoint was waited for; the other may have been stopped before its first.
    assert sum("Resuming at" in log for log in logs) >= 1
    assert told.stdout.count("│ one ") == told.stdout.count("│ two ") == 2
    (plan,) = prepared.json("experiments", "status", "pair")
    assert {cell["state"] for cell in plan["cells"]} == {"finished"}
    assert all(cell["kimg"] == 0.32 and cell["fid"] > 0 for cell in plan["cells"])
    shown = prepared("experiments", "status", "pair").stdout
    assert shown.count("± ") == 1 + 2  # the heading, and each variant once
    assert "4 of 4 runs are finished." in shown

    again = prepared(*arguments)
    assert again.stderr.count("finished before") == 4


def test_a_variant_that_changed_under_its_name_is_refused(
    prepared: InsideWorkbench, pair: Callable[..., list[str]]
) -> None:
    arguments = pair(sana="SanaPipeline")
    prepared("experiments", "register", "pair")
    file = prepared.workspace.parent / "experiments" / "pair.toml"
    file.write_text(file.read_text().replace("[base]\n", "[base]\nmethod.sid_alpha = 1.2\n"))
    prepared("run", "pair", "--dry-run", "--new-version")
    said = prepared("run", "pair", "--dry-run", code=2).stderr
    assert prepared("run", "pair", "--dry-run", "--seed", "7", code=2).stderr == said
    refused = prepared("run", "pair", code=2)
    assert refused.stderr == said
    assert "sana: method.sid_alpha 1.0 -> 1.2" in refused.stderr
    assert "--new-version" in refused.stderr
    assert not list(prepared.workspace.glob("runs/*/*"))
    plan = prepared.json("experiments", "register", "pair", "--new-version", "--seed", "3")
    assert (plan["version"], plan["seeds"]) == (2, [3])
    # Settings given on the command line are a plan of their own, and change no other.
    before = sorted(prepared.workspace.rglob("*"))
    prepared(*arguments, "--dry-run")
    assert sorted(prepared.workspace.rglob("*")) == before
    tried = prepared.json("experiments", "register", "pair", "--set", "training.kimg=1")
    assert (tried["version"], tried["changes"]) == (1, ["training.kimg=1"])


def test_nine_stand_ins_one_set_of_hyperparameters() -> None:
    """Figure 4's panels differ in nothing but the teacher, and cover every one of the digits."""
    from workbench.registry import get_experiment, make_plan

    plan = make_plan(get_experiment("nine_teachers"))
    variants = plan.variants.values()
    assert len(variants) == 9
    digits = {name for name, known in embedded_teachers().items() if known.data == "digits"}
    assert {config.teacher for config in variants} == digits
    names = {"teacher": "x", "variant": "x"}
    same = {config.model_copy(update=names).fingerprint() for config in variants}
    assert len(same) == 1
