"""Experiment files: found by lying in a folder; one that is wrong hides no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.registry import find_experiments, get_experiment, make_plan, write_variant
from workbench.training.recipes import run_config

TEN_LINES = """
name = "mine"
question = "Does it appear?"
hypothesis = "Yes."
[base]
training.kimg = 1.5
[variants.low]
method.t_range = [0.0, 0.5]
[variants."high.er"]
"method.t_range" = [0.5, 1.0]
method.weighting = "1/t"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(folder))
    return folder


def test_a_file_in_a_folder_is_an_experiment(own: Path) -> None:
    (own / "mine.toml").write_text(TEN_LINES)
    mine = get_experiment("mine")
    assert list(mine.variants) == ["low", "high.er"]
    assert mine.variant("low").method.t_range == (0.0, 0.5)
    assert mine.variant("high.er").method.weighting == "1/t"
    assert {mine.variant(name).training.kimg for name in mine.variants} == {1.5}
    assert (mine.space, mine.study) == ({}, None)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("bad.py", "x = 1\nEXPERIMENT = undefined_name\n", r"line 2 \(`EXPERIMENT = undefined_na"),
        ("bad.py", "def broken(:\n", "line 1: SyntaxError"),
        ("bad.py", "x = 1\n", "defines no EXPERIMENT"),
        (
            "bad.py",
            "from workbench.registry import Experiment\n"
            "EXPERIMENT = Experiment('a b', '', '', {'x': {}})\n",
            "line 2.*'a b' is not possible",
        ),
        ("bad.toml", "name = \n", "line 1"),
        ("bad.toml", 'name = "bad"\n[variants.x]\nmethod.wheighting = "1/t"\n', "method.weighting"),
        ("bad.toml", 'name = "bad"\ncolour = 1\n[variants.x]\n', "colour"),
        ("bad.toml", "[variants.x]\n", "either name = ... or extends"),
        ("bad.toml", 'extends = "quickstar"\n[variants.x]\n', "Did you mean 'quickstart'"),
        ("bad.toml", 'extends = "quickstart"\n[variants.default]\n', "has a variant 'default'"),
        ("bad.toml", 'name = "bad"\n[variants]\n', "has no variants"),
    ],
)
def test_a_wrong_file_says_where_and_the_others_still_list(
    own: Path, name: str, text: str, expected: str
) -> None:
    (own / "mine.toml").write_text(TEN_LINES)
    (own / name).write_text(text)
    found = find_experiments()
    assert "mine" in found.experiments
    (problem,) = found.problems
    assert problem.file == own / name
    with pytest.raises(RequestError, match=expected):
        get_experiment("bad") if problem.name is None else get_experiment(problem.name)


def test_two_experiments_of_one_name_are_neither(own: Path) -> None:
    (own / "one.toml").write_text(TEN_LINES)
    (own / "two.toml").write_text(TEN_LINES)
    with pytest.raises(RequestError, match=r"two\.toml.*defined twice, in .*one\.toml"):
        get_experiment("mine")
    assert "mine" not in find_experiments().experiments
    assert get_experiment("quickstart").name == "quickstart"


TASK_BASES = """
name = "scaled"
[base]
training.kimg = 3.0
[variants.plain]
method.sid_alpha = 1.1
[tasks.digits.base]
training.kimg = 9.0
schedule.evaluate_kimg = 1.0
[tasks.prompts.base]
training.kimg = 64.0
[tasks.coco.base]
generator.flow_shift = 2.0
[tasks.digits.variants.plain]
method.sid_alpha = 1.2
"""


def test_a_tasks_base_lies_over_the_experiments_and_a_variant_over_both(own: Path) -> None:
    (own / "scaled.toml").write_text(TASK_BASES + "[variants.long]\ntraining.kimg = 20.0\n")
    scaled = get_experiment("scaled")

    def settings(variant: str, *changes: str) -> tuple[float, float]:
        config = scaled.resolve(variant, changes).config
        return config.training.kimg, config.method.sid_alpha

    assert settings("plain") == (9.0, 1.2)
    assert settings("plain", "task=coco") == (3.0, 1.1)
    assert settings("long") == settings("long", "task=prompts") == (20.0, 1.0)
    assert settings("long", "training.kimg=21") == (21.0, 1.0)


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("training.kimg=0.5", "schedule.evaluate_kimg=0.25"),  # the task's base says otherwise
        ("teacher=sd3-medium", "task=prompts", "training.kimg=64", "generator.steps=2"),
        ("teacher=sd3-medium",),  # whose task's base has a shift, and its recipe none
        ("teacher=analytic-ring-8", "method.name=kd"),
        (
            "training.lora.rank=3",
            "method.t_range=[0.1, 0.75]",
            "method.weighting=(1-t)/t",
            "training.optimizers.generator.lr=0.000123",
            "generator.noise=ddim",
        ),
    ],
)
@pytest.mark.parametrize("experiment", ["quickstart", "scaled"])
def test_a_written_variant_reads_back_as_the_same_settings(
    own: Path, experiment: str, assignments: tuple[str, ...]
) -> None:
    (own / "scaled.toml").write_text(TASK_BASES)
    config = run_config(f"experiment={experiment}", "variant=found", *assignments)
    write_variant(own, experiment, "found", config, "told")
    assert get_experiment(experiment).variant("found") == config


def test_a_written_variant_is_a_file_of_its_own(own: Path) -> None:
    config = run_config("method.sid_alpha=1.3", "experiment=quickstart", "variant=found")
    file = write_variant(own, "quickstart", "found", config, 'study "x", trial 7')
    assert file.parent == own
    assert file.read_text().startswith('# study "x", trial 7\nextends')
    assert get_experiment("quickstart").variant("found") == config
    with pytest.raises(RequestError, match="--variant"):
        write_variant(own, "quickstart", "found", config, "")


def test_the_built_in_experiments_cover_what_they_promise() -> None:
    found = find_experiments()
    assert not found.problems
    plans = {name: make_plan(experiment) for name, experiment in found.experiments.items()}

    def values(name: str, key: str) -> set[str]:
        return {config.flat()[key] for config in plans[name].variants.values()}

    from workbench.flow.densities import DENSITIES
    from workbench.flow.weightings import WEIGHTINGS
    from workbench.methods.generator import NOISE_RULES

    assert len(values("t_range", "method.t_range")) >= 6
    assert values("weighting", "method.weighting") == set(WEIGHTINGS) - {"1"}
    assert values("t_density", "method.density") == set(DENSITIES)
    assert values("noise_type", "generator.noise") == set(NOISE_RULES)
    assert values("step_count", "generator.steps") == {"1", "2", "4", "8"}
    for config in plans["step_count"].variants.values():
        assert set(config.student_steps) == set(range(1, config.generator.steps + 1))
    scales = {
        name: tuple(config.method.guidance.model_dump().values())
        for name, config in plans["guidance"].variants.items()
    }
    # (training the fake score, evaluating it, evaluating the teacher); arXiv 2505.12674.
    assert scales["off"] == (1, 1, 1)
    assert scales["long-short-4.5"] == (4.5, 4.5, 4.5)
    assert scales["zero-cfg"] == (0, 0, 1)
    assert scales["anti-cfg"] == (-1, -1, 1)
    for name, plan in plans.items():
        hashes = list(plan.hashes.values())
        assert len(set(hashes)) == len(hashes), name
        if len({config.teacher for config in plan.variants.values()}) == 1:
            other = make_plan(found.experiments[name], ["teacher=sd3-medium"])
            assert {c.teacher for c in other.variants.values()} == {"sd3-medium"}
