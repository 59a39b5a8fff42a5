"""What fresh images of a reference's own distribution score against it."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import RequestError
from workbench.evaluation import FeatureStatistics, frechet_distance
from workbench.evaluation.frechet import CentredRows
from workbench.evaluation.intervals import frechet_floor

SPREAD = np.linspace(0.3, 1.2, 16)


@pytest.mark.parametrize("kinds", [1, 8])
@pytest.mark.parametrize(("images", "samples"), [(600, 100), (600, 5000)])
def test_a_floor_is_the_distance_of_fresh_samples(kinds, images, samples):
    """Not that of a half to the whole that holds it, which is half of it at equal numbers."""
    random = np.random.default_rng(images + samples)
    centers = random.normal(size=(kinds, 16)) * 2

    def draw(count):
        labels = np.arange(count) % kinds
        return (random.normal(size=(count, 16)) * SPREAD + centers[labels]).astype(np.float32)

    labels = [str(number % kinds) for number in range(images)]
    fresh, found = [], []
    for _ in range(80):
        real = draw(images)
        reference = FeatureStatistics.from_features(real)
        fresh.append(frechet_distance(CentredRows(draw(samples)), reference))
        found.append(frechet_floor(real, labels, samples, splits=4)["mean"])
    assert np.mean(found) == pytest.approx(np.mean(fresh), rel=0.08)
    wide = frechet_floor(real, labels, samples, splits=100)
    assert 0.75 < np.mean([wide["low"] <= score <= wide["high"] for score in fresh]) <= 1


def test_a_floor_needs_halves_of_more_images_than_features():
    rows = np.random.default_rng(0).normal(size=(34, 16)).astype(np.float32)
    assert frechet_floor(rows, ("",) * 34, 17)["mean"] > 0
    with pytest.raises(RequestError, match="at least 34 images and 17 samples, not 33 and 17"):
        frechet_floor(rows[:33], ("",) * 33, 17)
    with pytest.raises(RequestError, match="not 34 and 16"):
        frechet_floor(rows, ("",) * 34, 16)
