"""Small networks for tests: real modules, small enough for finite differences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.teachers.base import Conditioning, OwnVelocity


class SmallVelocity(nn.Module):
    """A smooth prompted velocity on 3-d latents, in any float dtype."""

    latent_shape = (3,)

    def __init__(self, seed: int, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / shape[0] ** 0.5)

        self.first, self.bias, self.second = weights(5, width), weights(width), weights(width, 3)
        self.evaluated: list[int] = []

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        self.evaluated.append(len(x_t))
        label = torch.zeros_like(t) if cond is None else cond["label"].to(t)
        inputs = torch.cat([x_t, t[:, None], label[:, None]], dim=1)
        return torch.tanh(inputs @ self.first + self.bias) @ self.second


class ExactOwnVelocity(OwnVelocity):
    """Keeps float64, for finite differences; the engine's networks answer in float32."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        self.evaluations += len(x_t)
        return self.predict(x_t, t, cond)


def labels(count: int) -> Conditioning:
    return Conditioning({"label": torch.arange(count) % 2 + 1})


EMPTY = Conditioning({"label": torch.zeros(1, dtype=torch.int64)})
