"""Adversarial SiD against its formulas, on networks small enough to compute beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.helpers import EMPTY, labels
from workbench.flow import WEIGHTINGS, NoiseSource
from workbench.methods import (
    METHODS,
    Batch,
    GeneratorConfig,
    GuidanceConfig,
    Networks,
    Pairs,
    SiD2aConfig,
    make_method,
)
from workbench.methods.adversarial import AdversarialConfig
from workbench.teachers.base import Conditioning, OwnVelocity

COUNT = 6


class Tokens(nn.Module):
    """A velocity on latents of two tokens with three elements, with an output layer of its own."""

    latent_shape = (2, 3)

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inside, self.proj_out = nn.Linear(5, 8), nn.Linear(8, 3)

    def features(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        label = torch.zeros_like(t) if cond is None else cond["label"].to(t)
        more = torch.stack([t, label], dim=1)[:, None].expand(-1, 2, -1)
        return torch.tanh(self.inside(torch.cat([x_t, more], dim=2)))

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        out: Tensor = self.proj_out(self.features(x_t, t, cond))
        return out


class FixedPairs:
    def __init__(self) -> None:
        self.latents = torch.randn(COUNT, 2, 3, generator=torch.Generator().manual_seed(8))

    def take(self, stream: str, start: int, count: int) -> Pairs:
        return Pairs(self.latents[:count], labels(count))


@pytest.fixture
def networks() -> Networks:
    made = [OwnVelocity(Tokens(seed)) for seed in range(3)]
    return Networks(made[0], {"fake_score": made[1], "generator": made[2]}, EMPTY)


@pytest.fixture
def batch() -> Batch:
    cpu = torch.device("cpu")
    return Batch(12, COUNT, labels(COUNT), 2, NoiseSource(4), (2, 3), cpu, FixedPairs())


def method(scale: float = 1.0, **settings: float):
    config = SiD2aConfig(
        guidance=GuidanceConfig(train_fake=scale, eval_fake=scale, eval_teacher=scale),
        adversarial=AdversarialConfig(**settings),
        loss_scale=1.0,
    )
    return make_method(config, GeneratorConfig())


def bce(features: Tensor, label: float) -> Tensor:
    """torch's own, per sample, times the six elements of a latent."""
    logits = features.mean(1)
    target = torch.full_like(logits, label)
    return 6 * binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_fake_score_also_tells_real_from_fake(
    networks: Networks, batch: Batch, scale: float
) -> None:
    ours = method(scale, fake_weight=0.25)
    alone = method(scale, fake_weight=0.0)
    at = ours.generated(networks, batch, "fake_score")
    real = batch.real("fake_score")
    eps = batch.normal("fake_score/real_eps")
    mixed = (1 - at.t.view(-1, 1, 1)) * real.latents + at.t.view(-1, 1, 1) * eps
    tokens = networks.fake_score.module
    expected = 0.25 * (
        bce(tokens.features(mixed, at.t, real.cond), 1.0).mean()
        + bce(tokens.features(at.x_t, at.t, batch.cond), 0.0).mean()
    )
    whole = ours.fake_score_phase(networks, batch).value
    without = alone.fake_score_phase(networks, batch).value
    torch.testing.assert_close(whole - without, expected, rtol=1e-4, atol=1e-4)
    sid = make_method(METHODS["sid"](guidance=ours.config.guidance), GeneratorConfig())
    torch.testing.assert_close(without, sid.fake_score_phase(networks, batch).value)


def test_the_generator_learns_from_both_terms(networks: Networks, batch: Batch) -> None:
    both = method(sid_weight=0.7, generator_weight=0.2).adversarial_phase(networks, batch)
    sid = method(sid_weight=1.0, generator_weight=0.0).adversarial_phase(networks, batch).value
    torch.testing.assert_close(sid, method().generator_phase(networks, batch).value)
    at = method().diffuse(method().rollout(networks, batch), batch, "generator")
    features = networks.fake_score.module.features(at.x_t, at.t, batch.cond)
    weight = WEIGHTINGS["1-t"](at.t, at.x_g, at.x_g)
    deceived = (weight * bce(features, 1.0)).mean()
    torch.testing.assert_close(both.value, 0.7 * sid + 0.2 * deceived)
    both.value.backward()
    assert all(p.grad is not None for p in networks.generator.parameters())


def test_warm_ups(networks: Networks) -> None:
    waits = method(generator_start_kimg=2, adversarial_start_kimg=3)
    names = [[phase.name for phase in waits.phases(nimg)] for nimg in (0, 1999, 2000)]
    assert names == [["fake_score"], ["fake_score"], ["fake_score", "generator"]]
    assert waits.phases(2999)[1].loss == waits.generator_phase
    assert waits.phases(3000)[1].loss == waits.adversarial_phase


def test_one_evaluation_serves_velocity_and_features(networks: Networks, batch: Batch) -> None:
    """Guidance off: the discriminator costs the fake score one more sample an image, and G none."""
    psi = networks.fake_score
    method().fake_score_phase(networks, batch)
    assert psi.evaluations == 2 * COUNT
    psi.evaluations = 0
    method().adversarial_phase(networks, batch).value.backward()
    assert psi.evaluations == psi.backward_evaluations == COUNT


def test_without_pairs_nothing_is_learned(networks: Networks, batch: Batch) -> None:
    with pytest.raises(ValueError, match="no image-text pairs"):
        method().fake_score_phase(networks, replace(batch, pairs=None))


def test_without_prompts_both_kinds_go_without(networks: Networks, batch: Batch) -> None:
    """Zero-CFG: else the discriminator would learn who was given a prompt."""
    ours = method(0.0, fake_weight=0.25)
    alone = method(0.0, fake_weight=0.0)
    at = ours.generated(networks, batch, "fake_score")
    real, eps = batch.real("fake_score"), batch.normal("fake_score/real_eps")
    mixed = (1 - at.t.view(-1, 1, 1)) * real.latents + at.t.view(-1, 1, 1) * eps
    tokens, empty = networks.fake_score.module, EMPTY.expand(COUNT)
    expected = 0.25 * (
        bce(tokens.features(mixed, at.t, empty), 1.0).mean()
        + bce(tokens.features(at.x_t, at.t, empty), 0.0).mean()
    )
    whole = ours.fake_score_phase(networks, batch).value
    without = alone.fake_score_phase(networks, batch).value
    torch.testing.assert_close(whole - without, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sid2a", "dmd2", "f_distill"])
def test_a_discriminator_sees_what_it_learnt_on(name: str) -> None:
    half = GuidanceConfig(train_fake=0.0, eval_fake=1.0)
    with pytest.raises(ValueError, match="both be 0 or neither"):
        make_method(METHODS[name](guidance=half), GeneratorConfig())
