"""The catalog of hub teachers against the diffusers classes that it describes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from workbench.teachers.architecture import Architecture
from workbench.teachers.hub_catalog import HUB_TEACHERS, HubTeacher, find_hub_teacher
from workbench.training.config import RunConfig
from workbench.training.memory import estimate_memory
from workbench.training.overrides import with_overrides

PUBLISHED_BILLIONS = {
    "sana-0.6b-512": 0.59,
    "sana-1.6b-512": 1.6,
    "sana-1.6b-1024": 1.6,
    "sana-sprint-0.6b": 0.59,
    "sana-sprint-1.6b": 1.6,
    "sd3-medium": 2.0,
    "sd3.5-medium": 2.2,
    "sd3.5-large": 8.1,
    "flux.1-dev-512": 11.9,
    "flux.1-dev-1024": 11.9,
}
SETTINGS = (
    "training.precision=bf16-mixed",
    "training.gradient_checkpointing=true",
    "training.batch_size=1",
)


@pytest.mark.parametrize("teacher", HUB_TEACHERS, ids=lambda teacher: teacher.name)
def test_networks_have_the_stated_and_the_published_size(teacher: HubTeacher) -> None:
    network = Architecture.of(teacher).network()
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == teacher.parameters
    assert counted / 1e9 == pytest.approx(PUBLISHED_BILLIONS[teacher.name], rel=0.02)


@pytest.mark.parametrize("teacher", HUB_TEACHERS, ids=lambda teacher: teacher.name)
def test_networks_take_and_give_the_stated_latents(teacher: HubTeacher) -> None:
    architecture = Architecture.of(teacher)
    network = architecture.network()
    with torch.device("meta"):
        cond = architecture.prompts(1)
        velocity = network.predict(torch.empty(1, *teacher.latent_shape), torch.empty(1), cond)
    assert velocity.shape == (1, *teacher.latent_shape)


@pytest.mark.parametrize("name", ["sana-0.6b-512", "sana-sprint-0.6b"])
def test_stored_memory_is_what_the_estimate_says(name: str) -> None:
    teacher = find_hub_teacher(name)
    assert teacher is not None
    config = with_overrides(RunConfig(), SETTINGS)
    estimated = estimate_memory(Architecture.of(teacher), config).total
    assert teacher.distil_bytes == pytest.approx(estimated, rel=1e-3)


def test_names_and_hub_ids_find_their_teacher() -> None:
    assert [teacher.name for teacher in HUB_TEACHERS] == list(PUBLISHED_BILLIONS)
    for teacher in HUB_TEACHERS:
        assert find_hub_teacher(teacher.name) == teacher
        by_id = find_hub_teacher(f"{teacher.hub_id}@main")
        assert by_id is not None
        assert by_id.hub_id == teacher.hub_id
    assert find_hub_teacher("digits-sana") is None


def test_only_the_catalog_itself_is_read_to_list_it() -> None:
    program = (
        "import importlib.util, sys\n"
        "from importlib.machinery import SourceFileLoader\n"
        "name, path = 'hub_catalog', 'workbench/teachers/hub_catalog.py'\n"
        "spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, path))\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules[name] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert len(module.HUB_TEACHERS) == 10\n"
        "print([m for m in ('torch', 'diffusers', 'pydantic', 'workbench') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
