"""Building once for each recipe, whoever else builds and whatever was cut off before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from workbench.data.bundled import BUNDLED
from workbench.teachers import build_from_recipe, load_pipeline_teacher, recipe_folder
from workbench.teachers.recipe import (
    AutoencoderDCRecipe,
    FlowMatchingRecipe,
    SanaRecipe,
    SanaTransformerRecipe,
)

MINUTE = SanaRecipe(
    autoencoder=AutoencoderDCRecipe(steps=2, batch_size=4, channels=(8, 8, 8, 8)),
    transformer=SanaTransformerRecipe(heads=1, layers=1),
    pretraining=FlowMatchingRecipe(steps=2, batch_size=4),
)


class Shown:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append((stage, done, total))


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"revision": 99},
        {"pretraining": FlowMatchingRecipe(steps=3, batch_size=4)},
        {"text": {"tokens": 12}},
    ],
)
def test_another_recipe_is_another_folder(changed: dict[str, object], tmp_path: Path) -> None:
    other = SanaRecipe.model_validate({**MINUTE.model_dump(), **changed})
    same = SanaRecipe.model_validate_json(MINUTE.model_dump_json())
    assert recipe_folder("x", other, tmp_path) != recipe_folder("x", MINUTE, tmp_path)
    assert recipe_folder("x", same, tmp_path) == recipe_folder("x", MINUTE, tmp_path)


def build_x(recipe, *more) -> Path:
    return build_from_recipe("x", recipe, *more, data=BUNDLED["digits"])


def test_the_same_recipe_is_built_once(tmp_path: Path) -> None:
    first, second = Shown(), Shown()
    folder = build_x(MINUTE, tmp_path, first)
    assert first.calls == [
        ("autoencoder", 1, 2),
        ("autoencoder", 2, 2),
        ("flow matching", 1, 2),
        ("flow matching", 2, 2),
    ]
    assert build_x(MINUTE, tmp_path, second) == folder
    assert second.calls == []
    other = MINUTE.model_copy(update={"seed": 1})
    assert build_x(other, tmp_path, second) != folder
    assert second.calls


def test_a_build_is_reproducible_and_leaves_torch_s_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = build_x(MINUTE, tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    two = build_x(MINUTE, tmp_path / "two")
    fingerprints = {load_pipeline_teacher("x", folder).fingerprint for folder in (one, two)}
    assert len(fingerprints) == 1
    other = build_x(MINUTE.model_copy(update={"seed": 1}), tmp_path / "one")
    assert load_pipeline_teacher("x", other).fingerprint not in fingerprints


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    shown = Shown()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(build_x, MINUTE, tmp_path, shown) for _ in range(2)]
        folders = {job.result() for job in jobs}
    assert len(folders) == 1
    assert len(shown.calls) == 4


def test_what_a_killed_build_left_is_replaced(tmp_path: Path) -> None:
    folder = recipe_folder("x", MINUTE, tmp_path)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True)
    (partial / "stale.json").write_text("half")
    build_x(MINUTE, tmp_path)
    assert not (folder / "stale.json").exists()
    assert not partial.exists()


def test_an_interrupted_build_leaves_no_teacher(tmp_path: Path) -> None:
    def cut_off(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = recipe_folder("x", MINUTE, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_x(MINUTE, tmp_path, cut_off)
    assert not folder.exists()
    build_x(MINUTE, tmp_path)
    assert load_pipeline_teacher("x", folder).latent_shape == (4, 4, 4)
