"""Addressable noise: every number is a function of its address, and well distributed."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.flow import NoiseSource
from workbench.flow.noise import box_muller, philox

SIGNIFICANCE = 1e-3
SHAPES = [(), (1,), (2,), (3,), (4,), (7,), (8,), (9,), (5, 3), (4, 8, 8), (32, 16, 16)]
LONG = [(131071,), (131072,), (131073,), (131079,), (262151,), (16, 128, 128)]
"""Around the pieces in which the CPU's are made."""

Normal = Callable[[NoiseSource, str, int, int, Sequence[int]], Tensor]


def on_device(
    source: NoiseSource, stream: str, start: int, count: int, shape: Sequence[int]
) -> Tensor:
    """What other devices do, done by the CPU."""
    rows = source._device_normal(stream, start, count, math.prod(shape), "cpu")
    return rows.reshape(count, *shape)


both = pytest.mark.parametrize("normal", [NoiseSource.normal, on_device], ids=["cpu", "device"])


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_slices_equal_the_full_draw(normal: Normal, shape: tuple[int, ...]) -> None:
    source = NoiseSource(7)
    full = normal(source, "z", 0, 24, shape)
    assert full.shape == (24, *shape)
    assert full.dtype == torch.float32
    for start, count in ((0, 1), (0, 7), (7, 5), (12, 12), (23, 1), (5, 0)):
        assert torch.equal(normal(source, "z", start, count, shape), full[start : start + count])


def test_slices_equal_the_full_draw_of_uniforms() -> None:
    source = NoiseSource(7)
    assert torch.equal(source.uniform("t", 9, 8), source.uniform("t", 0, 24)[9:17])


@both
def test_addresses_far_out_are_reached_directly(normal: Normal) -> None:
    far = 10**12
    source = NoiseSource(1)
    drawn = normal(source, "z", far, 4, (3,))
    assert torch.equal(drawn[2:], normal(source, "z", far + 2, 2, (3,)))
    for other in (0, far % 2**32, far + 2**32):
        assert not torch.isclose(drawn, normal(source, "z", other, 4, (3,))).any()


