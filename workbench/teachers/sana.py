"""SANA (arXiv 2410.10629) and SANA-Sprint (arXiv 2503.09641): linear-attention transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.family import CallArguments, Family, longer_than

_STOCK_MULTIPLE = 32  # the stock pipelines refuse image sizes that are no multiple of it
_STEPS = 1000.0  # a SanaPipeline's time runs from 0 to 1000, a SanaSprintPipeline's from 0 to 1


class SanaVelocity(VelocityNetwork):
    """SanaTransformer2DModel, called exactly as its pipeline calls it.

    Sprint's TrigFlow is outside the network: inside it is a rectified-flow velocity at
    t = sin s / (sin s + cos s), which is the map of ``flow.TrigFlow`` to rectified flow.

    Args:
        time_scale: the network's time at t = 1.
        distilled_guidance: the scale that is fed to a network with an embedded guidance.
    """

    def __init__(
        self, module: nn.Module, time_scale: float, distilled_guidance: float | None = None
    ) -> None:
        super().__init__(module, distilled_guidance)
        self.time_scale = time_scale

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        if cond is None:
            raise ValueError("A SANA network needs a conditioning; use uncond() for no prompt.")
        config: Any = self.module.config
        weights = self.weights_dtype
        guidance = self.guidance_input(t)
        velocity: Tensor = self.module(
            x_t.to(weights),
            encoder_hidden_states=cond["embeds"].to(weights),
            encoder_attention_mask=cond["mask"],
            timestep=self.time_scale * t,
            guidance=None if guidance is None else guidance * config.guidance_embeds_scale,
            return_dict=False,
        )[0]
        # Some checkpoints also predict a variance, in a second half that samplers drop.
        return velocity[:, : x_t.shape[1]]


class SanaFamily(Family):
    """Teachers saved as a SanaPipeline."""

    pipeline_class = "SanaPipeline"
    components = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
    text_components = ("tokenizer", "text_encoder")
    encoding_arguments = ("clean_caption", "max_sequence_length", "complex_human_instruction")
    token_mask = "mask"
    student_class = "SanaPipeline"
    gives_generator = True

    def network(self, pipeline: Any, arguments: CallArguments) -> VelocityNetwork:
        transformer = pipeline.transformer
        return SanaVelocity(transformer, _STEPS * transformer.config.timestep_scale)

    def size_multiple(self, pipeline: Any) -> int:
        return math.lcm(_STOCK_MULTIPLE, self.pixels_per_patch(pipeline))

    def call_arguments(self, pipeline: Any, stored: CallArguments) -> CallArguments:
        arguments = super().call_arguments(pipeline, stored)
        if arguments["height"] == self.native_resolution(pipeline):
            return arguments
        # Binning would draw the nearest size that the pipeline has a list for.
        return {**arguments, "use_resolution_binning": False}

    def encoding_shapes(
        self, folder: Path, transformer: Mapping[str, Any], arguments: CallArguments
    ) -> Mapping[str, tuple[int, ...]]:
        tokens = arguments["max_sequence_length"]
        return {"embeds": (tokens, transformer["caption_channels"]), "mask": (tokens,)}

    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        embeds, mask, _, _ = pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, **self._encoding(arguments)
        )
        return Conditioning({"embeds": embeds, "mask": mask})

    def truncated_prompts(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> list[int]:
        instruction = "\n".join(arguments["complex_human_instruction"] or ())
        limit = arguments["max_sequence_length"]
        if instruction:
            limit += len(pipeline.tokenizer.encode(instruction)) - 2
        texts = pipeline._text_preprocessing(list(prompts), arguments["clean_caption"])
        return longer_than(limit, pipeline.tokenizer, [instruction + text for text in texts])

    def _encoding(self, arguments: CallArguments) -> dict[str, Any]:
        return {name: arguments[name] for name in self.encoding_arguments}

    def stock_inputs(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Tensor,
        arguments: CallArguments,
    ) -> dict[str, Any]:
        given = {
            "prompt_embeds": cond["embeds"],
            "prompt_attention_mask": cond["mask"],
            "latents": noise,
        }
        if uncond is None:
            return given
        return {
            **given,
            "negative_prompt": None,  # by default "", which excludes an encoding
            "negative_prompt_embeds": uncond["embeds"],
            "negative_prompt_attention_mask": uncond["mask"],
        }

    def uncond(self, pipeline: Any, arguments: CallArguments) -> Conditioning:
        # The stock pipeline encodes its negative prompt without the instruction.
        return self.encode(pipeline, [""], {**arguments, "complex_human_instruction": None})


class SprintFamily(SanaFamily):
    """Teachers saved as a SanaSprintPipeline: unscaled time, guidance as an input."""

    pipeline_class = "SanaSprintPipeline"
    cfg_argument = None

    def network(self, pipeline: Any, arguments: CallArguments) -> VelocityNetwork:
        return SanaVelocity(pipeline.transformer, 1.0, arguments["guidance_scale"])

    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        embeds, mask = pipeline.encode_prompt(list(prompts), **self._encoding(arguments))
        return Conditioning({"embeds": embeds, "mask": mask})

    def stock_inputs(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Tensor,
        arguments: CallArguments,
    ) -> dict[str, Any]:
        given = super().stock_inputs(cond, uncond, noise, arguments)
        if arguments["num_inference_steps"] != 2:
            given["intermediate_timesteps"] = None  # the call refuses its own default then
        return given

    def student_transformer(self, network: VelocityNetwork) -> Any:
        """Without the guidance embedding, whose constant moves into the time embedding's bias.

        Both are added before anything else sees them, so that nothing is approximated. Time stays
        unscaled: a SanaPipeline multiplies its times of 0 to 1000 by ``timestep_scale``.
        """
        guided: Any = network.module
        config = {**guided.config, "guidance_embeds": False, "timestep_scale": 1 / _STEPS}
        with torch.device(guided.device):
            plain: Any = type(guided).from_config(config).to(guided.dtype)
        state = guided.state_dict()
        state[_TIME_BIAS] = state[_TIME_BIAS] + guidance_embedding(network)
        plain.load_state_dict(
            {
                name.replace(_EMBEDDER, _PLAIN_EMBEDDER): value
                for name, value in state.items()
                if not name.startswith(_GUIDANCE)
            }
        )
        return plain.eval().requires_grad_(False)

    def student_state(
        self, state: Mapping[str, Tensor], network: VelocityNetwork
    ) -> Mapping[str, Tensor]:
        own = network.module.state_dict().items()
        embedder = {name: value for name, value in own if name.startswith(_GUIDANCE)}
        guided = {name.replace(_PLAIN_EMBEDDER, _EMBEDDER): v for name, v in state.items()}
        if _TIME_BIAS in guided:
            added = guidance_embedding(network)
            guided[_TIME_BIAS] = guided[_TIME_BIAS].to(added) - added
        return {**guided, **embedder}


_GUIDANCE = "time_embed.guidance_embedder."
_EMBEDDER = "time_embed.timestep_embedder."
_PLAIN_EMBEDDER = "time_embed.emb.timestep_embedder."
_TIME_BIAS = _EMBEDDER + "linear_2.bias"


@torch.no_grad()
def guidance_embedding(network: VelocityNetwork) -> Tensor:
    """What the network's constant guidance adds to its time embedding (width,)."""
    module: Any = network.module
    fed = network.guidance_input(torch.zeros(1, device=module.device))
    if fed is None:
        raise ValueError("This network takes no guidance.")
    embed = module.time_embed
    projected = embed.guidance_condition_proj(fed * module.config.guidance_embeds_scale)
    added: Tensor = embed.guidance_embedder(projected.to(module.dtype))[0]
    return added
