"""The tiny teacher that tests share: a real SanaPipeline, trained for seconds, not minutes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.services import ON_CI, MlflowServer, Postgres, postgres_programs
from workbench.data.bundled import BUNDLED
from workbench.evaluation.digits_classifier import load_or_train
from workbench.teachers import PipelineTeacher, TinyRecipe, build_from_recipe, load_pipeline_teacher
from workbench.teachers.recipe import (
    AutoencoderDCRecipe,
    AutoencoderKLRecipe,
    ClipT5Recipe,
    FlowMatchingRecipe,
    FluxRecipe,
    FluxTransformerRecipe,
    GemmaRecipe,
    SanaRecipe,
    SanaTransformerRecipe,
    SD3Recipe,
    SD3TransformerRecipe,
    SprintRecipe,
)
from workbench.tracking import default_artifact_root, default_uri, ensure_store

SHARED_FOLDER = "WORKBENCH_TEST_TEACHERS"
"""Environment variable: a folder that keeps the teacher between test sessions."""


BRIEF = FlowMatchingRecipe(
    steps=200, batch_size=64, lr=5e-3, warmup_steps=10, ema_decay=0.9, t_mean=0.7, t_std=1.6
)
"""Enough for prompts and times to matter, and for pure noise to be recognised as such."""

_DC = AutoencoderDCRecipe(steps=30, batch_size=16, channels=(8, 8, 16, 32))
_KL = AutoencoderKLRecipe(steps=30, batch_size=16, channels=(8, 16, 16))

SMALL_RECIPES: dict[str, TinyRecipe] = {
    "SanaPipeline": SanaRecipe(
        autoencoder=AutoencoderDCRecipe(steps=120, batch_size=32, channels=(8, 8, 16, 32)),
        text=GemmaRecipe(layers=1),
        transformer=SanaTransformerRecipe(heads=2, layers=2),
        pretraining=BRIEF,
    ),
    "SanaSprintPipeline": SprintRecipe(
        autoencoder=_DC,
        text=GemmaRecipe(layers=1),
        transformer=SanaTransformerRecipe(heads=2, layers=2),
        pretraining=BRIEF.model_copy(update={"interpolant": "trigflow", "target": "trigflow"}),
    ),
    "StableDiffusion3Pipeline": SD3Recipe(
        autoencoder=_KL,
        text=ClipT5Recipe(clip_width=16, t5_width=32),
        transformer=SD3TransformerRecipe(
            heads=2, layers=2, qk_norm=True, dual_attention_layers=(0,)
        ),
        pretraining=BRIEF,
    ),
    "FluxPipeline": FluxRecipe(
        autoencoder=_KL,
        text=ClipT5Recipe(clip_width=16, t5_width=32),
        transformer=FluxTransformerRecipe(heads=2, double_layers=1, single_layers=1),
        pretraining=BRIEF,
    ),
}
"""A teacher of seconds for every family, by pipeline class."""


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share: what is slow is made there once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def teachers_folder(shared_folder: Path) -> Path:
    """Where the tests' teachers are built, once."""
    kept = os.environ.get(SHARED_FOLDER)
    return Path(kept) if kept else shared_folder / "teachers"


@pytest.fixture(scope="session")
def teacher_folders(teachers_folder: Path) -> Callable[[str], Path]:
    """Pipeline class -> folder of its tiny teacher. Read them only: every test shares them."""
    return lambda name: build_from_recipe(
        f"tests-{name}", SMALL_RECIPES[name], teachers_folder, data=BUNDLED["digits"]
    )


@pytest.fixture(scope="session")
def evaluation_cache(shared_folder: Path) -> Path:
    """The digits classifier, trained once for all tests. Copy it before writing to it."""
    with FileLock(shared_folder / "evaluation.lock"):
        load_or_train(shared_folder / "cache")
    return shared_folder / "cache"


@pytest.fixture(scope="session", params=sorted(SMALL_RECIPES))
def family_teacher(
    request: pytest.FixtureRequest, teacher_folders: Callable[[str], Path]
) -> PipelineTeacher:
    """The tiny teacher of every family in turn. Frozen; copy its network before training it."""
    return load_pipeline_teacher(request.param, teacher_folders(request.param))


@pytest.fixture(scope="session")
def digits_teacher_dir(teacher_folders: Callable[[str], Path]) -> Path:
    """The folder of the tiny SANA teacher."""
    return teacher_folders("SanaPipeline")


@pytest.fixture(scope="session")
def digits_teacher(digits_teacher_dir: Path) -> PipelineTeacher:
    """The tiny SANA teacher. Its weights are frozen; copy its network before training it."""
    return load_pipeline_teacher("tests-sana", digits_teacher_dir)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL that tests share. Whoever ends it starts it again."""
    if postgres_programs() is None and not ON_CI:
        pytest.skip("needs Debian's postgresql (CI has it)")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_on_postgres(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """`mlflow server` over a fresh database of the shared PostgreSQL."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), postgres.create_database("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def fresh_store(shared_folder: Path) -> Path:
    """An MLflow database without runs. Copy it."""
    ensure_store(default_uri(shared_folder), default_artifact_root(shared_folder))
    return shared_folder / "mlflow.db"
