"""The parts of the embedded teacher: tokenizer, text encoder, autoencoder."""

from __future__ import annotations

import pytest
import torch

from workbench.data.bundled import DIGITS, PROMPTS
from workbench.teachers import PipelineTeacher


def test_every_word_of_the_prompts_is_one_token(digits_teacher: PipelineTeacher) -> None:
    tokenizer = digits_teacher.pipeline.tokenizer
    for prompt in PROMPTS:
        ids = tokenizer(prompt).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) == 1 + len(prompt.split()), tokenizer.convert_ids_to_tokens(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]


def test_foreign_text_is_spelt_not_lost(digits_teacher: PipelineTeacher) -> None:
    tokenizer = digits_teacher.pipeline.tokenizer
    ids = tokenizer("Größe, 7?").input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Größe, 7?"


def test_all_prompts_are_separable(digits_teacher: PipelineTeacher) -> None:
    cond = digits_teacher.encode(PROMPTS)
    assert cond["mask"].sum(dim=1).min() > 1
    masked = (cond["embeds"] * cond["mask"][..., None]).flatten(1)
    distances = torch.cdist(masked, masked) + 1e9 * torch.eye(len(PROMPTS))
    assert distances.min() > 0.1 * masked.norm(dim=1).mean()


def test_the_autoencoder_s_round_trip(digits_teacher: PipelineTeacher) -> None:
    images = DIGITS.images(32)
    latents = digits_teacher.encode_images(images)
    assert latents.shape == (len(images), *digits_teacher.latent_shape)
    assert latents.std().item() == pytest.approx(1.0, abs=1e-3)
    error = (digits_teacher.decode(latents) - images).square().mean()
    assert -10 * error.log10() > 22  # dB; a constant image scores 8
    shuffled = digits_teacher.decode(latents.roll(1, dims=0))
    assert (shuffled - images).square().mean() > 10 * error


def test_call_arguments_are_the_stock_call_s(digits_teacher: PipelineTeacher) -> None:
    arguments = digits_teacher.call_arguments
    assert arguments["height"] == arguments["width"] == digits_teacher.resolution == 32
    assert not arguments["complex_human_instruction"]
    image = digits_teacher.pipeline(
        **{**arguments, "prompt": "the digit 7", "num_inference_steps": 2}
    ).images[0]
    assert image.size == (32, 32)
