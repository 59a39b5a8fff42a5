"""A teacher that comes trained with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from workbench import pretrained
from workbench.errors import RequestError
from workbench.pretrained import bundled_folder
from workbench.teachers import KNOWN_TEACHERS, build, find_teacher, load_teacher
from workbench.teachers.recipe import SanaRecipe

NAME = "scenes-sana"


def test_it_needs_no_building(tmp_path: Path) -> None:
    folder = find_teacher(NAME, tmp_path)
    assert folder == bundled_folder(Path(NAME))
    assert list(tmp_path.iterdir()) == []
    teacher = load_teacher(NAME, tmp_path)
    assert {parameter.dtype for parameter in teacher.network.parameters()} == {torch.float32}


def test_it_is_of_exactly_its_recipe() -> None:
    recipe = KNOWN_TEACHERS[NAME].recipe
    assert isinstance(recipe, SanaRecipe)
    assert build.shipped_folder(NAME, recipe) is not None
    assert build.shipped_folder(NAME, recipe.model_copy(update={"seed": 1})) is None
    assert build.shipped_folder("digits-sana", recipe) is None


def test_a_damaged_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundled_folder(Path(NAME))
    assert folder is not None
    shutil.copytree(folder, tmp_path / NAME)
    weights = tmp_path / NAME / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    recipe = KNOWN_TEACHERS[NAME].recipe
    assert recipe is not None
    with pytest.raises(RequestError, match="is damaged or missing"):
        build.shipped_folder(NAME, recipe)
