"""Recipes of embedded teachers: everything that decides one; their hash names its folder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from workbench.errors import RequestError
from workbench.flow import INTERPOLANTS, TARGETS
from workbench.hashing import fingerprint
from workbench.settings import FrozenConfig
from workbench.teachers.principal_components import CHANNELS

NEWER: dict[str, JsonValue] = {"newer": True}
"""Marks a setting that came after teachers were built: at its default it leaves hashes alone."""


class ReconstructionRecipe(FrozenConfig):
    """Training of a small autoencoder by reconstruction from slightly noisy latents."""

    latent_channels: int = Field(4, ge=1)
    steps: int = Field(400, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(4e-3, gt=0, description="peak of a one-cycle schedule")
    latent_noise: float = Field(0.05, ge=0, description="added before decoding: a smooth decoder")
    moment_weight: float = Field(
        0.01, ge=0, description="pull of each channel to mean 0, variance 1"
    )


class AutoencoderDCRecipe(ReconstructionRecipe):
    """A small AutoencoderDC, factor 8: a scale, no shift."""

    channels: tuple[int, int, int, int] = Field((16, 16, 32, 64), description="of each resolution")
    layers: tuple[int, int, int, int] = Field((0, 1, 1, 1), description="residual blocks of each")


class PrincipalComponentsRecipe(FrozenConfig):
    """An AutoencoderDC, factor 8, whose latents are principal components of patches."""

    kind: Literal["principal_components"]
    latent_channels: int = Field(64, ge=1, le=192)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each resolution, as other autoencoders' recipes have them."""
        return CHANNELS


class AutoencoderKLRecipe(ReconstructionRecipe):
    """A small AutoencoderKL, factor 2 for each resolution after the first: scale and shift."""

    channels: tuple[int, ...] = Field(
        (8, 16, 16, 32), min_length=2, description="of each resolution, multiples of 8"
    )
    steps: int = Field(300, ge=1)
    batch_size: int = Field(32, ge=1)


class GemmaRecipe(FrozenConfig):
    """A small frozen Gemma-2 with random weights, and its tokenizer's padded length."""

    width: int = Field(64, ge=16, multiple_of=16)
    layers: int = Field(2, ge=1)
    tokens: int = Field(8, ge=2, description="padded length, beginning-of-sequence token included")
    embedding_std: float = Field(
        0.02,
        gt=0,
        json_schema_extra=NEWER,
        description="of words' embeddings; random layers drown those of Gemma's own size",
    )


class ClipT5Recipe(FrozenConfig):
    """Small frozen CLIP text models and a T5 encoder with random weights.

    One CLIP (FLUX) or two of the same size (SD3); T5 is as wide as all of them together.
    """

    clip_width: int = Field(32, ge=16, multiple_of=16)
    t5_width: int = Field(64, ge=16, multiple_of=16)
    layers: int = Field(2, ge=2)
    clip_tokens: int = Field(10, ge=4, description="padded length, both ends included")
    t5_tokens: int = Field(8, ge=2, description="padded length, end included")


class SanaTransformerRecipe(FrozenConfig):
    """A small SanaTransformer2DModel."""

    heads: int = Field(4, ge=1, description="of 16 channels each")
    layers: int = Field(3, ge=1)
    mlp_ratio: float = Field(2.5, gt=0)


class SD3TransformerRecipe(FrozenConfig):
    """A small SD3Transformer2DModel; patches of 2 x 2 latents."""

    heads: int = Field(4, ge=1, description="of 16 channels each")
    layers: int = Field(3, ge=1)
    qk_norm: bool = Field(False, description="SD3.5 normalizes queries and keys")
    dual_attention_layers: tuple[int, ...] = Field((), description="SD3.5-Medium's first layers")


class FluxTransformerRecipe(FrozenConfig):
    """A small FluxTransformer2DModel with guidance as an input."""

    heads: int = Field(4, ge=1, description="of 16 channels each")
    double_layers: int = Field(2, ge=1)
    single_layers: int = Field(2, ge=1)


