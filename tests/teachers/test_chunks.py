"""Chunks that fit a device."""

from __future__ import annotations

import pytest
import torch

from workbench.teachers import PipelineTeacher, pipeline
from workbench.teachers.chunks import auto_batch_size, chunk_memory, decode_batch_size

GIB = 2**30
CPU = torch.device("cpu")

# latent shape, parameters, pixels: SANA 1.6B at 1024, FLUX 12B at 1024, SD3.5-medium at 512
SANA = ((32, 32, 32), 1_600_000_000, 1024)
FLUX = ((16, 128, 128), 12_000_000_000, 1024)
SD3 = ((16, 64, 64), 2_500_000_000, 512)


@pytest.mark.parametrize(
    ("model", "memory", "expected"),
    [(SANA, 10, 32), (FLUX, 10, 1), (SD3, 10, 8), (SANA, 3, 8), (FLUX, 1, 1)],
)
def test_a_batch_takes_what_the_formula_says(model, memory, expected):
    """2 tokens (64 P / 12)^(1/3) 16 values and 4 pictures a sample, rounded down to 2^n."""
    (_, height, wide), parameters, pixels = model
    width = (64 * parameters / 12) ** (1 / 3)
    sample = 2 * height * wide * width * 16 * 4 + 4 * 3 * pixels**2 * 4
    size = auto_batch_size(memory * GIB, *model)
    assert size == expected
    assert size == 1 or sample * size <= memory * GIB < 2 * sample * size * 1.01


def test_batches_are_1_to_250_and_never_shrink_with_memory():
    sizes = [auto_batch_size(int(1.3**n), *SANA) for n in range(120)]
    assert sizes[0] == 1
    assert sizes[-1] == 250
    assert sizes == sorted(sizes)
    assert set(sizes) == {1, 2, 4, 8, 16, 32, 64, 128, 250}
    assert auto_batch_size(GIB, (2,), 0, None) == 250  # points


def test_at_1024_pixels_a_decode_no_longer_takes_134_gb():
    """250 images of 128 channels in float32 are 134 GB: one activation of today's decode."""
    one = 128 * 1024**2 * 4
    assert 250 * one == pytest.approx(134e9, rel=2e-3)
    size = decode_batch_size(10 * GIB, 1024)
    assert size == 4
    assert 3 * one * size <= 10 * GIB < 3 * one * 2 * size
    assert decode_batch_size(0, 1024) == 1


def test_memory_of_a_chunk_is_a_share_of_all_unless_little_is_free(monkeypatch):
    class Memory:
        total, available = 64 * GIB, 40 * GIB

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    assert chunk_memory(CPU) == 8 * GIB
    Memory.available = 39 * GIB  # equal devices take equal chunks, whatever else runs there
    assert chunk_memory(CPU) == 8 * GIB
    Memory.available = 10 * GIB
    assert chunk_memory(CPU) == 5 * GIB


def test_a_gpus_cached_memory_counts_as_free(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2 * GIB, 80 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 70 * GIB)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 30 * GIB)
    assert chunk_memory(torch.device("cuda")) == 10 * GIB
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 60 * GIB)
    assert chunk_memory(torch.device("cuda")) == 6 * GIB


@pytest.mark.parametrize(("room", "parts"), [(1, [1] * 7), (3, [2, 2, 2, 1]), (1000, [7])])
def test_latents_are_decoded_in_parts_that_fit(
    digits_teacher: PipelineTeacher, monkeypatch, room, parts
):
    latents = torch.randn(
        7, *digits_teacher.latent_shape, generator=torch.Generator().manual_seed(0)
    )
    whole = digits_teacher.decode(latents)
    seen = []
    decode = digits_teacher.family.decode

    def counted(loaded, some):
        seen.append(len(some))
        return decode(loaded, some)

    image = 3 * 128 * digits_teacher.resolution**2 * 4
    monkeypatch.setattr(digits_teacher.family, "decode", counted)
    monkeypatch.setattr(pipeline, "chunk_memory", lambda device: room * image)
    torch.testing.assert_close(digits_teacher.decode(latents), whole, rtol=0, atol=1e-5)
    assert seen == parts
    assert whole.dtype == next(digits_teacher.pipeline.vae.parameters()).dtype == torch.float32


def test_a_part_that_does_not_fit_raises_as_it_is(digits_teacher: PipelineTeacher, monkeypatch):
    calls = []

    def exhausted(loaded, latents):
        calls.append(len(latents))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(digits_teacher.family, "decode", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        digits_teacher.decode(torch.zeros(3, *digits_teacher.latent_shape))
    assert calls == [3]
