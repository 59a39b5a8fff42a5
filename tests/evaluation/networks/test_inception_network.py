"""Inception features and resizing are clean-fid's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.networks.conftest import PROMPTS
from workbench.evaluation import FeatureExtractors
from workbench.evaluation.grids import to_pixels
from workbench.evaluation.networks.pixels import clean_resize, to_bytes
from workbench.evaluation.networks.weights import metrics_package


@pytest.mark.parametrize("shape", [(32, 32), (40, 56), (299, 299), (400, 310)])
def test_resizing_is_clean_fids_bit_for_bit(shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    resize = metrics_package("cleanfid.resize").build_resizer("clean")
    stock = np.stack([resize(pixels) for pixels in to_pixels(images)]).transpose(0, 3, 1, 2)
    assert np.array_equal(clean_resize(images, 299).numpy(), stock)


def test_bytes_are_those_of_a_png() -> None:
    ties = (torch.arange(3 * 256).float() / 256 + 0.5 / 255).view(1, 3, 16, 16) - 0.2
    assert np.array_equal(to_bytes(ties).permute(0, 2, 3, 1).numpy(), to_pixels(ties))


def test_features_are_clean_fids_on_the_same_images_as_png(
    networks: FeatureExtractors, images: Tensor, png_folder: Path, inception_file: Path
) -> None:
    fid = metrics_package("cleanfid.fid")
    scripted = metrics_package("cleanfid.inception_torchscript")
    model = scripted.InceptionV3W(str(inception_file.parent), download=False).eval()
    stock = fid.get_folder_features(
        str(png_folder), model, num_workers=0, device=torch.device("cpu"), verbose=False
    )
    ours = networks.find("inception").extract(images, PROMPTS)
    assert ours.shape == (4, 2048)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), stock, rtol=1e-6, atol=1e-7)
    assert np.abs(stock).max() > 0.1
