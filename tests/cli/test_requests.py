"""What a wrong request gets: one clear line, exit code 2, nothing changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import InsideWorkbench

COMMANDS = [
    ["run"],
    ["evaluate"],
    ["sample"],
    ["teachers", "list"],
    ["teachers", "build"],
    ["teachers", "sample"],
    ["runs", "list"],
    ["runs", "sync"],
    ["experiments", "list"],
    ["studies", "run"],
    ["ui"],
    ["doctor"],
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikstart"], "Unknown experiment 'quikstart'. Did you mean 'quickstart'?"),
        (["run", "quickstart", "--variant", "x"], "Unknown variant of quickstart 'x'"),
        (["run", "quickstart", "--set", "training.bach_size=3"], "Did you mean 'training.batch_s"),
        (["run", "quickstart", "--set", "method.t_range=[0.9,0.1]"], "0 <= low < high <= 1"),
        (["run", "quickstart", "--set", "generator.steps=0"], "generator.steps"),
        (["run", "quickstart", "--nproc", "3"], "128 is not divisible by 3 ranks"),
        (["run", "quickstart", "--teacher", "digits-sanna"], "Did you mean 'digits-sana'?"),
        (["run", "missing.json"], "missing.json"),
        (
            ["run", "quickstart", "--recipe", "digts"],
            "Unknown recipe 'digts'. Did you mean 'digits'",
        ),
        (
            ["run", "quickstart", "--teacher", "digits-sd3", "--set", "teacher=digits-sana"],
            "Two sources for one value: --teacher digits-sd3 and --set teacher",
        ),
        (
            ["run", "quickstart", "--set", "evaluation.primary=kid"],
            "the primary metric 'kid' is not measured: metrics are fid, alignment",
        ),
        (
            ["run", "quickstart", "--set", "evaluation.reference=null"],
            "fid compares with real images: set evaluation.reference",
        ),
        (
            ["run", "quickstart", "--set", "evaluation.reference=coco"],
            "Build it: workbench references build coco",
        ),
        (
            ["run", "quickstart", "--set", 'evaluation.metrics=["fid","clip"]'],
            "The weights 'clip' are missing: open_clip ViT-g-14",
        ),
        (["evaluate", "nothing"], "Unknown run or teacher 'nothing'"),
        (["evaluate", "digits-sana", "--metric", "fidd"], "Unknown metric 'fidd'. Did you mean"),
        (["evaluate", "digits-sana", "--steps", "four"], "expected whole numbers as in 4,2,1"),
        (["evaluate", "digits-sana", "--steps", "0"], "at least 1"),
        (["sample", "nothing"], "Unknown run or teacher"),
        (["teachers", "build", "digits"], "Unknown embedded teacher 'digits'. Did you mean"),
        (["studies", "run", "nothing"], "Unknown experiment"),
    ],
)
def test_one_line_and_exit_code_2(
    workbench: InsideWorkbench, arguments: list[str], message: str
) -> None:
    answer = workbench(*arguments, code=2)
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""
    assert not list(workbench.workspace.glob("runs/*/*"))


def test_a_damaged_teacher_is_named(workbench: InsideWorkbench, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(workbench.teacher, broken)
    (weights,) = (broken / "transformer").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    asked = ("run", "quickstart", "--teacher", str(broken), "--recipe", "digits")
    answer = workbench(*asked, code=2)
    assert weights.name in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_workspace_of_another_version(workbench: InsideWorkbench) -> None:
    workbench.workspace.mkdir()
    (workbench.workspace / "workspace.json").write_text(json.dumps({"version": 99}))
    answer = workbench("runs", "list", code=2)
    assert "has version 99; this workbench reads version 1" in answer.stderr


def test_a_foreign_folder_is_left_alone(workbench: InsideWorkbench) -> None:
    workbench.workspace.mkdir()
    (workbench.workspace / "thesis.tex").write_text("precious")
    assert "is not a workspace" in workbench("run", "quickstart", code=2).stderr
    assert [path.name for path in workbench.workspace.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_with_an_example(workbench: InsideWorkbench, command: list[str]) -> None:
    text = workbench(*command, "--help").stdout
    assert f"Example:  workbench {' '.join(command)}" in text


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from workbench.cli.main import app; "
        "print([m for m in ('torch', 'pydantic', 'mlflow', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_dry_run_shows_and_starts_nothing(workbench: InsideWorkbench) -> None:
    plan = workbench.json(
        "run", "quickstart", "--seed", "3", "--set", "method.sid_alpha=1.2", "--dry-run"
    )
    assert (plan["seed"], plan["method"]["sid_alpha"]) == (3, 1.2)
    assert not list(workbench.workspace.glob("runs/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--teacher", "digits-sanna"], "Did you mean 'digits-sana'?"),
        (["--set", "prompts.source=nowhere.txt"], "There is no prompt file 'nowhere.txt'"),
        (["--tracking-uri", "somewhere"], "Cannot track to 'somewhere'"),
        (["--nproc", "3"], "not divisible by 3 ranks"),
    ],
)
def test_dry_run_refuses_what_the_run_refuses(
    workbench: InsideWorkbench, changes: list[str], message: str
) -> None:
    said = [
        workbench("run", "quickstart", *changes, *more, code=2).stderr
        for more in ([], ["--dry-run"])
    ]
    assert message in said[0]
    assert said[0] == said[1]
    assert not (workbench.workspace / "plans").exists()


def test_json_is_the_only_thing_on_stdout(workbench: InsideWorkbench) -> None:
    checks = {row["name"]: row["passed"] for row in workbench.json("doctor")}
    assert {row["name"] for row in workbench.json("teachers", "list")} >= {"digits-sana"}
    assert workbench.json("runs", "list") == []
    assert "quickstart" in {row["name"] for row in workbench.json("experiments", "list")}
    assert checks["tracking store"]
    assert checks["image operators"]


def test_saved_settings_are_the_same_run(workbench: InsideWorkbench, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    plan = workbench.json(*workbench.quick("--dry-run", "--seed", "4"))
    file.write_text(json.dumps(plan))
    again = workbench.json("run", str(file), "--dry-run")
    assert set(again.pop("origins").values()) == {str(file)}
    assert again == {key: value for key, value in plan.items() if key != "origins"}
    changed = workbench.json("run", str(file), "--dry-run", "--set", "training.kimg=9")
    assert changed["origins"]["training.kimg"] == "--set"
