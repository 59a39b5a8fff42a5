from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.methods import SiD2aConfig
from workbench.training.config import AdamConfig, RunConfig, load_config
from workbench.training.overrides import concerns, with_overrides


def test_overrides_reach_nested_keys_and_keep_the_original() -> None:
    base = RunConfig()
    changed = with_overrides(
        base,
        [
            "training.batch_size=64",
            "method.t_range=[0.2, 0.8]",
            "training.optimizers.generator.lr=1e-4",
        ],
    )
    assert changed.training.batch_size == 64
    assert changed.method.t_range == (0.2, 0.8)
    assert changed.training.optimizers["generator"].lr == 1e-4
    assert changed.training.optimizers["fake_score"].lr == base.training.optimizers["fake_score"].lr
    assert base.training.batch_size == 128


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.batchsize=64", "Did you mean 'training.batch_size'"),
        ("trainin.kimg=1", "Did you mean 'training.kimg'"),
        ("seed.x=1", "Unknown configuration key 'seed.x'"),
        ("training.batch_size", "expected KEY=VALUE"),
        ("training.batch_size=0", r"training.batch_size: .* greater than or equal to 1 \(got 0\)"),
        ("training.batch_size=lots", "valid integer"),
        ("generator.steps=0", "generator.steps"),
        ("generator.noise=frsh", "Did you mean 'fresh'"),
        ("method.weighting=1-tt", "Did you mean '1-t'"),
        ("method.density=sidd", "Did you mean 'sid'"),
        ("method.t_range=[0.8, 0.2]", "0 <= low < high <= 1"),
        ("method.t_range=[0, 1.2]", "0 <= low < high <= 1"),
        ("evaluation.student_steps=[8]", "exceed generator.steps"),
        ("training.kimg=NaN", "training.kimg"),
        ('training.optimizers={"critic": {"lr": 1}}', "trains fake_score, generator, .*for critic"),
        ("method.name=sdi", "Did you mean 'sid'"),
        ("method.name=sid2a", "learns from image-text pairs .*data.source"),
        ("method.adversarial.fake_weight=1", "is a setting of method sid2a; .* method is sid"),
        ("data.source=digits", "'sid' learns without data"),
        ("method.t_range=1", "method.t_range: "),
        ("experiment=a/b", "experiment"),
        ("method=dmd", "method is a group of settings and cannot be 'dmd': .*method.name"),
        ("training=3", "training is a group of settings and cannot be 3"),
    ],
)
def test_wrong_requests_are_one_clear_line(assignment: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        with_overrides(RunConfig(), [assignment])
    assert "\n" not in str(caught.value)


def test_saved_file_is_the_same_run(tmp_path: Path) -> None:
    config = with_overrides(RunConfig(), ["seed=3", "method.sid_alpha=1.2"])
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    assert load_config(file) == config
    assert load_config(file).fingerprint() == config.fingerprint()


@pytest.mark.parametrize("text", ["", "[1]", '{"trainin": {}}', '{"seed": -1}'])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(RequestError):
        load_config(file)


def test_fingerprint_changes_with_every_setting() -> None:
    base = RunConfig()
    changes = ["seed=1", "method.sid_alpha=1.1", "training.optimizers.generator.lr=1e-4"]
    prints = {base.fingerprint(), *(with_overrides(base, [c]).fingerprint() for c in changes)}
    assert len(prints) == 4


def test_budget_is_whole_batches() -> None:
    config = with_overrides(RunConfig(), ["training.kimg=1", "training.batch_size=128"])
    assert config.total_nimg == 1024


SHORT = (
    "method.adversarial.generator_start_kimg=0.2",
    "method.adversarial.adversarial_start_kimg=0.4",
)


def test_warm_ups_longer_than_the_run_are_refused() -> None:
    wanted = ["method.name=sid2a", "data.source=digits", "training.kimg=38.4"]
    with pytest.raises(RequestError, match=r"warm-ups of 40 kimg, and training.kimg is 38.4"):
        with_overrides(RunConfig(), wanted)
    assert with_overrides(RunConfig(), [*wanted, *SHORT]).method.name == "sid2a"


def test_another_method_keeps_what_was_changed_and_both_have() -> None:
    base = with_overrides(
        RunConfig(), ["method.density=ddpm", "method.loss_scale=7", "training.kimg=1"]
    )
    switched = with_overrides(
        base,
        ["method.adversarial.sid_weight=0.25", "data.source=digits", "method.name=sid2a", *SHORT],
    )
    assert isinstance(switched.method, SiD2aConfig)
    assert (switched.method.density, switched.method.loss_scale) == ("ddpm", 7.0)
    assert switched.method.adversarial.sid_weight == 0.25
    assert with_overrides(switched, ["method.name=sid", "data=null"]) == base


def test_missing_optimizers_are_the_defaults() -> None:
    config = with_overrides(RunConfig(), ['training.optimizers={"generator": {"lr": 0.25}}'])
    assert config.training.optimizers["generator"].lr == 0.25
    assert config.training.optimizers["fake_score"] == AdamConfig()


@pytest.mark.parametrize(("name", "noise"), [("scm", "fresh"), ("meanflow", "ddim")])
def test_prompts_for_a_method_of_pairs_alone_are_refused(name: str, noise: str) -> None:
    wanted = [f"method.name={name}", f"generator.noise={noise}", "data.source=digits"]
    with pytest.raises(
        RequestError, match=rf"{name!r} learns with the prompts of its pairs.*PROMPTS"
    ):
        with_overrides(RunConfig(), [*wanted, "prompts.source=PROMPTS.txt"])
    limited = ["prompts.source=PROMPTS.txt", "prompts.limit=5"]
    dmd2 = with_overrides(RunConfig(), ["method.name=dmd2", *wanted[2:], *limited])
    assert dmd2.prompts.limit == 5
    assert not concerns(name, "prompts.source=PROMPTS.txt")  # others of an experiment have it
    assert concerns("dmd2", "prompts.source=PROMPTS.txt")
