"""Where the images of an evaluation are best spent: on noise of each run's own, or on common noise.

    python benchmarks/evaluation_seeds.py
    python benchmarks/evaluation_seeds.py --training-sd 0.026 --evaluation-sd 0.026 --shared 0.82

Simulates one variant, and the difference of two on the same noise, whose runs are scored on the
same number of drawn images: either on noise of each run's own (the default, ``evaluation.seed =
null``), or divided among m evaluation seeds that all runs share. A score of fewer images varies
more: its variance over evaluation seeds is taken as proportional to 1 / images. Printed are the
median half width of the 95 % interval that ``workbench compare`` gives, over the training's
standard deviation, and how often it holds the truth. The defaults are what quickstart's runs
showed.
"""

from __future__ import annotations

import argparse

import numpy as np

from workbench.reports import Observation, difference, estimate_scores

TIMES = 2000


def simulate(
    seeds: int, noises: int | None, options: argparse.Namespace, chance: np.random.Generator
) -> list[list[Observation]]:
    """Scores of two variants whose mean is 0; ``noises`` None is noise of each run's own.

    What noise does to all runs alike it does to both variants; the rest, and training, is each
    run's own.
    """
    shape = (seeds, noises or 1)
    total = options.evaluation_sd**2 * shape[1]  # of a score of so many fewer images
    common = np.sqrt(total * options.shared) * chance.normal(
        size=shape if noises is None else (1, noises)
    )
    found = []
    for _ in range(2):
        scores = options.training_sd * chance.normal(size=(seeds, 1)) + common
        scores = scores + np.sqrt(total * (1 - options.shared)) * chance.normal(size=shape)
        found.append(
            [
                Observation(seed, place if noises else seed, float(value))
                for seed, row in enumerate(scores)
                for place, value in enumerate(row)
            ]
        )
    return found


def half_width(
    seeds: int, noises: int | None, options: argparse.Namespace, pairs: bool
) -> tuple[float, float]:
    """Median half width over ``training_sd``, and coverage."""
    chance = np.random.default_rng(0)
    halves, inside = [], 0
    for _ in range(TIMES):
        ours, theirs = simulate(seeds, noises, options, chance)
        found = difference(ours, theirs) if pairs else estimate_scores(ours)
        assert found.half is not None
        halves.append(found.half)
        inside += abs(found.mean) <= found.half
    return float(np.median(halves)) / options.training_sd, inside / TIMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training-sd", type=float, default=0.026)
    parser.add_argument("--evaluation-sd", type=float, default=0.026, help="of all images")
    parser.add_argument("--shared", type=float, default=0.82, help="of its variance, by all runs")
    options = parser.parse_args()
    print("| training seeds | evaluation noise | mean | covers | difference | covers |")
    print("|---:|---|---:|---:|---:|---:|")
    for seeds in (3, 5, 10):
        for noises in (None, 2, 4, 8):
            cells = [half_width(seeds, noises, options, pairs) for pairs in (False, True)]
            told = "each run's own" if noises is None else f"{noises} common seeds"
            numbers = " | ".join(f"{width:.2f} | {covered:.3f}" for width, covered in cells)
            print(f"| {seeds} | {told} | {numbers} |")


if __name__ == "__main__":
    main()
