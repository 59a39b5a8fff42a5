"""Addressable noise: every number is a function of its address, and well distributed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from workbench.flow import NoiseSource

SIGNIFICANCE = 1e-3


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (5, 3), (16, 4, 4)])
def test_slices_equal_the_full_draw(shape: tuple[int, ...]) -> None:
    source = NoiseSource(7)
    full = source.normal("z", 0, 24, shape)
    assert full.shape == (24, *shape)
    for start, count in ((0, 1), (0, 7), (7, 5), (12, 12), (23, 1)):
        assert torch.equal(source.normal("z", start, count, shape), full[start : start + count])
    uniform = source.uniform("t", 0, 24)
    assert torch.equal(source.uniform("t", 9, 8), uniform[9:17])


def test_addresses_far_out_are_reached_directly() -> None:
    far = 10**12
    source = NoiseSource(1)
    assert torch.equal(source.normal("z", far, 4, (3,))[2:], source.normal("z", far + 2, 2, (3,)))


def test_frozen_values() -> None:
    """A change of the generator would silently change every resumed run."""
    source = NoiseSource(3)
    assert source.uniform("fake_score/t", 5, 3).tolist() == [
        0.5915906067327442,
        0.6296511891621418,
        0.05424492883663057,
    ]
    torch.testing.assert_close(
        source.normal("generator/z", 2, 2, (2,)),
        torch.tensor([[-0.120711, 1.251162], [0.822577, 1.055068]]),
        rtol=0,
        atol=1e-6,
    )


def test_normal_and_uniform_pass_kolmogorov_smirnov() -> None:
    source = NoiseSource(11)
    normal = source.normal("z", 0, 5_000, (3, 5)).double().flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > SIGNIFICANCE
    uniform = source.uniform("t", 0, 50_000)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > SIGNIFICANCE
    assert uniform.min() > 0
    assert uniform.max() < 1


def test_elements_of_a_sample_are_independent() -> None:
    """Box-Muller's pairs, neighbouring counters and neighbouring samples."""
    z = NoiseSource(2).normal("z", 0, 20_000, (8,)).double()
    rows = torch.cat((z[:-1], z[1:]), dim=1)
    correlation = torch.corrcoef(rows.T) - torch.eye(16)
    assert correlation.abs().max() < 5 / np.sqrt(20_000)
    squares = torch.corrcoef((rows**2).T) - torch.eye(16)
    assert squares.abs().max() < 5 / np.sqrt(20_000)


def test_streams_and_seeds_are_independent() -> None:
    draws = [
        NoiseSource(seed).normal(stream, 0, 1, (20_000,)).flatten().double()
        for seed in (0, 1)
        for stream in ("generator/z", "generator/t", "fake_score/z")
    ]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / np.sqrt(20_000)


def test_streams_and_seeds_do_not_overlap() -> None:
    draws = [
        NoiseSource(seed).uniform(stream, 0, 20_000)
        for seed in (0, 1)
        for stream in ("generator/z", "generator/t", "fake_score/z")
    ]
    assert len(torch.cat(draws).unique()) == 6 * 20_000


def test_integers_are_uniform_on_one_to_high() -> None:
    source = NoiseSource(5)
    counts = Counter(source.integer("k", index, 4) for index in range(4_000))
    assert set(counts) == {1, 2, 3, 4}
    assert stats.chisquare([counts[k] for k in (1, 2, 3, 4)]).pvalue > SIGNIFICANCE


def test_a_permutation_holds_everything_once_and_depends_on_its_stream() -> None:
    source = NoiseSource(5)
    first = source.permutation("epoch/0", 100)
    assert sorted(first.tolist()) == list(range(100))
    assert torch.equal(first, source.permutation("epoch/0", 100))
    assert not torch.equal(first, source.permutation("epoch/1", 100))
