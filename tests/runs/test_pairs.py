"""Image-text pairs from the embedded source to a data-aided run."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from tests.drill import BRIEF
from workbench.runs import RunRequest, execute
from workbench.runs.pairs import EncodedPairs
from workbench.teachers import PipelineTeacher
from workbench.teachers.digits import load_digits_images, prompt_label
from workbench.teachers.pair_sources import PairsConfig, read_pairs
from workbench.tracking import default_uri, read_points
from workbench.training.config import RunConfig, with_overrides
from workbench.workspace import open_workspace


def test_every_digit_has_its_own_prompt_and_latents(digits_teacher: PipelineTeacher) -> None:
    pairs = read_pairs(PairsConfig(limit=100))
    images, labels = load_digits_images(digits_teacher.resolution)
    assert [prompt_label(prompt) for prompt in pairs.prompts] == labels[:100].tolist()
    assert len(set(pairs.prompts)) > 10  # the wordings take turns
    encodings = digits_teacher.encode(pairs.prompts)
    rows = EncodedPairs(pairs, digits_teacher, encodings)
    index = torch.tensor([70, 3, 70])
    chosen = rows.select(index)
    torch.testing.assert_close(chosen.latents, digits_teacher.encode_images(images[index]))
    for name, expected in encodings.select(index).tensors.items():
        assert torch.equal(chosen.cond[name], expected)


def test_a_data_aided_run_says_what_it_learnt_from(
    tmp_path: Path, evaluation_cache: Path, digits_teacher_dir: Path
) -> None:
    place = open_workspace(tmp_path / "workspace")
    shutil.copytree(evaluation_cache, place.cache)
    config = with_overrides(
        RunConfig(teacher=str(digits_teacher_dir)),
        [
            *BRIEF,
            "method.name=sid2a",
            "data.limit=64",
            "method.adversarial.generator_start_kimg=0",
            "method.adversarial.adversarial_start_kimg=0",
        ],
    )
    outcome = execute(RunRequest(config, place, default_uri(place.root)))
    assert outcome.results["pairs"] == read_pairs(PairsConfig(limit=64)).as_dict()
    logged = {point.key for point in read_points(outcome.folder.path)}
    assert {"train/bce_real", "train/bce_fake", "train/adversarial_loss"} <= logged
