"""A whole FID, ours against PNG files and clean-fid's `fid.compute_fid` path, in one run.

    python benchmarks/evaluation.py [--samples 1000] [--size 256] [--workers 2]

Both score the same generated images against the same reference statistics with the same small
torchscript in the place of Inception (2048 features of 299 x 299 images; the published file takes
its own time on top, equal for both). Ours: draw, resize, extract, score, without files. Theirs:
draw, write PNGs, then clean-fid's functions on the folder: `get_folder_features` with its workers,
mean, covariance and `frechet_distance`, which is what `compute_fid` does for a folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.frechet import allow_old_sqrtm
from tests.small_inception import SmallInception
from workbench.evaluation import (
    Evaluator,
    FeatureExtractors,
    FeatureStatistics,
    FrechetMetric,
    Sampler,
)
from workbench.evaluation.grids import to_pixels
from workbench.evaluation.networks import WeightFiles
from workbench.teachers._torchvision import prepare_torchvision

prepare_torchvision()
import cleanfid.fid  # noqa: E402  # needs torchvision

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="of clean-fid's loader")
    options = parser.parse_args()
    allow_old_sqrtm()
    with tempfile.TemporaryDirectory() as scratch:
        compare(Path(scratch), options.samples, options.size, options.workers)


def compare(scratch: Path, samples: int, size: int, workers: int) -> None:
    torch.manual_seed(0)
    network = scratch / "inception-2015-12-05.pt"
    torch.jit.save(torch.jit.script(SmallInception().eval()), str(network))
    files = WeightFiles(scratch / "weights", {"inception": network})
    inception = FeatureExtractors(scratch, files, CPU).find("inception")
    # More images than features: clean-fid's root of a singular product is right to 1e-6 only.
    real = [draw(1, start, 50, 64) for start in range(0, 2500, 50)]
    rows = torch.cat([inception.extract(batch, [""] * 50) for batch in real])
    reference = FeatureStatistics.from_features(rows)
    reference.factor  # noqa: B018  # stored with a reference

    began = time.perf_counter()
    evaluator = Evaluator((FrechetMetric(inception, reference),), ("",) * samples, batch_size=50)
    ours = evaluator.evaluate(
        Sampler(lambda prompts, start, count: draw(0, start, count, size), 1, 1.0)
    ).values["fid"]
    our_seconds = time.perf_counter() - began

    began = time.perf_counter()
    folder = scratch / "png"
    folder.mkdir()
    for start in range(0, samples, 50):
        for number, pixels in enumerate(to_pixels(draw(0, start, min(50, samples - start), size))):
            Image.fromarray(pixels).save(folder / f"{start + number:06d}.png")
    written = time.perf_counter() - began
    theirs, scored = clean_fid(folder, network, reference, workers)
    their_seconds = time.perf_counter() - began

    print(f"{samples} images of {size} x {size}, one FID each, with drawing")
    print(f"ours       {our_seconds:7.2f} s  {samples / our_seconds:6.1f} images/s  {ours:.6f}")
    rate = samples / their_seconds
    print(f"clean-fid  {their_seconds:7.2f} s  {rate:6.1f} images/s  {theirs:.6f}")
    print(f"  of that: PNGs {written:.2f} s, frechet_distance {scored:.2f} s")
    print(
        f"{their_seconds / our_seconds:.1f} times the throughput "
        f"({(their_seconds - scored) / our_seconds:.1f} times without their frechet_distance), "
        f"relative difference {abs(ours / theirs - 1):.1e}"
    )


def clean_fid(
    folder: Path, network: Path, reference: FeatureStatistics, workers: int
) -> tuple[float, float]:
    """clean-fid's distance of a folder, and the seconds of its last step."""
    layers: Any = torch.jit.load(str(network)).eval().layers  # type: ignore[no-untyped-call]

    def features(images: Tensor) -> Tensor:
        found: Tensor = layers.forward((images - 128) / 128)
        return found.view(len(images), 2048)

    rows = cleanfid.fid.get_folder_features(
        str(folder), features, num_workers=workers, batch_size=50, device=CPU, verbose=False
    )
    mean, covariance = np.mean(rows, axis=0), np.cov(rows, rowvar=False)
    began = time.perf_counter()
    value = cleanfid.fid.frechet_distance(mean, covariance, reference.mean, reference.covariance)
    return float(value), time.perf_counter() - began


def draw(seed: int, start: int, count: int, size: int) -> Tensor:
    """Cheap smooth pictures (count, 3, size, size): what a generator costs hides both sides."""
    small = torch.stack(
        [
            torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(10**6 * seed + index))
            for index in range(start, start + count)
        ]
    )
    smooth = torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic")
    return smooth.clamp(0, 1)


if __name__ == "__main__":
    main()
