"""The published settings, written out, against what a run of each teacher is given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.doctor.fitting import Teacher, needed
from workbench.errors import RequestError
from workbench.flow import get_density
from workbench.methods import METHODS, method_type, step_times
from workbench.registry import get_experiment
from workbench.teachers.architecture import Architecture
from workbench.teachers.catalog import KNOWN_TEACHERS
from workbench.teachers.hub_catalog import HUB_TEACHERS, HubTeacher, find_hub_teacher
from workbench.training.recipe_files import Recipe, all_recipes, all_tasks, get_recipe
from workbench.training.recipes import (
    GENERAL,
    SET,
    Layer,
    Resolved,
    find_foundation,
    nearest_recipe,
    recipe_for,
    resolve,
    run_config,
)

TOYS = {name for name, spec in KNOWN_TEACHERS.items() if spec.recipe is not None}
TOY_RATE = 5e-4
CARDS = (24, 48, 80)
USABLE = 0.92

EVERYWHERE = {
    "training.batch_size": 256,
    "training.optimizers.generator.beta1": 0.0,
    "training.optimizers.generator.beta2": 0.999,
    "training.optimizers.generator.eps": 1e-8,
    "training.optimizers.generator.lr": 5e-6,
    "training.optimizers.fake_score.beta1": 0.0,
    "training.optimizers.fake_score.beta2": 0.999,
    "training.optimizers.fake_score.eps": 1e-8,
    "training.optimizers.fake_score.lr": 5e-6,
    "training.precision": "bf16-mixed",
    "training.gradient_checkpointing": True,
    "training.ema_halflife_kimg": 0,
    "method.guidance.train_fake": 4.5,
    "method.guidance.eval_fake": 4.5,
    "method.guidance.eval_teacher": 4.5,
    "method.sid_alpha": 1.0,
    "method.weighting": "1-t",
    "method.density": "sid",
    "method.loss_scale": 100,
    "generator.steps": 4,
    "generator.noise": "fresh",
    "generator.flow_shift": 1.0,
    "schedule.evaluate_kimg": 50,
    "evaluation.metrics": ("fid", "clip"),
    "evaluation.primary": "fid",
    "evaluation.samples": 10_000,
    "evaluation.reference": "coco",
    "prompts.source": "hf:brivangl/midjourney-v6-llava",
}
OWN = (
    "resolution",
    "training.micro_batch_size",
    "training.kimg",
    "evaluation.stock_steps",
    "evaluation.stock_guidance",
    "evaluation.cfg_scale",
)
EACH: dict[str, tuple[Any, ...]] = {
    "sana-0.6b-512": (512, 8, 1000, (20,), 4.5, 4.5),
    "sana-1.6b-512": (512, 8, 1000, (20,), 4.5, 4.5),
    "sana-1.6b-1024": (1024, 8, 1000, (20,), 4.5, 4.5),
    "sana-sprint-0.6b": (1024, 8, 1000, (20,), 4.5, 4.5),
    "sana-sprint-1.6b": (1024, 8, 1000, (20,), 4.5, 4.5),
    "sd3-medium": (1024, 8, 1000, (28,), 7.0, 4.5),
    "sd3.5-medium": (1024, 8, 1000, (40,), 4.5, 4.5),
    "sd3.5-large": (1024, 8, 1000, (28,), 3.5, 4.5),
    "flux.1-dev-512": (512, 16, 2000, (28,), 3.5, 1.0),
    "flux.1-dev-1024": (1024, 16, 2000, (28,), 3.5, 1.0),
}
FLUX = {"teacher_guidance": 4.5, "generator.distilled_guidance": 1.0}
TEXT_TOKENS = {"SanaPipeline": 300, "SanaSprintPipeline": 300, "FluxPipeline": 512}


def resolved(*assignments: str) -> Resolved:
    return resolve([Layer(SET, assignments)])


def setting(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def published(teacher: str) -> dict[str, Any]:
    own = dict(zip(OWN, EACH[teacher], strict=True))
    return {**EVERYWHERE, **own, **(FLUX if teacher.startswith("flux") else {})}


def test_the_table_has_every_teacher_of_the_hub() -> None:
    assert list(EACH) == [teacher.name for teacher in HUB_TEACHERS]


@pytest.mark.parametrize("teacher", EACH)
def test_a_run_gets_the_published_settings(teacher: str) -> None:
    config = run_config(f"teacher={teacher}")
    wanted = published(teacher)
    assert {key: setting(config, key) for key in wanted} == wanted


@pytest.mark.parametrize("teacher", EACH)
def test_every_published_setting_is_said_by_recipe_or_task(teacher: str) -> None:
    origins = resolved(f"teacher={teacher}").origins
    for key in published(teacher):
        assert origins[key].startswith((f"recipe {teacher} (", "task coco (")), key


@pytest.mark.parametrize("teacher", HUB_TEACHERS, ids=lambda teacher: teacher.name)
def test_text_lengths_are_the_published_ones(teacher: HubTeacher) -> None:
    tokens = teacher.conditioning["embeds"][0]
    if teacher.pipeline_class == "StableDiffusion3Pipeline":
        assert teacher.call["max_sequence_length"] == 77  # of T5; CLIP has 77 more
        tokens -= 77
    assert tokens == TEXT_TOKENS.get(teacher.pipeline_class, 77)


def test_names_of_settings_mean_what_was_published() -> None:
    density = get_density(str(EVERYWHERE["method.density"]))
    one_sigma_up = density.quantile(torch.tensor([0.5, 0.8413447460685429]))
    assert one_sigma_up.logit().tolist() == pytest.approx(
        [math.log(2), math.log(2) + 1.6], abs=1e-4
    )
    times = step_times(4, 1.0)
    assert list(times) == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("name", [*all_recipes(), *all_tasks()])
def test_every_setting_says_where_it_is_from(name: str) -> None:
    part = {**all_recipes(), **all_tasks()}[name]
    assert part.description
    for group in part.settings:
        assert len(group.source.split()) > 2, f"{name}: {group.source!r}"
        assert group.assignments, f"{name}: {group.source!r} says nothing"


def teacher_of(recipe: str) -> str:
    """One that the recipe is for: its own, that of the recipe that it extends, or any."""
    found = get_recipe(recipe)
    return next(iter(found.teachers), None) or found.extends or "sana-0.6b-512"


def with_method(recipe: str, method: str) -> Resolved:
    taskless = [] if get_recipe(recipe).task else ["task=coco"]
    asked = (f"teacher={teacher_of(recipe)}", f"recipe={recipe}", f"method.name={method}")
    return resolved(*asked, *taskless)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", all_recipes())
def test_every_recipe_serves_every_method(recipe: str, method: str) -> None:
    found = with_method(recipe, method)
    assert found.config.method.name == method
    assert (found.config.data is not None) == method_type(found.config.method).needs_pairs
    if TOYS & set(get_recipe(recipe).teachers):
        return
    for role, adam in found.config.training.optimizers.items():
        assert adam.lr < TOY_RATE / 5, role
        assert found.origins[f"training.optimizers.{role}.lr"].startswith("recipe "), role


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_teacher_never_gets_the_small_teachers_rates(method: str) -> None:
    config = run_config("teacher=somebody/else", "task=coco", f"method.name={method}")
    assert max(adam.lr for adam in config.training.optimizers.values()) < TOY_RATE / 5


def test_other_methods_keep_their_own_published_times() -> None:
    dmd = run_config("teacher=sana-0.6b-512", "method.name=dmd").method
    assert (dmd.density, dmd.weighting) == ("ddpm", "sid")
    assert dmd.guidance.eval_teacher == 4.5
    assert run_config("teacher=sana-0.6b-512", "method.name=scm").method.density == "trigflow"
    assert run_config("teacher=sana-0.6b-512", "method.name=kd").method.cfg_scale == 4.5
    assert run_config("teacher=flux.1-dev-512", "method.name=kd").method.cfg_scale == 1.0


def test_hub_ids_are_known_teachers() -> None:
    for teacher in HUB_TEACHERS:
        assert recipe_for(teacher.name).name == teacher.name
        first = find_hub_teacher(teacher.hub_id)
        assert first is not None
        assert recipe_for(teacher.hub_id).name == first.name
    assert recipe_for("somebody/else").name == GENERAL


def test_toys_have_recipes_of_their_own() -> None:
    for name in TOYS:
        assert recipe_for(name).name != GENERAL
        assert set(recipe_for(name).teachers) <= TOYS


def test_a_folder_gets_what_holds_for_all_and_is_told_the_nearest(
    teacher_folders: Callable[[str], Path],
) -> None:
    folder = str(teacher_folders("SanaPipeline"))
    foundation = find_foundation(folder)
    assert (foundation.recipe.name, foundation.task, foundation.own) == (GENERAL, None, False)
    near = nearest_recipe(folder)
    assert near is not None
    assert near.name == "sana-0.6b-512"
    flux = nearest_recipe(str(teacher_folders("FluxPipeline")))
    assert flux is not None
    assert flux.pipeline == "FluxPipeline"
    assert nearest_recipe("somebody/else") is None


@pytest.mark.parametrize("recipe", [name for name, r in all_recipes().items() if r.pipeline])
def test_another_family_is_refused_and_told_its_own(recipe: str) -> None:
    other = "sd3-medium" if "sd3" not in recipe else "sana-1.6b-512"
    with pytest.raises(RequestError, match=f"Of its family: --recipe {other}"):
        find_foundation(other, recipe)


@pytest.mark.parametrize("teacher", EACH)
def test_the_paper_s_panels_run_as_published(teacher: str) -> None:
    paper = get_experiment("paper")
    if teacher == "sana-1.6b-1024":  # no panel of figure 4
        assert teacher not in paper.variants
        return
    wanted = published(teacher)
    config = paper.variant(teacher)
    assert {key: setting(config, key) for key in wanted} == wanted


def sizes_of(name: str) -> Teacher:
    known = find_hub_teacher(name)
    assert known is not None
    return Teacher(Architecture.of(known), known.vae_parameters, known.text_bytes)


def told_by(recipe: Recipe) -> str:
    return " ".join(group.source for group in recipe.settings)


def fits(size: int, card_gib: int) -> bool:
    return size <= USABLE * card_gib * 2**30


@pytest.mark.parametrize("teacher", EACH)
def test_adapters_recipes_name_the_smallest_card_that_loads_and_trains(teacher: str) -> None:
    recipe, loading = get_recipe(f"{teacher}-lora"), sizes_of(teacher).text_bytes
    assert recipe.teachers == ()
    assert recipe.card_gib in CARDS
    config = run_config(f"teacher={teacher}", f"recipe={recipe.name}")
    lora = config.training.lora
    assert lora is not None
    assert lora.rank == 64
    assert config.training.gradient_checkpointing
    assert f"{loading / 2**30:.1f} GiB to load" in told_by(recipe)
    training = re.search(r"([\d.]+) GiB to train", told_by(recipe))
    assert training is not None
    worst = max(loading, int(float(training[1]) * 2**30))
    assert [fits(worst, card) for card in CARDS].index(True) == CARDS.index(recipe.card_gib)


@pytest.mark.parametrize("teacher", ["sana-0.6b-512"])
def test_adapters_train_on_the_card(teacher: str) -> None:
    """The smallest: tracing a real teacher takes up to a minute, and docs/gpu.md holds others."""
    recipe = get_recipe(f"{teacher}-lora")
    config = run_config(f"teacher={teacher}", f"recipe={recipe.name}")
    training = needed(sizes_of(teacher), config, 1).total
    assert recipe.card_gib is not None
    assert fits(training, recipe.card_gib)
    assert f"{training / 2**30:.1f} GiB to train" in told_by(recipe)
