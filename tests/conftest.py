"""The tiny teacher that tests share: a real SanaPipeline, trained for seconds, not minutes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workbench.teachers import PipelineTeacher, TinyRecipe, build_from_recipe, load_pipeline_teacher
from workbench.teachers.recipe import (
    AutoencoderRecipe,
    FlowMatchingRecipe,
    TextRecipe,
    TransformerRecipe,
)

SHARED_FOLDER = "WORKBENCH_TEST_TEACHERS"
"""Environment variable: a folder that keeps the teacher between test sessions."""


@pytest.fixture(scope="session")
def small_recipe() -> TinyRecipe:
    return TinyRecipe(
        autoencoder=AutoencoderRecipe(steps=120, batch_size=32, channels=(8, 8, 16, 32)),
        text=TextRecipe(layers=1),
        transformer=TransformerRecipe(heads=2, layers=2),
        pretraining=FlowMatchingRecipe(steps=150, batch_size=64, warmup_steps=10, ema_decay=0.9),
    )


@pytest.fixture(scope="session")
def digits_teacher_dir(small_recipe: TinyRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny teacher's pipeline. Read it only: every test shares it."""
    shared = os.environ.get(SHARED_FOLDER)
    where = Path(shared) if shared else tmp_path_factory.mktemp("teachers")
    return build_from_recipe("tests-sana", small_recipe, where)


@pytest.fixture(scope="session")
def digits_teacher(digits_teacher_dir: Path) -> PipelineTeacher:
    """The tiny teacher. Its weights are frozen; copy its network before training it."""
    return load_pipeline_teacher("tests-sana", digits_teacher_dir)
