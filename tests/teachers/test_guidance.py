"""Classifier-free guidance: identities, and what an evaluation costs."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import EMPTY, ExactOwnVelocity, SmallVelocity, labels
from workbench.errors import RequestError
from workbench.teachers import denoise, sample_teacher

B = 5
X, T = torch.randn(B, 3, dtype=torch.float64), torch.rand(B, dtype=torch.float64)


@pytest.fixture
def own() -> SmallVelocity:
    return SmallVelocity(seed=1).double()


@pytest.fixture
def network(own: SmallVelocity) -> ExactOwnVelocity:
    return ExactOwnVelocity(own)


def test_scale_one_is_the_conditional_velocity(network: ExactOwnVelocity) -> None:
    assert torch.equal(
        denoise(network, X, T, labels(B), EMPTY, 1.0).velocity, network(X, T, labels(B))
    )


def test_scale_zero_is_the_unconditional_velocity(network: ExactOwnVelocity) -> None:
    assert torch.equal(
        denoise(network, X, T, labels(B), EMPTY, 0.0).velocity, network(X, T, EMPTY.expand(B))
    )


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.5, 4.5])
def test_velocity_is_linear_in_the_scale(network: ExactOwnVelocity, scale: float) -> None:
    v_cond, v_uncond = network(X, T, labels(B)), network(X, T, EMPTY.expand(B))
    assert (v_cond - v_uncond).abs().min() > 0
    torch.testing.assert_close(
        denoise(network, X, T, labels(B), EMPTY, scale).velocity,
        (1 - scale) * v_uncond + scale * v_cond,
    )


@pytest.mark.parametrize(("scale", "batches"), [(0.0, [B]), (1.0, [B]), (1.5, [2 * B])])
def test_guidance_is_one_call_and_costs_nothing_when_off(
    network: ExactOwnVelocity, own: SmallVelocity, scale: float, batches: list[int]
) -> None:
    denoise(network, X, T, labels(B), EMPTY, scale)
    assert own.evaluated == batches
    assert network.evaluations == sum(batches)


@pytest.mark.parametrize(("scale", "per_step"), [(1.0, 1), (3.0, 2)])
def test_sampling_costs_one_evaluation_a_step_and_two_when_guided(
    network: ExactOwnVelocity, scale: float, per_step: int
) -> None:
    sample_teacher(network, labels(B), EMPTY, X, steps=7, cfg_scale=scale)
    assert network.evaluations == 7 * per_step * B


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_guidance_needs_an_unconditional_encoding(network: ExactOwnVelocity, scale: float) -> None:
    with pytest.raises(RequestError, match="unconditional"):
        denoise(network, X, T, labels(B), None, scale)
    denoise(network, X, T, labels(B), None, 1.0)


def test_the_flow_shift_moves_the_times_that_are_visited() -> None:
    class Visited(SmallVelocity):
        times: list[float] = []  # noqa: RUF012

        def velocity(self, x_t, t, cond):
            self.times.append(t[0].item())
            return super().velocity(x_t, t, cond)

    own = Visited(seed=1)
    sample_teacher(ExactOwnVelocity(own), labels(B), None, X.float(), steps=4, flow_shift=3.0)
    assert own.times == pytest.approx([1.0, 0.9, 0.75, 0.5])