class FlowMatchingRecipe(FrozenConfig):
    """Pretraining by flow matching (Lipman et al. 2023; logit-normal t: Esser et al. 2024).

    ``interpolant`` and ``target`` say in whose terms the loss is written: SANA-Sprint's teachers
    learn TrigFlow's velocity (Lu & Song 2024, arXiv 2410.11081) through the rectified-flow
    velocity that their network is.
    """

    interpolant: str = Field("rectified_flow", description="a name of flow.INTERPOLANTS")
    target: str = Field("velocity", description="a name of flow.TARGETS")
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(2e-3, gt=0, description="peak; linear warm-up, then cosine to zero")
    warmup_steps: int = Field(100, ge=0)
    beta2: float = Field(0.99, ge=0, lt=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    prompt_dropout: float = Field(0.1, ge=0, le=1, description="share trained on the empty prompt")
    t_mean: float = Field(0.0, description="of logit t, rectified flow's t")
    t_std: float = Field(1.0, gt=0, description="of logit t")
    guidance_range: tuple[float, float] = Field(
        (1.0, 5.0), description="of the guidance fed to networks that take one"
    )

    @field_validator("interpolant", "target")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        try:
            return (INTERPOLANTS if info.field_name == "interpolant" else TARGETS).check(name)
        except RequestError as error:
            raise ValueError(str(error)) from None


class BuildRecipe(FrozenConfig):
    """What the recipe of everything that is built here has."""

    revision: int = Field(2, description="of the code that carries the recipe out")
    seed: int = Field(0, ge=0)
    pretraining: FlowMatchingRecipe = FlowMatchingRecipe()

    @property
    def hash(self) -> str:
        """Ten hex digits of the content."""
        return fingerprint(_content(self), digits=10)


def _content(recipe: FrozenConfig) -> dict[str, Any]:
    """All settings but those that are :data:`NEWER` and at their default."""
    fields = type(recipe).model_fields.items()
    newer = {name: field.default for name, field in fields if field.json_schema_extra == NEWER}
    content = recipe.model_dump(mode="json")
    for name, value in recipe:
        if name in newer and value == newer[name]:
            del content[name]
        elif isinstance(value, FrozenConfig):
            content[name] = _content(value)
    return content


class _Recipe(BuildRecipe):
    """What every family's recipe has."""

    image_size: int = Field(32, ge=32, multiple_of=32)
    stored: Literal["fp32", "bf16"] = Field(
        "fp32", json_schema_extra=NEWER, description="precision of the saved weights"
    )


class _SanaParts(_Recipe):
    autoencoder: AutoencoderDCRecipe | PrincipalComponentsRecipe = AutoencoderDCRecipe()
    text: GemmaRecipe = GemmaRecipe()
    transformer: SanaTransformerRecipe = SanaTransformerRecipe()


class SanaRecipe(_SanaParts):
    """A small SanaPipeline."""

    pipeline: Literal["SanaPipeline"] = "SanaPipeline"


class SprintRecipe(_SanaParts):
    """A small SanaSprintPipeline: normalized queries and keys, unscaled time, guidance embedded."""

    pipeline: Literal["SanaSprintPipeline"] = "SanaSprintPipeline"


class SD3Recipe(_Recipe):
    """A small StableDiffusion3Pipeline, of SD3's kind or SD3.5's."""

    pipeline: Literal["StableDiffusion3Pipeline"] = "StableDiffusion3Pipeline"
    autoencoder: AutoencoderKLRecipe = AutoencoderKLRecipe()
    text: ClipT5Recipe = ClipT5Recipe()
    transformer: SD3TransformerRecipe = SD3TransformerRecipe()


class FluxRecipe(_Recipe):
    """A small FluxPipeline."""

    pipeline: Literal["FluxPipeline"] = "FluxPipeline"
    autoencoder: AutoencoderKLRecipe = AutoencoderKLRecipe()
    text: ClipT5Recipe = ClipT5Recipe()
    transformer: FluxTransformerRecipe = FluxTransformerRecipe()


TinyRecipe = Annotated[
    SanaRecipe | SprintRecipe | SD3Recipe | FluxRecipe, Field(discriminator="pipeline")
]
"""The recipe of an embedded pipeline, of any family."""
