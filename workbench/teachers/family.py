"""The adapter of a family of diffusers pipelines, which makes its pipelines teachers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.teachers.base import Conditioning, VelocityNetwork

CallArguments = Mapping[str, Any]
"""Arguments of the stock pipeline's call with which it behaves as the teacher does."""


class Family(ABC):
    """Adapts one pipeline class. One instance serves all its pipelines and holds no state.

    ``pipeline`` is a loaded diffusers pipeline of the class :attr:`pipeline_class`, untyped
    because diffusers is not imported here. ``arguments`` are its call's defaults, overridden by
    those stored with the teacher; ``height`` and ``width`` are always set in them.

    Attributes:
        pipeline_class: the diffusers class.
        components: what a folder must hold.
        text_components: those of them that only encode prompts, free to go once that is done.
        encoding_arguments: those of the call's arguments that decide an encoding.
        token_mask: the name of the encoding's mask (B, tokens) of the tokens that the network
            attends to; what else has a row a token is never seen beyond them. None: all are seen.
        student_class: the diffusers class that a few-step student is exported as.
        gives_sigmas: whether that class's call gives the scheduler 1, 1 - 1/N, ..., 1/N itself.
        gives_generator: whether that class's call gives the scheduler its ``generator``.
        cfg_argument: the argument of the pipeline's call that is the scale of classifier-free
            guidance, on above 1; None where it has none.
    """

    pipeline_class: str
    components: tuple[str, ...]
    text_components: tuple[str, ...]
    encoding_arguments: tuple[str, ...]
    token_mask: str | None = None
    student_class: str
    gives_sigmas: bool = False
    gives_generator: bool = False
    cfg_argument: str | None = "guidance_scale"

    def pipeline_type(self) -> Any:
        """The diffusers class."""
        return _diffusers_class(self.pipeline_class)

    def student_type(self) -> Any:
        """The diffusers class of its few-step students."""
        return _diffusers_class(self.student_class)

    def stock_arguments(self) -> dict[str, Any]:
        """The defaults of the stock pipeline's call."""
        return call_defaults(self.pipeline_type())

    def call_arguments(self, pipeline: Any, stored: CallArguments) -> CallArguments:
        """The stock call's own defaults, overridden by what is stored with a teacher.

        Raises:
            RequestError: the stored image is not square, or of a size the latents cannot have.
        """
        defaults = self.stock_arguments()
        size = self.native_resolution(pipeline)
        arguments = {**defaults, "height": size, "width": size, **stored}
        if arguments["height"] != arguments["width"]:
            raise RequestError(
                f"Images of {arguments['height']} x {arguments['width']} pixels are asked for; "
                "only square ones are distilled."
            )
        multiple = self.size_multiple(pipeline)
        if arguments["height"] % multiple:
            nearest = max(1, round(arguments["height"] / multiple)) * multiple
            raise RequestError(
                f"This teacher cannot make images of {arguments['height']} pixels: its "
                f"autoencoder and patches need a multiple of {multiple}. Nearest: {nearest}."
            )
        largest = self.largest_resolution(pipeline)
        if largest is not None and arguments["height"] > largest:
            raise RequestError(
                f"This teacher cannot make images of {arguments['height']} pixels: it knows "
                f"positions up to {largest}. Nearest: {largest}."
            )
        return arguments

    def largest_resolution(self, pipeline: Any) -> int | None:
        """The largest image size whose positions the transformer knows; None if unlimited."""
        return None

    def native_resolution(self, pipeline: Any) -> int:
        """Height and width in pixels of the images that the transformer was made for."""
        size: int = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
        return size

    def pixels_per_patch(self, pipeline: Any) -> int:
        """Along a side of one of the transformer's patches: the VAE's factor times their size."""
        pixels: int = pipeline.vae_scale_factor * pipeline.transformer.config.patch_size
        return pixels

    def size_multiple(self, pipeline: Any) -> int:
        """Pixels that height and width must be a multiple of."""
        return self.pixels_per_patch(pipeline)

    @abstractmethod
    def network(self, pipeline: Any, arguments: CallArguments) -> VelocityNetwork:
        """The pipeline's transformer as a rectified-flow velocity."""

    def latent_shape(self, pipeline: Any, arguments: CallArguments) -> tuple[int, int, int]:
        """Shape (C, H, W) of one sample's latents at the arguments' resolution."""
        side = arguments["height"] // pipeline.vae_scale_factor
        return (pipeline.transformer.config.in_channels, side, side)

    @abstractmethod
    def encoding_shapes(
        self, folder: Path, transformer: Mapping[str, Any], arguments: CallArguments
    ) -> Mapping[str, tuple[int, ...]]:
        """Shapes of one prompt's encoding by name, from a saved pipeline's configuration files.

        Args:
            transformer: the content of its transformer's config.json.
        """

    @abstractmethod
    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        """Prompts as the stock pipeline encodes them."""

    @abstractmethod
    def uncond(self, pipeline: Any, arguments: CallArguments) -> Conditioning:
        """One row: the empty prompt, as the stock pipeline encodes its negative prompt."""

    def truncated_prompts(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> list[int]:
        """Which prompts are so long that no text encoder sees their ends."""
        tokenizers = [getattr(pipeline, name) for name in self.text_components]
        cut = set(range(len(prompts)))
        for tokenizer in tokenizers:
            if hasattr(tokenizer, "model_max_length"):
                limit = min(tokenizer.model_max_length, arguments["max_sequence_length"])
                cut &= set(longer_than(limit, tokenizer, prompts))
        return sorted(cut)

    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to float32 images (B, 3, H, W) in [0, 1]."""
        vae = pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        unscaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift
        decoded = vae.decode(unscaled, return_dict=False)[0]
        images: Tensor = pipeline.image_processor.postprocess(decoded, output_type="pt")
        return images.float()

    def encode_images(self, pipeline: Any, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to float32 latents (B, *latent_shape); no sampling."""
        vae = pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        latents = raw_latents(vae, (2 * images - 1).to(vae.dtype))
        scaled: Tensor = (latents - shift) * vae.config.scaling_factor
        return scaled.float()

    def student_transformer(self, network: VelocityNetwork) -> Any:
        """A student's network as the transformer of a ``student_class``, in its own memory or not.

        ``network.distilled_guidance`` is the guidance that the student is used with.
        """
        return network.module

    def student_state(
        self, state: Mapping[str, Tensor], network: VelocityNetwork
    ) -> Mapping[str, Tensor]:
        """The inverse: an exported transformer's state as one for ``network``'s module.

        ``network`` is the teacher's, fed with the student's ``distilled_guidance``.
        """
        return state

    @abstractmethod
    def stock_inputs(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Tensor,
        arguments: CallArguments,
    ) -> dict[str, Any]:
        """Arguments that give the stock call encodings and noise instead of prompts.

        Args:
            cond: B rows.
            uncond: B rows of the empty prompt; None where the call does not evaluate it.
            noise: standard normal (B, *latent_shape).
            arguments: of the call, the number of steps among them.

        Raises:
            RequestError: arguments that contradict each other.
        """

    def from_stock(self, latents: Tensor, latent_shape: tuple[int, ...]) -> Tensor:
        """Latents (B, *latent_shape) from those that the stock call returns."""
        return latents

    def scheduler_noise(self, latent_shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise of one sample (1, C, H, W) in the order in which a scheduler draws it."""
        return torch.randn(1, *latent_shape, generator=generator, device=generator.device)


def _diffusers_class(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name)


def call_defaults(pipeline_type: Any) -> dict[str, Any]:
    """Name -> default of the arguments that a pipeline's call has a default for."""
    signature = inspect.signature(pipeline_type.__call__).parameters.values()
    return {p.name: p.default for p in signature if p.default is not p.empty}


def longer_than(limit: int, tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Which texts have more tokens than the limit, special ones counted."""
    tokens = tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    return [place for place, row in enumerate(tokens) if len(row) > limit]


def raw_latents(vae: Any, signals: Tensor) -> Tensor:
    """Images in [-1, 1] to the autoencoder's own, unscaled latents: the mode where it has one."""
    encoded = vae.encode(signals)
    latents: Tensor = (
        encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    )
    return latents
