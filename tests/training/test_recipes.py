"""Recipes and tasks under an experiment's settings: who decides, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.methods import METHODS
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.training.recipe_files import all_recipes, get_recipe, get_task
from workbench.training.recipes import (
    BUILT_IN,
    SET,
    Layer,
    Resolved,
    find_foundation,
    recipe_for,
    resolve,
    run_config,
)

TEACHER = "sana-0.6b-512"
TASK = """
description = "mine"
[[settings]]
source = "the task's say"
prompts.source = "varied"
training.kimg = 1
training.batch_size = 1
training.ema_halflife_kimg = 1
schedule.log_kimg = 1
"""
RECIPE = """
description = "mine"
task = "mine"
[[settings]]
source = "the recipe's say"
training.kimg = 2
training.batch_size = 2
training.ema_halflife_kimg = 2
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("recipes", "tasks"):
        (tmp_path / kind).mkdir()
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path))
    (tmp_path / "tasks" / "mine.toml").write_text(TASK)
    (tmp_path / "recipes" / "mine.toml").write_text(RECIPE)
    return tmp_path


def write(own: Path, name: str, text: str) -> None:
    (own / "recipes" / f"{name}.toml").write_text(f'description = "mine"\n{text}')


def mine(*layers: Layer) -> Resolved:
    chosen = Layer(SET, (f"teacher={TEACHER}", "recipe=mine"))
    return resolve([*layers, chosen])


def test_the_last_to_name_a_setting_decides_and_is_its_origin(own: Path) -> None:
    experiment = Layer("experiment e", ("training.batch_size=3", "training.ema_halflife_kimg=3"))
    found = mine(experiment, Layer(SET, ("training.ema_halflife_kimg=4",)))
    training, origins = found.config.training, found.origins
    assert found.config.schedule.log_kimg == 1
    assert (training.kimg, training.batch_size, training.ema_halflife_kimg) == (2, 3, 4)
    assert origins["schedule.log_kimg"] == "task mine (the task's say)"
    assert origins["training.kimg"] == "recipe mine (the recipe's say)"
    assert origins["training.batch_size"] == "experiment e"
    assert origins["training.ema_halflife_kimg"] == SET
    assert origins["schedule.evaluate_kimg"] == BUILT_IN
    assert set(origins) == set(found.config.flat())


def test_a_group_that_is_named_whole_is_the_origin_of_its_parts(own: Path) -> None:
    origins = mine(Layer(SET, ("method.guidance=zero-cfg",))).origins
    assert origins["method.guidance.eval_teacher"] == SET
    assert origins["method.loss_scale"] == BUILT_IN


def test_settings_of_a_task_count_for_its_runs_alone_and_below_a_person_s(own: Path) -> None:
    found = mine(
        Layer("experiment e", ("training.kimg=3",)),
        Layer("experiment e", ("training.kimg=5", "training.batch_size=5"), task="mine"),
        Layer("experiment e", ("training.ema_halflife_kimg=5",), task="coco"),
        Layer(SET, ("training.batch_size=6",)),
    ).config.training
    assert (found.kimg, found.batch_size, found.ema_halflife_kimg) == (5, 6, 2)


def test_what_the_method_has_no_use_for_is_left_out_of_recipes_and_refused_of_persons(
    own: Path,
) -> None:
    write(
        own,
        "mine",
        """task = "mine"
[[settings]]
source = "x"
method.sid_alpha = 1.2
method.gan_fake_weight = 0.5
training.optimizers.discriminator.lr = 1e-5
data.source = "hf:some/pairs"
""",
    )
    sid = mine()
    assert sid.config.method.sid_alpha == 1.2
    assert sid.config.data is None
    assert set(sid.config.training.optimizers) == {"fake_score", "generator"}
    dmd2 = mine(Layer(SET, ("method.name=dmd2",))).config
    assert dmd2.method.gan_fake_weight == 0.5
    assert dmd2.data is not None
    assert dmd2.training.optimizers["discriminator"].lr == 1e-5
    with pytest.raises(RequestError, match="gan_fake_weight is a setting of method dmd2"):
        mine(Layer(SET, ("method.gan_fake_weight=0.5",)))


def test_prompts_of_a_task_are_left_out_where_a_method_learns_from_pairs(own: Path) -> None:
    assert mine().config.prompts.source == "varied"
    pairs = ("method.name=meanflow", "data.source=hf:some/pairs")
    assert mine(Layer(SET, pairs)).config.prompts.source is None


def test_settings_may_be_of_some_methods_only(own: Path) -> None:
    write(
        own,
        "mine",
        '[[settings]]\nsource = "x"\nmethods = ["sid"]\n'
        'method.weighting = "1-t"\nmethod.loss_scale = 7\n',
    )
    assert mine().config.method.loss_scale == 7
    dmd = mine(Layer(SET, ("method.name=dmd",)))
    assert (dmd.config.method.weighting, dmd.config.method.loss_scale) == ("sid", 100)
    assert dmd.origins["method.loss_scale"] == BUILT_IN


