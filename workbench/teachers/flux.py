"""FLUX.1 (Black Forest Labs 2024): packed latents, rotary positions, guidance as an input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.family import CallArguments, Family

_PATCH = 2  # latents are packed 2 x 2 outside the transformer


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, H, W) as tokens (B, H/2 * W/2, 4 C), the order of FluxPipeline."""
    return torch.nn.functional.pixel_unshuffle(latents, _PATCH).flatten(2).mT.contiguous()


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`: tokens (B, H/2 * W/2, 4 C) to latents (B, C, H, W)."""
    folded = tokens.mT.reshape(len(tokens), -1, height // _PATCH, width // _PATCH)
    return torch.nn.functional.pixel_shuffle(folded, _PATCH)


def image_positions(height: int, width: int, device: torch.device) -> Tensor:
    """(0, row, column) of every token of latents H x W, float32 (H/2 * W/2, 3)."""
    rows, columns = (torch.arange(size // _PATCH, device=device) for size in (height, width))
    zero = torch.zeros(1, device=device, dtype=rows.dtype)
    return torch.cartesian_prod(zero, rows, columns).float()


class FluxVelocity(VelocityNetwork):
    """FluxTransformer2DModel, called exactly as FluxPipeline calls it: once for each sample."""

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        if cond is None:
            raise ValueError("A FLUX network needs a conditioning; use uncond() for no prompt.")
        weights = self.weights_dtype
        height, width = x_t.shape[-2:]
        embeds = cond["embeds"].to(weights)
        guidance = self.guidance_input(t)
        with exact_times(self.module.time_text_embed, t, guidance):
            velocity: Tensor = self.module(
                hidden_states=pack(x_t.to(weights)),
                timestep=t,  # the network itself multiplies by 1000
                guidance=guidance,
                pooled_projections=cond["pooled"].to(weights),
                encoder_hidden_states=embeds,
                txt_ids=x_t.new_zeros(embeds.shape[1], 3),
                img_ids=image_positions(height, width, x_t.device),
                return_dict=False,
            )[0]
        return unpack(velocity, height, width)


@contextmanager
def exact_times(embed: Any, t: Tensor, guidance: Tensor | None) -> Iterator[None]:
    """Feed a FLUX time embedding t and guidance (B,), times 1000, in float32.

    The transformer rounds both to the precision of its weights first: in bfloat16 t = 0.999 becomes
    1, and guidance 3.5 becomes 3.504.
    """
    exact = [1000 * value for value in (t, guidance) if value is not None]
    hook = embed.register_forward_pre_hook(lambda _, inputs: (*exact, inputs[-1]))
    try:
        yield
    finally:
        hook.remove()


class FluxFamily(Family):
    """Teachers saved as a FluxPipeline."""

    pipeline_class = "FluxPipeline"
    text_components = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    components = (*text_components, "vae", "transformer", "scheduler")
    encoding_arguments = ("max_sequence_length",)
    student_class = "FluxPipeline"
    gives_sigmas = True
    cfg_argument = "true_cfg_scale"

    def network(self, pipeline: Any, arguments: CallArguments) -> VelocityNetwork:
        transformer = pipeline.transformer
        guided = transformer.config.guidance_embeds
        return FluxVelocity(transformer, arguments["guidance_scale"] if guided else None)

    def native_resolution(self, pipeline: Any) -> int:
        size: int = pipeline.default_sample_size * pipeline.vae_scale_factor
        return size

    def pixels_per_patch(self, pipeline: Any) -> int:
        pixels: int = pipeline.vae_scale_factor * _PATCH
        return pixels

    def latent_shape(self, pipeline: Any, arguments: CallArguments) -> tuple[int, int, int]:
        side = arguments["height"] // pipeline.vae_scale_factor
        return (pipeline.transformer.config.in_channels // _PATCH**2, side, side)

    def encoding_shapes(
        self, folder: Path, transformer: Mapping[str, Any], arguments: CallArguments
    ) -> Mapping[str, tuple[int, ...]]:
        return {
            "embeds": (arguments["max_sequence_length"], transformer["joint_attention_dim"]),
            "pooled": (transformer["pooled_projection_dim"],),
        }

    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        embeds, pooled, _ = pipeline.encode_prompt(
            list(prompts), None, max_sequence_length=arguments["max_sequence_length"]
        )
        return Conditioning({"embeds": embeds, "pooled": pooled})

    def uncond(self, pipeline: Any, arguments: CallArguments) -> Conditioning:
        return self.encode(pipeline, [""], arguments)

    def stock_inputs(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Tensor,
        arguments: CallArguments,
    ) -> dict[str, Any]:
        given = {
            "prompt_embeds": cond["embeds"],
            "pooled_prompt_embeds": cond["pooled"],
            "latents": pack(noise),
        }
        if uncond is None:
            return given
        if arguments["negative_prompt"] is None:
            raise RequestError(
                f"true_cfg_scale {arguments['true_cfg_scale']:g} does nothing in a FluxPipeline "
                'without a negative_prompt: set negative_prompt="" beside it, or leave it at 1.'
            )
        return {
            **given,
            "negative_prompt": None,
            "negative_prompt_embeds": uncond["embeds"],
            "negative_pooled_prompt_embeds": uncond["pooled"],
        }

    def from_stock(self, latents: Tensor, latent_shape: tuple[int, ...]) -> Tensor:
        return unpack(latents, *latent_shape[1:])

    def scheduler_noise(self, latent_shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        _, height, width = latent_shape
        packed = pack(torch.empty(1, *latent_shape, device="meta")).shape
        drawn = torch.randn(packed, generator=generator, device=generator.device)
        return unpack(drawn, height, width)
