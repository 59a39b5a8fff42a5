"""From image files to the score, with clean-fid's own functions on the same files beside ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.small_inception import SmallInception
from workbench.data.images import list_images
from workbench.evaluation import Evaluator, FeatureExtractors, Sampler, make_metrics, open_reference
from workbench.evaluation.images import read_images
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.reference_build import BuildRequest, build_reference
from workbench.workspace import open_workspace

CPU = torch.device("cpu")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    random = np.random.default_rng(0)
    for name, count, bright in (("real", 50, 256), ("fake", 40, 200)):
        (tmp_path / name).mkdir()
        for number in range(count):
            small = random.integers(0, bright, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC)
            picture.save(tmp_path / name / f"{number:03d}.png")
    return {name: tmp_path / name for name in ("real", "fake")}


def test_fid_and_kid_of_folders_are_clean_fids(folders: dict[str, Path], tmp_path: Path) -> None:
    fid = pytest.importorskip("cleanfid.fid")
    torch.manual_seed(0)
    network = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(SmallInception().eval()).save(str(network))
    layers = torch.jit.load(str(network)).layers

    def model(images: Tensor) -> Tensor:
        return layers.forward((images - 128) / 128).view(len(images), 2048)

    real, fake = (
        fid.get_folder_features(
            str(folders[name]), model, num_workers=0, device=CPU, verbose=False
        ).astype(np.float64)
        for name in ("real", "fake")
    )
    place = open_workspace(tmp_path / "workspace")
    extractors = FeatureExtractors(place.cache, WeightFiles(tmp_path, {"inception": network}), CPU)
    build_reference(place, BuildRequest("real", folders["real"], resolution=48), extractors)
    metrics = make_metrics(["fid", "kid"], open_reference(place, "real"), extractors)
    files = list_images(folders["fake"])

    def draw(prompts: list[str], start: int, count: int) -> Tensor:
        return read_images(files[start : start + count])

    ours = Evaluator(metrics, ("",) * 40, batch_size=16).evaluate(Sampler(draw, 1, 0.0)).values

    np.random.seed(0)
    assert ours["kid"] == pytest.approx(fid.kernel_distance(real, fake), rel=1e-6)
    # The same distance without covariances of 2048 x 2048, whose root takes clean-fid 8 s.
    x, y = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (fake, real))
    shift = ((fake.mean(0) - real.mean(0)) ** 2).sum()
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = shift + (x**2).sum() + (y**2).sum() - 2 * root
    assert ours["fid"] == pytest.approx(expected, rel=1e-6)