def test_what_is_shown_is_what_a_run_gets(own: Path) -> None:
    for method in METHODS:
        found = resolve([Layer(SET, (f"teacher={TEACHER}", f"method.name={method}"))])
        settings = found.foundation.settings(method)
        said = [f"{key}={value}" for key, (value, _) in settings.items()]
        base = RunConfig(teacher=TEACHER)
        assert with_overrides(base, [f"method.name={method}", *said]) == found.config
        origins = found.origins
        assert {key: origins[key] for key in settings} == {k: s for k, (_, s) in settings.items()}
    shown = find_foundation(TEACHER).settings("sid")
    assert shown["training.batch_size"] == ("256", f"recipe {TEACHER} (ml-sid-dit, launch script)")
    with pytest.raises(RequestError, match=r"Unknown method 'sd'\. Did you mean 'sid'"):
        find_foundation(TEACHER).settings("sd")


def test_a_recipe_lies_over_those_that_it_extends(own: Path) -> None:
    write(own, "top", 'extends = "mine"\n[[settings]]\nsource = "top"\ntraining.kimg = 9\n')
    write(own, "mine2", 'extends = "top"\ntask = "coco"\n')
    top, above = get_recipe("top"), get_recipe("mine2")
    assert (top.task, above.task) == ("mine", "coco")
    assert [part.source for part in above.settings] == ["the recipe's say", "top"]
    config = run_config(f"teacher={TEACHER}", "recipe=top")
    assert (config.training.kimg, config.training.batch_size) == (9, 2)


@pytest.mark.parametrize("others", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "nobody"}])
def test_a_recipe_that_extends_itself_or_nobody_is_refused(
    own: Path, others: dict[str, str]
) -> None:
    for name, below in others.items():
        write(own, name, f'extends = "{below}"\n')
    with pytest.raises(RequestError, match="is itself or no recipe"):
        all_recipes()


def test_a_person_s_recipe_counts_before_a_bundled_one_of_its_name(own: Path) -> None:
    write(own, "sid-dit", '[[settings]]\nsource = "x"\ntraining.batch_size = 4\n')
    assert run_config("teacher=somebody/else").training.batch_size == 4


def test_a_person_s_recipe_may_be_a_teacher_s(own: Path) -> None:
    write(own, "mine3", 'teachers = ["somebody/else"]\nextends = "mine"\n')
    assert recipe_for("somebody/else").name == "mine3"
    assert find_foundation("somebody/else").own


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[settings]]\n", "settings.0.source: Field required"),
        ('[[settings]]\nsource = ""\n', "settings.0.source: String should have at least 1"),
        ("taks = 1\n", "taks: Extra inputs are not permitted"),
        ("card_gib = 0\n", "card_gib: Input should be greater than 0"),
        ("card_gib = \n", "Invalid value"),
        ('[[settings]]\nsource = "x"\nmethods = ["sd"]\n', "Unknown method 'sd'. Did you mean"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(own: Path, text: str, told: str) -> None:
    write(own, "wrong", text)
    with pytest.raises(RequestError) as caught:
        all_recipes()
    assert "wrong.toml" in str(caught.value)
    assert told in str(caught.value)


def test_an_unknown_setting_of_a_recipe_is_refused(own: Path) -> None:
    write(own, "mine", '[[settings]]\nsource = "x"\ntraining.bach_size = 3\n')
    with pytest.raises(
        RequestError, match=r"'training\.bach_size'\. Did you mean 'training\.batch_s"
    ):
        mine()


def test_recipe_and_task_may_be_asked_for_and_are_no_settings() -> None:
    config = run_config(f"teacher={TEACHER}", "recipe=sana-1.6b-1024", "task=prompts")
    assert config.resolution == 1024
    assert (config.prompts.source, config.evaluation.metrics) == ("varied", ())
    assert not {"recipe", "task"} & set(config.flat())
    later = resolve([Layer("experiment e", ("task=coco",)), Layer(SET, ("task=prompts",))])
    assert later.foundation.task == get_task("prompts")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("recipe=sana-0.6b", "Unknown recipe 'sana-0.6b'. Did you mean 'sana-0.6b-512'"),
        ("task=coko", "Unknown task 'coko'. Did you mean 'coco'"),
        ("recipe=flux.1-dev-512", "for a FluxPipeline.*is a SanaPipeline.*--recipe sana-0.6b-512"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(asked: str, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        run_config(f"teacher={TEACHER}", asked)


def test_what_a_recipe_says_of_a_source_goes_with_it(tmp_path: Path) -> None:
    """A column, a limit and streaming describe the recipe's own prompts, not a person's file."""
    file = tmp_path / "mine.txt"
    file.write_text("a cat\n")
    theirs = run_config("teacher=sana-0.6b-512").prompts
    assert (theirs.column, theirs.streaming) == ("llava", True)
    mine = run_config("teacher=sana-0.6b-512", f"prompts.source={file}").prompts
    assert (mine.source, mine.column, mine.streaming, mine.limit) == (str(file), None, False, None)
    fewer = run_config("teacher=sana-0.6b-512", "prompts.limit=5").prompts
    assert (fewer.source, fewer.column, fewer.limit) == (theirs.source, "llava", 5)
