"""A small network with the shape of the torchscript that clean-fid uses."""

from __future__ import annotations

from torch import Tensor, nn


class SmallInception(nn.Module):
    """2048 features of 299 x 299 images, called and taken apart as StyleGAN2's torchscript."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 11, stride=8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(8),
            nn.Conv2d(32, 32, 1),
        )

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return self.layers((x - 128) / 128)
