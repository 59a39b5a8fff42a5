"""What fresh real images score against a reference of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.errors import RequestError
from workbench.evaluation.design import Design
from workbench.evaluation.frechet import FeatureStatistics, frechet_distance, gaussian_of
from workbench.evaluation.observations import Rows, chosen
from workbench.evaluation.sliced import interval_of

SPLITS = 20


def frechet_floor(
    rows: Rows, kinds: Sequence[str], samples: int, splits: int = SPLITS
) -> dict[str, Any]:
    """The Frechet distance of fresh real images to the reference: mean, and where one lies.

    Halves of the reference share no image, so that one is fresh to the other. The distance of two
    sets of one distribution is proportional to 1/N + 1/M, so it is scaled from two halves to
    ``samples`` fresh images and the whole reference. All splits are of one set of images: the
    range holds 95 % of the splits, about where one fresh set lies.

    Args:
        rows: the reference's (M, D).
        kinds: caption or class of each; of those that repeat both sets hold equal shares, as
            samples that are drawn for the reference's captions do.
        splits: random ones into halves.

    Raises:
        RequestError: a half of the reference, or the samples, are no more than the features.
    """
    fewest = rows.shape[1] + 1
    if len(rows) // 2 < fewest or samples < fewest:
        raise RequestError(
            f"With {rows.shape[1]} features a floor needs a reference of at least {2 * fewest} "
            f"images and {fewest} samples, not {len(rows)} and {samples}: with fewer it is not "
            "proportional to 1/N."
        )
    distances = np.empty(splits)
    for split in range(splits):
        one, other = (chosen(rows, half) for half in Design(kinds, seed=split).parts(2))
        reference = FeatureStatistics.from_features(other)
        distances[split] = frechet_distance(gaussian_of(one), reference)
    scale = (1 / samples + 1 / len(rows)) / (2 / (len(rows) // 2))
    return interval_of(scale * distances)
