"""Names, folders and what is neither."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.teachers import (
    KNOWN_TEACHERS,
    build_teacher,
    built_folder,
    find_teacher,
    load_teacher,
    teacher_overview,
)
from workbench.teachers.catalog import embedded_teachers, load_embedded
from workbench.teachers.families import FAMILIES
from workbench.teachers.recipe import SanaRecipe
from workbench.teachers.tiny import tiny_arguments, tiny_pipeline


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Did you mean 'digits-sana'"):
        load_teacher("digit-sana", tmp_path)


@pytest.mark.parametrize("reference", ["./nowhere/teacher", "/nowhere", "a/b/c"])
def test_a_path_that_is_no_folder_is_called_one(reference: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no folder"):
        find_teacher(reference, tmp_path)


def test_a_file_is_no_teacher(tmp_path: Path) -> None:
    file = tmp_path / "teacher"
    file.write_text("")
    with pytest.raises(RequestError, match="is no folder"):
        find_teacher(str(file), tmp_path)


def test_only_embedded_teachers_are_built(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not built here"):
        build_teacher("sana-0.6b-512", tmp_path)
    with pytest.raises(RequestError, match="Did you mean 'digits-sana'"):
        build_teacher("digits-sanna", tmp_path)


def test_the_overview_starts_nothing(tmp_path: Path) -> None:
    rows = teacher_overview(tmp_path)
    assert [row["name"] for row in rows] == list(KNOWN_TEACHERS)
    assert [row["source"] for row in rows if row["name"] == "digits-sana"] == ["built on first use"]
    assert built_folder("digits-sana", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_built_teacher_is_found(tmp_path: Path) -> None:
    recipe = KNOWN_TEACHERS["digits-sana"].recipe
    assert recipe is not None
    folder = tmp_path / f"digits-sana-{recipe.hash}"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    assert built_folder("digits-sana", tmp_path) == folder
    sources = {row["name"]: row["source"] for row in teacher_overview(tmp_path)}
    assert sources["digits-sana"] == str(folder)


@pytest.mark.parametrize("name", sorted(embedded_teachers()))
def test_embedded_specs_tell_the_truth(name: str) -> None:
    """Parameters, latents and resolution of the catalogue are those of the recipe's network."""
    teacher, spec = embedded_teachers()[name], KNOWN_TEACHERS[name]
    pipeline = tiny_pipeline(teacher.recipe, ["a b"])
    family = FAMILIES[type(pipeline).__name__]
    arguments = family.call_arguments(pipeline, tiny_arguments(teacher.recipe))
    assert sum(p.numel() for p in pipeline.transformer.parameters()) == spec.parameters
    assert family.latent_shape(pipeline, arguments) == spec.latent_shape
    assert arguments["height"] == spec.resolution


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("description = ", "Cannot read"),
        (
            "description = 'x'\nstands_for = 'y'\nparameters = 1\ndata = 'digits'\n",
            "recipe: Field required",
        ),
        (
            "description = 'x'\nstands_for = 'y'\nparameters = 1\ndata = 'digits'\n[recipe]\n"
            "pipeline = 'Nope'\n",
            "'SanaPipeline', 'SanaSprintPipeline'",
        ),
        (
            "description = 'x'\nstands_for = 'y'\nparameters = 1\ndata = 'digits'\n[recipe]\n"
            "pipeline = 'SanaPipeline'\npretraining = { interpolant = 'trigflo' }\n",
            "Did you mean 'trigflow'?",
        ),
        (
            "description = 'x'\nstands_for = 'y'\nparameters = 1\ndata = 'digits'\n[recipe]\n"
            "pipeline = 'SanaPipeline'\nseeds = 3\n",
            "recipe.SanaPipeline.seeds: Extra inputs",
        ),
    ],
)
def test_a_recipe_file_that_is_none_says_why(content: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(RequestError, match=re.escape(problem)) as caught:
        load_embedded(file)
    assert str(file) in str(caught.value)


def test_newer_settings_leave_the_folders_of_teachers_built_before_alone() -> None:
    recipe = KNOWN_TEACHERS["digits-sana"].recipe
    assert isinstance(recipe, SanaRecipe)
    assert recipe.hash == "253c74c65a"
    changed = recipe.model_copy(update={"stored": "bf16"})
    assert changed.hash != recipe.hash
    louder = recipe.text.model_copy(update={"embedding_std": 0.5})
    assert recipe.model_copy(update={"text": louder}).hash not in (recipe.hash, changed.hash)
