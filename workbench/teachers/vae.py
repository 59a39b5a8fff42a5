"""The two kinds of autoencoders that teachers use, as latents to images and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def decode(vae: Any, processor: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, H, W) to float32 images (B, 3, H', W') in [0, 1], as stock pipelines do."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    unscaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift
    decoded = vae.decode(unscaled, return_dict=False)[0]
    images: Tensor = processor.postprocess(decoded, output_type="pt")
    return images.float()


def encode(vae: Any, images: Tensor) -> Tensor:
    """Images (B, 3, H', W') in [0, 1] to scaled latents (B, C, H, W), float32; no sampling."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = raw_latents(vae, (2 * images - 1).to(vae.dtype))
    scaled: Tensor = (latents - shift) * vae.config.scaling_factor
    return scaled.float()


def raw_latents(vae: Any, signals: Tensor) -> Tensor:
    """Images in [-1, 1] to the autoencoder's own, unscaled latents: the mode where it has one."""
    encoded = vae.encode(signals)
    latents: Tensor = (
        encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    )
    return latents
