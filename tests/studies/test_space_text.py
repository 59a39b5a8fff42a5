"""Search spaces as a file and a command line write them, and what is wrong with them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.registry import find_experiments, get_experiment
from workbench.studies import Choice, Integer, Real, StudySettings, StudySpec
from workbench.studies.space_text import read_options, read_table
from workbench.training.overrides import setting_types, takes_whole_numbers
from workbench.training.recipes import run_config

TABLE = """
"method.name" = ["sid", "sid2a"]
training.optimizers.generator.lr = { low = 1e-4, high = 2e-3, log = true }
"method.guidance.eval_teacher" = { low = 1, high = 6 }
generator.steps = { low = 1, high = 8 }
"training.batch_size" = { low = 32, high = 128, step = 32 }
"training.lora.rank" = { low = 4, high = 64, log = true }
"method.t_range" = { values = [[0.0, 1.0], [0.0, 0.5]], when = { method.name = ["sid"] } }
"method.sid_alpha" = { low = 0.8, high = 1.4, when = { "generator.steps" = [2, 4] } }
"""
OPTIONS = [
    "method.name=sid|sid2a",
    "training.optimizers.generator.lr=1e-4..2e-3:log",
    "method.guidance.eval_teacher=1..6",
    "generator.steps=1..8",
    "training.batch_size=32..128:32",
    "training.lora.rank=4..64:log",
    "method.t_range=[0.0, 1.0] | [0.0, 0.5] if method.name=sid",
    "method.sid_alpha=0.8..1.4 if generator.steps=2|4",
]
SPACE = {
    "method.name": Choice(("sid", "sid2a")),
    "training.optimizers.generator.lr": Real(1e-4, 2e-3, log=True),
    "method.guidance.eval_teacher": Real(1.0, 6.0),  # whole ends of a setting that is not
    "generator.steps": Integer(1, 8),
    "training.batch_size": Integer(32, 128, step=32),
    "training.lora.rank": Integer(4, 64, log=True),
    "method.t_range": Choice(((0.0, 1.0), (0.0, 0.5)), when={"method.name": ("sid",)}),
    "method.sid_alpha": Real(0.8, 1.4, when={"generator.steps": (2, 4)}),
}


def test_a_file_and_a_command_line_say_the_same() -> None:
    for space in (read_table(tomllib.loads(TABLE)), read_options(OPTIONS)):
        assert space == SPACE
        assert {key: type(d) for key, d in space.items()} == {k: type(d) for k, d in SPACE.items()}
    assert list(read_options(OPTIONS)) == list(SPACE)


def test_several_conditions_and_numbers_of_all_kinds() -> None:
    space = read_options(
        [
            "method.name=sid|sid2a",
            "generator.noise=fresh|ddim",
            "training.gradient_checkpointing=true|false",
            "generator.steps=1e0..4",
            "method.guidance.train_fake=-1..-.5 if method.name=sid and generator.noise=fresh|ddim",
        ]
    )
    assert space["generator.steps"] == Integer(1, 4)
    assert space["training.gradient_checkpointing"].values == (True, False)
    when = {"method.name": ("sid",), "generator.noise": ("fresh", "ddim")}
    assert space["method.guidance.train_fake"] == Real(-1.0, -0.5, when=when)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("generator.steps = 4", r"generator.steps: expected { low = ..., high = ... } or a list"),
        ("generator.steps = { lo = 1, high = 8 }", "steps: Unknown entry 'lo'. Did you mean 'low'"),
        ("generator.steps = { lo = 1 }", "steps: Unknown entry 'lo'. Did you mean 'low'"),
        ("generator.stps = { low = 1, high = 8 }", "'generator.stps'. Did you mean 'generator.st"),
        ("generator.stps = { lo = 1 }", "'generator.stps.lo'. Did you mean 'generator.steps'"),
        ("generator.steps = { low = 1 }", "generator.steps: expected .* low or high is missing"),
        ('generator.steps = { low = "1", high = 8 }', "low is expected to be a number .got '1'"),
        ("generator.steps = { low = 1.5, high = 8 }", "takes whole numbers, and low is 1.5"),
        ("generator.steps = { low = 8, high = 1 }", "lower end 8 is above the upper end 1"),
        ("generator.steps = { low = 1, high = 8, step = 2 }", "step of 2 does not lead from 1 to"),
        ("generator.steps = { low = 1, high = 8, log = 1 }", "log is expected to be true or false"),
        ("generator.steps = { values = 4 }", "values is expected to be a list .got 4"),
        ("generator.steps = []", "generator.steps: expected at least one value"),
        ("method.sid_alpha = { low = 0.5, high = 1.5, step = 0.5 }", "whole numbers alone"),
        ("method.sid_alpha = { low = 0, high = 1, log = true }", "lower end above 0"),
        ("method.sid_alpha = { values = [1.0], low = 2 }", "sid_alpha: Unknown entry 'low'"),
        ("method.sid_alpha = { low = 0, high = 1, when = 1 }", "when is expected to be { KEY"),
        (
            'method.sid_alpha = { low = 0, high = 1, when = { method.name = "sid" } }',
            "when method.name is expected to be a list of values .got 'sid'",
        ),
        (
            'method.sid_alpha = { low = 0, high = 1, when = { method.name = ["sid"] } }',
            "Unknown key in the condition of method.sid_alpha 'method.name'",
        ),
        ("seed = [0, 1]", "sets seed of its runs by itself"),
        ("evaluation.samples = [10, 20]", "cannot be compared"),
    ],
)
@pytest.mark.parametrize("where", ["space", "tasks.digits.space"])
def test_a_wrong_space_in_a_file_names_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, entry: str, expected: str
) -> None:
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path))
    file = tmp_path / "wrong.toml"
    file.write_text(f'name = "wrong"\n[variants.x]\n[{where}]\n{entry}\n')
    with pytest.raises(RequestError, match=expected) as caught:
        get_experiment("wrong")
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[study]\nsamplr = 'gp'\n", "Unknown study setting 'samplr'. Did you mean 'sampler'"),
        ("[study]\nsampler = 'gpp'\n", "Unknown sampler 'gpp'. Did you mean 'gp'"),
        ("[study]\nobjectives = ['clipp']\n", "Unknown objective 'clipp'. Did you mean 'clip'"),
        ("[tasks.digts.space]\ngenerator.steps = [1, 2]\n", "Unknown task 'digts'. Did you mean"),
    ],
)
def test_a_wrong_study_or_task_in_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path))
    (tmp_path / "wrong.toml").write_text(f'name = "wrong"\n[variants.x]\n{text}')
    with pytest.raises(RequestError, match=expected):
        get_experiment("wrong")
    (tmp_path / "wrong.toml").write_text(f'extends = "quickstart"\n[variants.x]\n{text}')
    with pytest.raises(RequestError, match=r"\[(study|tasks)\] is for the file of the experiment"):
        get_experiment("wrong")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("generator.steps", "expected KEY=LOW..HIGH"),
        ("generator.steps=4", "expected KEY=LOW..HIGH"),
        ("generator.steps=1..", "expected KEY=LOW..HIGH"),
        ("generator.steps=1..8:", "expected KEY=LOW..HIGH"),
        ("generator.steps=1..8:lgo", "expected KEY=LOW..HIGH"),
        ("=1..8", "expected KEY=LOW..HIGH"),
        ("generator.stps=1..8", "Did you mean 'generator.steps'"),
        ("generator.steps=1..8.5", "takes whole numbers, and high is 8.5"),
        ("method.sid_alpha=0.5..1.5:0.5", "whole numbers alone"),
        ("method.sid_alpha=0.5..1.5 if", "expected KEY=LOW..HIGH"),
        ("method.sid_alpha=0.5..1.5 if method.name", "expected KEY=A|B after 'if'"),
        ("method.sid_alpha=0.5..1.5 if method.name=sid and ", "expected KEY=A|B after 'if'"),
    ],
)
def test_a_wrong_option_is_quoted_with_what_is_expected(option: str, expected: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_options([option])
    assert expected in str(caught.value)


def test_one_setting_has_one_range() -> None:
    with pytest.raises(RequestError, match=r"gives generator\.steps twice"):
        read_options(["generator.steps=1..4", "generator.steps=1|2"])


def test_a_file_declares_space_and_study_for_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path))
    (tmp_path / "own.toml").write_text(
        'name = "own"\n[variants.x]\n[space]\n"method.sid_alpha" = { low = 0.5, high = 1.5 }\n'
        '[tasks.analytic.space]\n"generator.steps" = { low = 1, high = 4 }\n'
        '[study]\nobjectives = ["sliced_w2"]\nsampler = "gp"\nseeds = [0, 1]\n'
    )
    own = get_experiment("own")
    assert own.study == StudySettings(objectives=("sliced_w2",), sampler="gp", seeds=(0, 1))
    assert own.space_on(own.resolve()) == {"method.sid_alpha": Real(0.5, 1.5)}
    on_points = own.resolve(changes=["teacher=analytic-ring-8"])
    assert own.space_on(on_points) == {"generator.steps": Integer(1, 4)}


@pytest.mark.parametrize(
    "changes", [(), ("teacher=analytic-ring-8",), ("teacher=sana-0.6b-512", "task=coco")]
)
def test_the_built_in_spaces_can_be_searched(changes: tuple[str, ...]) -> None:
    searched = set()
    usual = run_config(*changes).training.optimizers["generator"].lr
    for name, experiment in find_experiments().experiments.items():
        resolved = experiment.resolve(changes=changes)
        space = experiment.space_on(resolved)
        if space:
            StudySpec(name, name, resolved.config, space).check()
            searched.add(name)
            rates = [d for key, d in space.items() if key.endswith(".lr")]
            assert all(d.low <= usual <= d.high for d in rates), name
    asking = {"t_range", "weighting", "t_density", "step_count", "noise_type", "sid_alpha"}
    assert searched >= asking | {"guidance", "data_budget", "quickstart"}


def test_the_types_of_settings() -> None:
    assert setting_types("training.micro_batch_size") == {int, type(None)}
    assert setting_types("training.optimizers.generator.lr") == {float}
    assert setting_types("method.adversarial.fake_weight") == {float}  # of one method alone
    assert setting_types("method.adversarial.fake_wait") == frozenset()
    assert setting_types("training.kimg.more") == frozenset()
    whole = ("generator.steps", "training.lora.rank", "data.limit", "method.fake_score_updates")
    assert all(takes_whole_numbers(key) for key in whole)
    assert not takes_whole_numbers("method.sid_alpha")
