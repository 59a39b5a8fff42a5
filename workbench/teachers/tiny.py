"""Small, real pipelines of every family. Weights are random: pretraining is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.teachers import tiny_text
from workbench.teachers.principal_components import patch_autoencoder
from workbench.teachers.recipe import (
    AutoencoderDCRecipe,
    AutoencoderKLRecipe,
    FluxRecipe,
    PrincipalComponentsRecipe,
    SanaRecipe,
    SD3Recipe,
    SprintRecipe,
    TinyRecipe,
)

_HEAD_WIDTH = 16
_PATCH = 2
_STEPS = 50  # Euler steps of a tiny teacher, unless told


def tiny_pipeline(recipe: TinyRecipe, prompts: Sequence[str]) -> Any:
    """A pipeline of the recipe's class and size, its tokenizers trained on the prompts.

    Draws from torch's global random state.
    """
    match recipe:
        case SanaRecipe() | SprintRecipe():
            return _sana(recipe, prompts)
        case SD3Recipe():
            return _sd3(recipe, prompts)
        case FluxRecipe():
            return _flux(recipe, prompts)


def tiny_arguments(recipe: TinyRecipe) -> dict[str, Any]:
    """Arguments with which the stock pipeline's call behaves as the tiny teacher does."""
    size = {"height": recipe.image_size, "width": recipe.image_size}
    match recipe:
        case SanaRecipe() | SprintRecipe():
            prompt = {
                "use_resolution_binning": False,
                "max_sequence_length": recipe.text.tokens,
                "complex_human_instruction": None,
            }
        case SD3Recipe() | FluxRecipe():
            prompt = {"max_sequence_length": recipe.text.t5_tokens}
    return {**size, **prompt, "num_inference_steps": _STEPS, "guidance_scale": 1.0}


def _sana(recipe: SanaRecipe | SprintRecipe, prompts: Sequence[str]) -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaSprintPipeline,
        SCMScheduler,
    )

    tokenizer, text_encoder = tiny_text.gemma(recipe.text, prompts)
    vae = _autoencoder_dc(recipe.autoencoder)
    parts = {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae}
    if isinstance(recipe, SanaRecipe):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        return SanaPipeline(**parts, transformer=_sana_transformer(recipe), scheduler=scheduler)
    transformer = _sana_transformer(recipe, guidance_embeds=True, qk_norm="rms_norm_across_heads")
    scheduler = SCMScheduler(sigma_data=0.5, prediction_type="trigflow")
    return SanaSprintPipeline(**parts, transformer=transformer, scheduler=scheduler)


def _sd3(recipe: SD3Recipe, prompts: Sequence[str]) -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    parts, text = recipe.transformer, recipe.text
    tokenizer, text_encoder = tiny_text.clip(text, prompts, projected=True)
    tokenizer_2, text_encoder_2 = tiny_text.clip(text, prompts, projected=True)
    tokenizer_3, text_encoder_3 = tiny_text.t5(text, prompts)
    side = recipe.image_size // _factor(recipe.autoencoder)
    transformer = SD3Transformer2DModel(
        sample_size=side,
        patch_size=_PATCH,
        in_channels=recipe.autoencoder.latent_channels,
        out_channels=recipe.autoencoder.latent_channels,
        num_layers=parts.layers,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=parts.heads,
        joint_attention_dim=text.t5_width,
        caption_projection_dim=parts.heads * _HEAD_WIDTH,
        pooled_projection_dim=2 * text.clip_width,
        pos_embed_max_size=side // _PATCH,
        dual_attention_layers=parts.dual_attention_layers,
        qk_norm="rms_norm" if parts.qk_norm else None,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=_autoencoder_kl(recipe.autoencoder, recipe.image_size),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )


def _flux(recipe: FluxRecipe, prompts: Sequence[str]) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    parts, text = recipe.transformer, recipe.text
    tokenizer, text_encoder = tiny_text.clip(text, prompts, projected=False)
    tokenizer_2, text_encoder_2 = tiny_text.t5(text, prompts)
    packed = recipe.autoencoder.latent_channels * _PATCH**2
    transformer = FluxTransformer2DModel(
        in_channels=packed,
        out_channels=packed,
        num_layers=parts.double_layers,
        num_single_layers=parts.single_layers,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=parts.heads,
        joint_attention_dim=text.t5_width,
        pooled_projection_dim=text.clip_width,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=_autoencoder_kl(recipe.autoencoder, recipe.image_size),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


def _autoencoder_dc(parts: AutoencoderDCRecipe | PrincipalComponentsRecipe) -> Any:
    from diffusers import AutoencoderDC

    if isinstance(parts, PrincipalComponentsRecipe):
        return patch_autoencoder(parts.latent_channels)
    no_scales: tuple[tuple[int, ...], ...] = ((), (), (), ())
    return AutoencoderDC(
        in_channels=3,
        latent_channels=parts.latent_channels,
        encoder_block_out_channels=parts.channels,
        decoder_block_out_channels=parts.channels,
        encoder_layers_per_block=parts.layers,
        decoder_layers_per_block=parts.layers,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=no_scales,
        decoder_qkv_multiscales=no_scales,
        scaling_factor=1.0,
    )


def _autoencoder_kl(parts: AutoencoderKLRecipe, image_size: int) -> Any:
    from diffusers import AutoencoderKL

    stages = len(parts.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=parts.channels,
        layers_per_block=1,
        latent_channels=parts.latent_channels,
        norm_num_groups=8,
        sample_size=image_size,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def _factor(parts: AutoencoderKLRecipe) -> int:
    factor: int = 2 ** (len(parts.channels) - 1)
    return factor


def _sana_transformer(recipe: SanaRecipe | SprintRecipe, **kind: Any) -> Any:
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
        **kind,
    )
