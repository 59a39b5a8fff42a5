"""Everything that decides an embedded teacher, as data: its hash names the folder it is kept in."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field

from workbench.settings import FrozenConfig


class AutoencoderRecipe(FrozenConfig):
    """A small AutoencoderDC: factor 8, trained by reconstruction from slightly noisy latents."""

    latent_channels: int = Field(4, ge=1)
    channels: tuple[int, int, int, int] = Field((16, 16, 32, 64), description="of each resolution")
    layers: tuple[int, int, int, int] = Field((0, 1, 1, 1), description="residual blocks of each")
    steps: int = Field(400, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(4e-3, gt=0, description="peak of a one-cycle schedule")
    latent_noise: float = Field(0.05, ge=0, description="added before decoding: a smooth decoder")
    moment_weight: float = Field(
        0.01, ge=0, description="pull of each channel to mean 0, variance 1"
    )


class TextRecipe(FrozenConfig):
    """A small frozen Gemma-2 with random weights, and its tokenizer's padded length."""

    width: int = Field(64, ge=16, multiple_of=16)
    layers: int = Field(2, ge=1)
    tokens: int = Field(8, ge=2, description="padded length, beginning-of-sequence token included")


class TransformerRecipe(FrozenConfig):
    """A small SanaTransformer2DModel."""

    heads: int = Field(4, ge=1, description="of 16 channels each")
    layers: int = Field(3, ge=1)
    mlp_ratio: float = Field(2.5, gt=0)


class FlowMatchingRecipe(FrozenConfig):
    """Pretraining by flow matching (Lipman et al. 2023; logit-normal t: Esser et al. 2024)."""

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(2e-3, gt=0, description="peak; linear warm-up, then cosine to zero")
    warmup_steps: int = Field(100, ge=0)
    beta2: float = Field(0.99, ge=0, lt=1)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    prompt_dropout: float = Field(0.1, ge=0, le=1, description="share trained on the empty prompt")
    t_mean: float = Field(0.0, description="of logit t")
    t_std: float = Field(1.0, gt=0, description="of logit t")


class TinyRecipe(FrozenConfig):
    """The recipe of an embedded SANA teacher on scikit-learn's digits."""

    revision: int = Field(1, description="of the code that carries the recipe out")
    seed: int = Field(0, ge=0)
    image_size: int = Field(32, ge=32, multiple_of=32)
    autoencoder: AutoencoderRecipe = AutoencoderRecipe()
    text: TextRecipe = TextRecipe()
    transformer: TransformerRecipe = TransformerRecipe()
    pretraining: FlowMatchingRecipe = FlowMatchingRecipe()

    @property
    def hash(self) -> str:
        """Ten hex digits of the content."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]
