"""Pretraining learns what flow matching says it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workbench.teachers import Conditioning, VelocityNetwork
from workbench.teachers.pretrain import PromptedLatents, pretrain, silent, velocity_weight
from workbench.teachers.recipe import FlowMatchingRecipe


class PointwiseVelocity(VelocityNetwork):
    """A small network on 2-d latents with a label, enough for Gaussian data."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 2)))

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        assert cond is not None
        side = nn.functional.one_hot(cond["label"], 3)[:, :2]
        velocity: Tensor = self.module(torch.cat([x_t, t[:, None], side], dim=1))
        return velocity


def test_the_weight_makes_it_the_loss_of_trigflow() -> None:
    """SANA-Sprint's: || F - (cos(s) eps - sin(s) x_0) ||^2, F as the stock pipeline computes it."""
    generator = torch.Generator().manual_seed(0)
    x0, eps, velocity = (torch.randn(64, 5, generator=generator).double() for _ in range(3))
    t = torch.rand(64, generator=generator).double()
    at, angle = t[:, None], torch.atan2(t, 1 - t)[:, None]
    x_t = (1 - at) * x0 + at * eps
    scale = torch.sqrt(at**2 + (1 - at) ** 2)
    # pipeline_sana_sprint.py's conversion of the network's output.
    stock = ((1 - 2 * at) * x_t + (1 - 2 * at + 2 * at**2) * velocity) / scale
    direct = (stock - (angle.cos() * eps - angle.sin() * x0)).square().sum(1)
    recipe = FlowMatchingRecipe(interpolant="trigflow", target="trigflow")
    ours = velocity_weight(t, recipe) * (velocity - (eps - x0)).square().sum(1)
    torch.testing.assert_close(ours, direct)
    assert torch.equal(velocity_weight(t, FlowMatchingRecipe()), torch.ones_like(t))


@pytest.mark.parametrize("target", ["velocity", "trigflow"])
def test_two_gaussian_classes_are_learnt(target: str) -> None:
    """Data N(+-2, 0.1^2) by label: the exact velocity is known in closed form."""
    path = {"velocity": "rectified_flow", "trigflow": "trigflow"}[target]
    recipe = FlowMatchingRecipe(interpolant=path, target=target, steps=800, lr=1e-2, batch_size=256)
    torch.manual_seed(0)
    labels = torch.arange(4000) % 2
    means = 4.0 * labels[:, None] - 2
    data = PromptedLatents(
        means + 0.1 * torch.randn(4000, 2), labels, Conditioning({"label": torch.arange(3)}), 1
    )
    network = PointwiseVelocity()
    pretrain(network, data, recipe, silent)
    assert not any(p.requires_grad for p in network.parameters())
    assert network.evaluations == 0

    for label, mean in ((0, -2.0), (1, 2.0)):
        t = torch.full((500,), 0.6)
        x0, eps = mean + 0.1 * torch.randn(500, 2), torch.randn(500, 2)
        x_t = 0.4 * x0 + 0.6 * eps
        # E[eps - x0 | x_t] for Gaussian x0, method.md's rectified flow.
        gain = (0.6 - 0.4 * 0.01) / (0.16 * 0.01 + 0.36)
        exact = gain * (x_t - 0.4 * mean) - mean
        learnt = network(x_t, t, Conditioning({"label": torch.full((500,), label)}))
        assert (learnt - exact).square().mean() < 0.05 < exact.var()
    # The dropped prompt stands for both classes: no side is preferred at pure noise.
    empty = Conditioning({"label": torch.full((500,), 2)})
    drift = network(torch.zeros(500, 2), torch.ones(500), empty).mean()
    assert abs(drift) < 0.7


def test_batches_pair_latents_with_fitting_prompts() -> None:
    torch.manual_seed(0)
    labels = torch.arange(30) % 3
    cond = Conditioning({"row": torch.arange(3 * 4 + 1)})
    data = PromptedLatents(labels.float()[:, None], labels, cond, wordings=4)
    latents, chosen = data.batch(4000, prompt_dropout=0.25)
    empty = chosen["row"] == 12
    assert empty.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(chosen["row"][~empty] // 4, latents[~empty, 0].long())
    assert set(chosen["row"].tolist()) == set(range(13))
