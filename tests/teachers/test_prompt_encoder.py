"""Text encoders in the precision of their files, beside a network in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import in_precision, without_padding
from workbench.teachers import PipelineTeacher, load_pipeline_teacher
from workbench.teachers.pipeline import load_prompt_encoder, text_precisions
from workbench.teachers.stock import stock_call
from workbench.teachers.text_store import TextStore

Folders = Callable[[str], Path]
PROMPTS = [f"the digit {number % 10} number {number}" for number in range(70)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_encodings_are_as_precise_as_the_encoders_files(
    family_teacher: PipelineTeacher, dtype: torch.dtype, tmp_path: Path
) -> None:
    names = [n for n in family_teacher.family.text_components if n.startswith("text_encoder")]
    folder = in_precision(family_teacher.folder, tmp_path / "half", dict.fromkeys(names, dtype))
    assert text_precisions(family_teacher.folder) == dict.fromkeys(names, torch.float32)
    assert text_precisions(folder) == dict.fromkeys(names, torch.bfloat16)
    half = load_pipeline_teacher("half", folder)
    assert half.network.weights_dtype == torch.float32
    store = TextStore(tmp_path / "store")
    store.encode(half, PROMPTS)
    store.refresh()
    rows = store.rows(PROMPTS)
    mask = half.family.token_mask
    assert {t.dtype for n, t in rows.tensors.items() if n != mask} == {torch.bfloat16}
    exact = without_padding(family_teacher.encode(PROMPTS), family_teacher)
    if mask is not None:
        assert torch.equal(rows[mask], exact[mask])
    x_t, t = torch.randn(70, *half.latent_shape), torch.rand(70)
    coarse, fine = (half.velocity(x_t, t, cond) for cond in (rows, exact))
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - fine).abs().mean() < 0.05 * fine.abs().mean()


def test_encoders_of_two_precisions_keep_each_its_own(
    teacher_folders: Folders, tmp_path: Path
) -> None:
    for name, t5, embeds in (
        ("FluxPipeline", "text_encoder_2", torch.bfloat16),
        ("StableDiffusion3Pipeline", "text_encoder_3", torch.float32),  # joined with CLIP's
    ):
        folder = in_precision(teacher_folders(name), tmp_path / name, {t5: torch.bfloat16})
        encoder = load_prompt_encoder("mixed", folder)
        assert getattr(encoder.pipeline, t5).dtype == torch.bfloat16
        assert encoder.pipeline.text_encoder.dtype == torch.float32
        rows = encoder.encode(["the digit 7"])
        assert (rows["embeds"].dtype, rows["pooled"].dtype) == (embeds, torch.float32)


def test_a_pipeline_of_one_precision_keeps_every_bit_of_its_encoders(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    """As an export needs it, which calls the stock pipeline with prompts and saves it."""
    names = [n for n in family_teacher.family.text_components if n.startswith("text_encoder")]
    folder = in_precision(family_teacher.folder, tmp_path / "x", dict.fromkeys(names, torch.half))
    pipeline = load_pipeline_teacher("x", folder, text=torch.float32).pipeline
    for name in names:
        exact = load_file(folder / name / "model.safetensors")
        state = getattr(pipeline, name).state_dict()
        assert all(torch.equal(state[key], tensor.float()) for key, tensor in exact.items())
    call = {"prompt": "the digit 7", "num_inference_steps": 2, "output_type": "pt"}
    assert pipeline(**{**family_teacher.call_arguments, **call}).images.isfinite().all()


def test_a_stock_call_takes_half_precision_encodings(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    cond, uncond = family_teacher.encode(["the digit 7"]), family_teacher.uncond()
    half = [c.map(lambda x: x.bfloat16() if x.is_floating_point() else x) for c in (cond, uncond)]
    call = stock_call(family_teacher, steps=2)
    noise = torch.randn(1, *family_teacher.latent_shape)
    generators = [torch.Generator().manual_seed(0)]
    latents = call.latents(family_teacher.network, *half, noise, generators)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()
