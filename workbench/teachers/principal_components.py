"""An AutoencoderDC that is a principal component analysis of 8 x 8 patches, in closed form.

A small autoencoder takes longer to train than a small teacher does and blurs what it learnt badly.
Principal components need one pass over the images, and keep the order from coarse to fine that
large autoencoders' latents have too: details have little variance, so noise hides them first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = (16, 16, 64, 256)
"""Of each resolution: room for a patch's pixels, which moving them aside keeps as they are."""

_LARGE = 40.0
"""What channels without pixels hold, so that the norm before the last layer divides by a constant
but for 0.1 %."""

_ABOVE_ZERO = 2.0
"""Added to signals of [-1, 1] so that they pass the ReLU before the last layer."""


def patch_autoencoder(components: int) -> Any:
    """An AutoencoderDC of factor 8 and so many latent channels; all weights are 0."""
    from diffusers import AutoencoderDC

    no_scales: tuple[tuple[int, ...], ...] = ((), (), (), ())
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=components,
        encoder_block_out_channels=CHANNELS,
        decoder_block_out_channels=CHANNELS,
        encoder_layers_per_block=(0, 1, 1, 0),
        decoder_layers_per_block=(0, 1, 1, 0),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=no_scales,
        decoder_qkv_multiscales=no_scales,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        scaling_factor=1.0,
    )
    for parameter in vae.parameters():
        nn.init.zeros_(parameter)
    return vae


@torch.no_grad()
def fit_principal_components(vae: Any, images: Tensor) -> None:
    """Give the autoencoder of :func:`patch_autoencoder` its weights; leaves it frozen.

    Its blocks' shortcuts move each patch's pixels into channels and back; their convolutions stay
    0. The last layer of the encoder and the first of the decoder are the components, of which the
    scale of all together is written to the configuration as ``scaling_factor``.

    Args:
        images: (N, 3, H, W) in [0, 1].
    """
    encoder, decoder = vae.encoder, vae.decoder
    components = encoder.conv_out.out_channels
    for channel in range(3):
        encoder.conv_in.conv.weight[channel, channel, 1, 1] = 1.0
    mean, covariance, used = _moments(encoder, images)
    directions = torch.linalg.eigh(covariance)[1].flip(1)[:, :components].float()
    encoder.conv_out.weight[:, :, 1, 1] = directions.T
    encoder.conv_out.bias.copy_(-directions.T @ mean)
    decoder.conv_in.weight[:, :, 1, 1] = directions
    decoder.conv_in.bias.copy_(torch.where(used, mean, torch.tensor(_LARGE)))
    _pass_through(decoder)
    vae.eval().requires_grad_(False)
    variance = torch.diagonal(directions.T.double() @ covariance @ directions.double()).mean()
    vae.register_to_config(scaling_factor=1 / variance.sqrt().item())


def _moments(encoder: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (256,) and covariance (256, 256) in float64 of patches, and which channels hold any."""
    total, squares, count = 0.0, 0.0, 0
    for part in torch.split(images, 500):
        hidden = encoder.conv_in(2 * part - 1)
        for block in encoder.down_blocks:
            hidden = block(hidden)
        patches = hidden.movedim(1, -1).reshape(-1, hidden.shape[1]).double()
        total, squares = total + patches.sum(0), squares + patches.T @ patches
        count += len(patches)
    mean = torch.as_tensor(total) / count
    covariance = torch.as_tensor(squares) / count - torch.outer(mean, mean)
    return mean.float(), covariance, torch.diagonal(torch.as_tensor(squares)) > 0


def _pass_through(decoder: Any) -> None:
    """Make norm, ReLU and last layer the identity on pixels."""
    channels = decoder.norm_out.weight.numel()
    pixels = decoder.conv_out.conv.out_channels
    root_mean_square = _LARGE * ((channels - pixels) / channels) ** 0.5
    decoder.norm_out.weight.fill_(root_mean_square)
    decoder.norm_out.bias.fill_(_ABOVE_ZERO)
    for channel in range(pixels):
        decoder.conv_out.conv.weight[channel, channel, 1, 1] = 1.0
        decoder.conv_out.conv.bias[channel] = -_ABOVE_ZERO
