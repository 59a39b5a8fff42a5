"""Configurations of earlier formats load as what they were, and keep their fingerprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import RequestError
from workbench.registry import get_experiment, make_plan
from workbench.training import formats
from workbench.training.config import RunConfig, load_config, validated
from workbench.training.overrides import with_overrides
from workbench.training.recipes import run_config

KEPT: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("format_1_configs.json").read_text()
)
"""EXPERIMENT/VARIANT -> configuration and fingerprints, written by the last version of format 1."""


BEFORE = ("evaluation.seed=0", "evaluation.fresh_seeds=0", "training.ema_rampup=null")
"""What every run did before it could be set otherwise."""


@pytest.mark.parametrize("name", KEPT)
def test_an_earlier_configuration_keeps_its_fingerprints(name: str) -> None:
    kept = KEPT[name]
    config = validated(kept["config"])
    assert config.fingerprint() == kept["fingerprint"]
    assert config.variant_fingerprint() == kept["variant"]
    assert config.recipe_fingerprint() == kept["recipe"]


@pytest.mark.parametrize("name", KEPT)
def test_today_s_experiment_is_the_same_run(name: str) -> None:
    """But for what has got another default since: recipes and tasks give what format 1 was."""
    experiment, variant = name.split("/")
    config = make_plan(get_experiment(experiment)).config(variant, 0)
    assert config.fingerprint() != KEPT[name]["fingerprint"]
    # A start at another variant names that one's settings, by their hash.
    start = json.dumps(KEPT[name]["config"]["start"])
    before = with_overrides(config, [*BEFORE, f"start={start}"])
    assert before.fingerprint() == KEPT[name]["fingerprint"]
    assert before.recipe_fingerprint() == KEPT[name]["recipe"]


def test_what_format_1_left_unsaid_is_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(KEPT["t_range/0.25-1"]["config"]))
    images = load_config(tmp_path / "config.json").evaluation
    assert (images.reference, images.metrics) == ("digits", ("fid", "alignment"))
    assert len(images.shown) == 10
    assert (images.precision, images.stock_steps) == ("fp32", ())
    points = validated(KEPT["analytic/sid"]["config"])
    assert points.evaluation.reference == "truth"
    assert points.evaluation.primary_metric == "sliced_w2"
    assert points.prompts.source is None
    by_hand = validated({"teacher": "sd3.5-large", "training": {"kimg": 3}})
    assert (by_hand.evaluation.reference, by_hand.evaluation.metrics) == (None, ())


@pytest.mark.parametrize("name", KEPT)
def test_a_configuration_of_format_2_is_still_the_run_that_it_was(name: str) -> None:
    """It named its format, and neither the average's warm-up nor fresh evaluation seeds."""
    written = validated(KEPT[name]["config"]).model_dump(mode="json")
    del written["training"]["ema_rampup"], written["evaluation"]["fresh_seeds"]
    config = validated({**written, "format": 2})
    assert (config.training.ema_rampup, config.evaluation.fresh_seeds) == (None, 0)
    assert config.fingerprint() == KEPT[name]["fingerprint"]
    assert config.recipe_fingerprint() == KEPT[name]["recipe"]


@pytest.mark.parametrize(
    "change",
    [{"format": 0}, {"format": -1}, {"format": "2"}, {"method": "sid"}, {"evaluation": None}],
)
def test_a_damaged_earlier_file_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"^Invalid configuration: [^\n]*$"):
        validated({**KEPT["quickstart/default"]["config"], **change})


def test_a_setting_by_both_of_its_names_is_refused() -> None:
    earlier = KEPT["methods/dmd2"]["config"]
    both = {**earlier["method"], "fake_score_updates": 3}
    with pytest.raises(RequestError, match="fake_updates"):
        validated({**earlier, "method": both})


def test_other_values_of_new_settings_are_other_runs() -> None:
    plain = run_config()
    for change in (
        "evaluation.primary=alignment",
        'evaluation.metrics=["fid"]',
        "evaluation.stock_steps=[20]",
        "evaluation.precision=bf16",
        'evaluation.shown=["the digit 1"]',
        "training.stability.rollback=true",
        "training.ema_rampup=null",
        "evaluation.fresh_seeds=0",
        "evaluation.seed=0",
    ):
        assert run_config(change).fingerprint() != plain.fingerprint(), change


def test_every_setting_is_format_1_s_or_says_what_its_absence_meant() -> None:
    """A new setting that is in neither would orphan every earlier run."""
    old = set(validated(KEPT["quickstart/default"]["config"]).flat())
    first = KEPT["quickstart/default"]["config"]
    written = {key for key, _ in _leaves(first)}
    values = RunConfig().model_dump(mode="json")
    kept = {key for key, _ in _leaves(formats.as_format_1(values))}
    changed = {"evaluation.reference", "evaluation.metrics", "evaluation.shown"}
    changed |= {"training.ema_rampup", "evaluation.fresh_seeds"}  # other defaults since
    assert kept - changed <= written
    assert old >= written - {"training.optimizers"}


@pytest.mark.parametrize("name", ["analytic/dmd2", "methods/dmd2"])
def test_a_renamed_setting_is_read_by_its_earlier_name(name: str) -> None:
    """Also in files that say their format; and with another value it is another run."""
    kept = KEPT[name]["config"]
    plain = validated(kept)
    assert plain.method.fake_score_updates == kept["method"].get("fake_updates", 1)
    earlier = {**plain.model_dump(mode="json"), "method": kept["method"], "format": 2}
    assert validated(earlier) == plain
    method = {**kept["method"], "fake_updates": 3}
    fewer = validated({**kept, "method": method})
    assert fewer.method.fake_score_updates == 3
    assert fewer.fingerprint() != plain.fingerprint()
    assert fewer.recipe_fingerprint() != plain.recipe_fingerprint()
    today = {**plain.model_dump(mode="json")["method"], "fake_score_updates": 3}
    assert fewer == validated({**plain.model_dump(mode="json"), "method": today})


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        return [(prefix, node)]
    return [
        leaf
        for key, child in node.items()
        for leaf in _leaves(child, f"{prefix}.{key}" if prefix else key)
    ]


def test_a_dry_run_s_document_can_be_run(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    config = run_config("training.kimg=2")
    file.write_text(json.dumps({**config.model_dump(mode="json"), "origins": {"a": "b"}}))
    assert load_config(file) == config


def test_roll_backs_are_decided_by_the_primary_metric() -> None:
    """Another judge goes back to another checkpoint: its checkpoints are of another recipe."""
    watched = run_config("training.stability.rollback=true")
    other = run_config("training.stability.rollback=true", "evaluation.primary=alignment")
    assert watched.recipe_fingerprint() != other.recipe_fingerprint()
    assert (
        run_config().recipe_fingerprint()
        == run_config("evaluation.primary=alignment").recipe_fingerprint()
    )
