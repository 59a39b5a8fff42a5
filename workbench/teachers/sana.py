"""SANA (Xie et al. 2024, arXiv 2410.10629): a linear-attention transformer, predicts velocity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.family import CallArguments, Family

_STEPS = 1000.0  # the network's time runs from 0 to 1000


class SanaVelocity(VelocityNetwork):
    """SanaTransformer2DModel, called exactly as SanaPipeline calls it."""

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        if cond is None:
            raise ValueError("A SANA network needs a conditioning; use uncond() for no prompt.")
        config: Any = self.module.config
        weights: Any = self.module.dtype
        velocity: Tensor = self.module(
            x_t.to(weights),
            encoder_hidden_states=cond["embeds"].to(weights),
            encoder_attention_mask=cond["mask"],
            timestep=_STEPS * t * config.timestep_scale,
            return_dict=False,
        )[0]
        # Some checkpoints also predict a variance, in a second half that samplers drop.
        return velocity[:, : x_t.shape[1]]


class SanaFamily(Family):
    """Teachers saved as a SanaPipeline."""

    pipeline_class = "SanaPipeline"
    components = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")

    def network(self, pipeline: Any) -> VelocityNetwork:
        return SanaVelocity(pipeline.transformer)

    def latent_shape(self, pipeline: Any) -> tuple[int, ...]:
        config = pipeline.transformer.config
        return (config.in_channels, config.sample_size, config.sample_size)

    def resolution(self, pipeline: Any) -> int:
        size: int = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
        return size

    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        embeds, mask, _, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, **_encoding(arguments)
        )
        return Conditioning({"embeds": embeds, "mask": mask})

    def uncond(self, pipeline: Any, arguments: CallArguments) -> Conditioning:
        # As the negative prompt, because the pipeline encodes that one without the instruction.
        _, _, embeds, mask = pipeline.encode_prompt(
            "", do_classifier_free_guidance=True, negative_prompt="", **_encoding(arguments)
        )
        return Conditioning({"embeds": embeds, "mask": mask})

    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        vae = pipeline.vae
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor
        decoded = vae.decode(scaled, return_dict=False)[0]
        images: Tensor = pipeline.image_processor.postprocess(decoded, output_type="pt")
        return images.float()

    def encode_images(self, pipeline: Any, images: Tensor) -> Tensor:
        vae = pipeline.vae
        encoded: Tensor = vae.encode((2 * images - 1).to(vae.dtype)).latent
        scaled: Tensor = encoded * vae.config.scaling_factor
        return scaled.float()


def _encoding(arguments: CallArguments) -> dict[str, Any]:
    names = ("clean_caption", "max_sequence_length", "complex_human_instruction")
    return {name: arguments[name] for name in names}