def first_algorithm(seed: int, stream: str, start: int, count: int, shape: Sequence[int]) -> Tensor:
    """The CPU's normals as they were first written: teachers and references are made of them."""
    size = math.prod(shape)
    words = -(-size // 2)
    counters = -(-words // 4)
    digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
    key = np.array([seed, int.from_bytes(digest, "little")], dtype=np.uint64)
    raw = np.random.Philox(key=key, counter=start * counters).random_raw(count * counters * 4)
    used = np.ascontiguousarray(raw.reshape(count, -1)[:, :words])
    uniform = (torch.from_numpy(used.view(np.uint32).astype(np.float64)) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(uniform[:, 0::2]))
    angle = (2.0 * math.pi) * uniform[:, 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.reshape(count, -1)[:, :size].reshape(count, *shape).float()


@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
def test_bits_on_the_cpu_are_those_of_the_first_algorithm(shape: tuple[int, ...]) -> None:
    for start, count in ((0, 1), (3, 5), (10**12, 2), (100, 1 + 200_000 // math.prod((1, *shape)))):
        ours = NoiseSource(1).normal("z", start, count, shape)
        assert torch.equal(ours, first_algorithm(1, "z", start, count, shape))
        assert ours.is_contiguous()


def philox_of_integers(counter: Sequence[int], key: int) -> tuple[int, ...]:
    """Philox-4x32-10 in Python's integers."""
    a, b, c, d = counter
    left, right = key % 2**32, key // 2**32
    for _ in range(10):
        one, two = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = two // 2**32 ^ b ^ left, two % 2**32, one // 2**32 ^ d ^ right, one % 2**32
        left, right = (left + 0x9E3779B9) % 2**32, (right + 0xBB67AE85) % 2**32
    return a, b, c, d


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000" * 4, "00000000" * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff" * 4, "ffffffff" * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a8885a308d313198a2e03707344",
            "299f31d0a4093822",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: str, key: str, words: str) -> None:
    """Of Random123, the library of its authors (file kat_vectors)."""
    places = [int(counter[at : at + 8], 16) for at in range(0, 32, 8)]
    expected = tuple(int(word, 16) for word in words.split())
    drawn = philox(tuple(torch.tensor([place]) for place in places), int(key, 16))
    assert tuple(word.item() for word in drawn) == expected
    assert philox_of_integers(places, int(key, 16)) == expected


def test_normals_of_a_device_by_a_second_computation() -> None:
    start, size = 2**35 + 3, 10
    key = int.from_bytes(hashlib.blake2b(b"5/generator/z", digest_size=8).digest(), "little")
    rows = []
    for sample in (start, start + 1):
        words = np.array(
            [philox_of_integers((at, sample >> 32, sample % 2**32, 0), key) for at in range(3)]
        )
        radius = np.sqrt(-2 * np.log((words[:, :2].T + 0.5) / 2**32))
        angle = 2 * np.pi * words[:, 2:].T / 2**32
        rows.append(np.concatenate((radius * np.cos(angle), radius * np.sin(angle))).ravel()[:size])
    torch.testing.assert_close(
        NoiseSource(5)._device_normal("generator/z", start, 2, size, "cpu"),
        torch.tensor(np.array(rows), dtype=torch.float32),
        rtol=0,
        atol=5e-6,
    )


def test_no_words_make_infinite_normals() -> None:
    ends = torch.tensor([0, 1, 2**31, 2**32 - 1])
    normals = box_muller(torch.cartesian_prod(*[ends] * 4).T[None])
    assert normals.isfinite().all()
    assert 6.7 < normals.abs().max() < 6.8


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
    torch.testing.assert_close(
        source.normal("evaluation/z", 1999, 1, (16, 128, 128))[0, [0, 7, 15], [0, 64, 127], -1],
        torch.tensor([1.64216, -0.981205, -0.316063]),
        rtol=0,
        atol=1e-6,
    )
    torch.testing.assert_close(
        on_device(source, "generator/z", 2, 2, (2,)),
        torch.tensor([[-0.013111, -1.111745], [0.378641, -0.834593]]),
        rtol=0,
        atol=1e-6,
    )


@both
def test_normals_pass_kolmogorov_smirnov(normal: Normal) -> None:
    drawn = normal(NoiseSource(11), "z", 0, 5_000, (3, 5)).double().flatten().numpy()
    assert stats.kstest(drawn, "norm").pvalue > SIGNIFICANCE


@both
def test_moments_and_tails_are_those_of_a_normal(normal: Normal) -> None:
    drawn = normal(NoiseSource(12), "z", 0, 16, (16, 64, 64)).double().flatten().numpy()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = (drawn**power).mean() - moment
        assert abs(error) < 4.5 * math.sqrt(variance / len(drawn))
    for bound in (2.0, 3.0, 4.0):
        outside = stats.binomtest(
            int((abs(drawn) > bound).sum()), len(drawn), 2 * stats.norm.sf(bound)
        )
        assert outside.pvalue > SIGNIFICANCE


def test_uniforms_pass_kolmogorov_smirnov() -> None:
    uniform = NoiseSource(11).uniform("t", 0, 50_000)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > SIGNIFICANCE
    assert uniform.min() > 0
    assert uniform.max() < 1


@both
def test_elements_of_a_sample_are_independent(normal: Normal) -> None:
    """Box-Muller's pairs, neighbouring counters and neighbouring samples."""
    z = normal(NoiseSource(2), "z", 0, 20_000, (8,)).double()
    rows = torch.cat((z[:-1], z[1:]), dim=1)
    correlation = torch.corrcoef(rows.T) - torch.eye(16)
    assert correlation.abs().max() < 5 / np.sqrt(20_000)
    squares = torch.corrcoef((rows**2).T) - torch.eye(16)
    assert squares.abs().max() < 5 / np.sqrt(20_000)


@both
def test_streams_and_seeds_are_independent(normal: Normal) -> None:
    draws = [
        normal(NoiseSource(seed), stream, 0, 1, (20_000,)).flatten().double()
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors_are_drawn_like_real_ones(device: str) -> None:
    """Memory is estimated by a step on them, so every draw of a step must work."""
    source = NoiseSource(5)
    with FakeTensorMode() as mode:
        normal = source.normal("z", 3, 4, (16, 33, 65), device)
        t = source.uniform("t", 3, 4).to(normal)
        assert 1 <= source.integer("k", 0, 4) <= 4
    assert normal.fake_mode is t.fake_mode is mode
    assert normal.shape == (4, 16, 33, 65)
    assert t.shape == (4,)
    assert {(x.device.type, x.dtype) for x in (normal, t)} == {(device, torch.float32)}
