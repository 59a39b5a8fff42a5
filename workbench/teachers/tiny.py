"""The parts of a small, real SanaPipeline. Weights are random: pretraining is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workbench.teachers._torchvision import prepare_torchvision
from workbench.teachers.recipe import TinyRecipe

_HEAD_WIDTH = 16
_SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # Gemma's order: pad 0, bos 2


def tiny_sana_pipeline(recipe: TinyRecipe, prompts: Sequence[str]) -> Any:
    """A SanaPipeline of the recipe's size, its tokenizer trained on the prompts.

    Draws from torch's global random state.
    """
    prepare_torchvision()
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline

    tokenizer = _tokenizer(prompts, recipe.text.tokens)
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=_text_encoder(recipe, len(tokenizer)),
        vae=_autoencoder(recipe),
        transformer=_transformer(recipe),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )


def tiny_sana_arguments(recipe: TinyRecipe) -> dict[str, Any]:
    """What SanaPipeline's call must be told to behave as the tiny teacher does."""
    return {
        "height": recipe.image_size,
        "width": recipe.image_size,
        "use_resolution_binning": False,
        "max_sequence_length": recipe.text.tokens,
        "complex_human_instruction": None,
        "num_inference_steps": 50,
        "guidance_scale": 1.0,
    }


def _tokenizer(prompts: Sequence[str], tokens: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    # Gemma's own pre-tokenizer would let merges cross words and swallow whole prompts.
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bpe.decoder = decoders.Replace("▁", " ")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789")
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[*_SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=letters,
        show_progress=False,
    )
    # Each word also at a beginning and after a space, wherever the prompts have it.
    words = sorted({word for prompt in prompts for word in prompt.split()})
    bpe.train_from_iterator([*prompts, *words, *(f" {word}" for word in words)], trainer)
    learnt: dict[str, Any] = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learnt["merges"]]
    return GemmaTokenizer(
        vocab=learnt["vocab"],
        merges=merges,
        # Without it the empty prompt would have an all-zero mask.
        add_bos_token=True,
        padding_side="right",
        model_max_length=tokens,
    )


def _text_encoder(recipe: TinyRecipe, vocabulary: int) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    heads = recipe.text.width // _HEAD_WIDTH
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=recipe.text.width,
        intermediate_size=2 * recipe.text.width,
        num_hidden_layers=recipe.text.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=_HEAD_WIDTH,
        query_pre_attn_scalar=_HEAD_WIDTH,
        max_position_embeddings=512,
        sliding_window=512,
        pad_token_id=_SPECIAL_TOKENS.index("<pad>"),
        eos_token_id=_SPECIAL_TOKENS.index("<eos>"),
        bos_token_id=_SPECIAL_TOKENS.index("<bos>"),
    )
    encoder: Any = Gemma2Model(config)
    return encoder.eval().requires_grad_(False)


def _autoencoder(recipe: TinyRecipe) -> Any:
    from diffusers import AutoencoderDC

    parts = recipe.autoencoder
    no_scales: tuple[tuple[int, ...], ...] = ((), (), (), ())
    return AutoencoderDC(
        in_channels=3,
        latent_channels=parts.latent_channels,
        encoder_block_out_channels=parts.channels,
        decoder_block_out_channels=parts.channels,
        encoder_layers_per_block=parts.layers,
        decoder_layers_per_block=parts.layers,
        encoder_qkv_multiscales=no_scales,
        decoder_qkv_multiscales=no_scales,
    )


def _transformer(recipe: TinyRecipe) -> Any:
    from diffusers import SanaTransformer2DModel

    parts, width = recipe.transformer, recipe.transformer.heads * _HEAD_WIDTH
    return SanaTransformer2DModel(
        in_channels=recipe.autoencoder.latent_channels,
        out_channels=recipe.autoencoder.latent_channels,
        num_attention_heads=parts.heads,
        attention_head_dim=_HEAD_WIDTH,
        num_layers=parts.layers,
        num_cross_attention_heads=parts.heads,
        cross_attention_head_dim=_HEAD_WIDTH,
        cross_attention_dim=width,
        caption_channels=recipe.text.width,
        mlp_ratio=parts.mlp_ratio,
        sample_size=recipe.image_size // 8,
        patch_size=1,
        interpolation_scale=1,
    )
