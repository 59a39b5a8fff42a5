"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): joint attention, velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.family import CallArguments, Family
from workbench.teachers.json_file import read_json

_STEPS = 1000.0  # the network's time runs from 0 to 1000


class SD3Velocity(VelocityNetwork):
    """SD3Transformer2DModel, called exactly as StableDiffusion3Pipeline calls it."""

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        if cond is None:
            raise ValueError("An SD3 network needs a conditioning; use uncond() for no prompt.")
        weights = self.weights_dtype
        velocity: Tensor = self.module(
            hidden_states=x_t.to(weights),
            timestep=_STEPS * t,
            encoder_hidden_states=cond["embeds"].to(weights),
            pooled_projections=cond["pooled"].to(weights),
            return_dict=False,
        )[0]
        return velocity


class SD3Family(Family):
    """Teachers saved as a StableDiffusion3Pipeline."""

    pipeline_class = "StableDiffusion3Pipeline"
    text_components = (
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
    )
    components = (*text_components, "vae", "transformer", "scheduler")
    encoding_arguments = ("clip_skip", "max_sequence_length")
    student_class = "StableDiffusion3Pipeline"

    def network(self, pipeline: Any, arguments: CallArguments) -> VelocityNetwork:
        return SD3Velocity(pipeline.transformer)

    def largest_resolution(self, pipeline: Any) -> int | None:
        positions: int = pipeline.transformer.config.pos_embed_max_size
        return positions * self.pixels_per_patch(pipeline)

    def encoding_shapes(
        self, folder: Path, transformer: Mapping[str, Any], arguments: CallArguments
    ) -> Mapping[str, tuple[int, ...]]:
        clip = read_json(folder / "tokenizer" / "tokenizer_config.json")["model_max_length"]
        tokens = clip + arguments["max_sequence_length"]
        return {
            "embeds": (tokens, transformer["joint_attention_dim"]),
            "pooled": (transformer["pooled_projection_dim"],),
        }

    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        embeds, _, pooled, _ = pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            do_classifier_free_guidance=False,
            clip_skip=arguments["clip_skip"],
            max_sequence_length=arguments["max_sequence_length"],
        )
        return Conditioning({"embeds": embeds, "pooled": pooled})

    def stock_inputs(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Tensor,
        arguments: CallArguments,
    ) -> dict[str, Any]:
        return {
            "prompt_embeds": cond["embeds"],
            "pooled_prompt_embeds": cond["pooled"],
            "negative_prompt_embeds": None if uncond is None else uncond["embeds"],
            "negative_pooled_prompt_embeds": None if uncond is None else uncond["pooled"],
            "latents": noise,
        }

    def uncond(self, pipeline: Any, arguments: CallArguments) -> Conditioning:
        # The stock pipeline encodes its negative prompt without skipping CLIP's last layers.
        return self.encode(pipeline, [""], {**arguments, "clip_skip": None})
