"""What cannot be a teacher, said before time is spent on it: each check names what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import x0_from_velocity
from workbench.teachers.base import Conditioning, PromptedTeacher, VelocityNetwork
from workbench.teachers.families import FAMILIES

STUDENT_RATIO = 0.5
"""Above it a network is taken for a few-step student; see :func:`noise_dependence`."""

_FLOW_PREDICTIONS = ("flow_prediction", "trigflow")
_FLOW_SCHEDULERS = ("FlowMatch", "FlowMap")
_NOISES = 8
_PROMPTS = 4


def check_prediction(scheduler_config: Mapping[str, Any], pipeline_class: str) -> None:
    """Refuse a pipeline whose network predicts something else than a flow's velocity.

    Args:
        scheduler_config: the content of its scheduler_config.json.
        pipeline_class: ``_class_name`` of its model_index.json.

    Raises:
        RequestError: says what the network predicts, or that the class is not supported.
    """
    prediction = prediction_type(scheduler_config)
    expected = f"expected a flow-matching pipeline: {', '.join(sorted(FAMILIES))}"
    if prediction is None:
        raise RequestError(
            f"What {pipeline_class} predicts is not known (its scheduler is "
            f"{scheduler_config.get('_class_name')}); {expected}."
        )
    if prediction not in _FLOW_PREDICTIONS:
        raise RequestError(
            f"{pipeline_class} predicts {prediction} (its scheduler says so); {expected}."
        )
    if pipeline_class not in FAMILIES:
        raise RequestError(
            f"{pipeline_class} predicts a flow's velocity, but this class is not supported; "
            f"{expected}."
        )


def prediction_type(scheduler_config: Mapping[str, Any]) -> str | None:
    """What a diffusers scheduler expects of its network; None if that cannot be told.

    It is the configured ``prediction_type`` or the class's default. Schedulers of flow matching
    have no such setting: theirs is "flow_prediction".
    """
    name = str(scheduler_config.get("_class_name"))
    if name.startswith(_FLOW_SCHEDULERS):
        return "flow_prediction"
    configured = scheduler_config.get("prediction_type")
    return str(configured) if configured is not None else _default_prediction(name)


def _default_prediction(scheduler_class: str) -> str | None:
    import inspect

    import diffusers

    kind = getattr(diffusers, scheduler_class, None)
    if kind is None:
        return None
    setting = inspect.signature(kind.__init__).parameters.get("prediction_type")
    return str(setting.default) if setting is not None else None


def check_resolution(resolution: int, vae_factor: int, patch_size: int) -> None:
    """Refuse image sizes that do not divide into patches of latents.

    Args:
        resolution: height and width in pixels.
        vae_factor: pixels a latent.
        patch_size: latents a patch, in each direction.

    Raises:
        RequestError: names the nearest size that is possible.
    """
    multiple = vae_factor * patch_size
    if resolution > 0 and resolution % multiple == 0:
        return
    nearest = max(1, round(resolution / multiple)) * multiple
    raise RequestError(
        f"Images of {resolution} pixels are not possible: the autoencoder's factor {vae_factor} "
        f"times patches of {patch_size} need a multiple of {multiple}. Nearest: {nearest}."
    )


@torch.no_grad()
def noise_dependence(
    network: VelocityNetwork, latent_shape: tuple[int, ...], cond: Conditioning | None
) -> float:
    """How much one-step images change with the noise, from 0 (not at all) to 1.

    At t = 1, x_1 is noise that is independent of x_0. A network that was trained by flow matching
    therefore predicts x0_hat = x_1 - v(x_1, 1, c) = E[x_0 | c], which is the same for every noise.
    A few-step student draws another image for every noise. The ratio is
    V / (V + S), with V the variance of x0_hat over noises, averaged over elements, and S the
    variance of its mean over noises across the elements of a channel.

    Args:
        cond: some prompts' encodings, or None for a network without prompts.
    """
    parameter = next(network.parameters())
    rows = len(cond) if cond is not None else 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_NOISES, rows, *latent_shape, generator=generator).to(parameter.device)
    t = torch.ones(rows, device=parameter.device)
    images = torch.stack([x0_from_velocity(x, t, network(x, t, cond)) for x in noise])
    over_noises = images.var(0).mean()
    return float(over_noises / (over_noises + _structure(images.mean(0))))


def _structure(images: Tensor) -> Tensor:
    """Variance of images (N, C, ...) across the elements of each channel, averaged; a scalar."""
    channels = images.flatten(2) if images.dim() > 2 else images.unsqueeze(1)
    return channels.var(-1).mean()


def looks_like_student(
    network: VelocityNetwork, latent_shape: tuple[int, ...], cond: Conditioning | None
) -> bool:
    """Whether its one-step images change so much with the noise that it cannot be a teacher."""
    return noise_dependence(network, latent_shape, cond) > STUDENT_RATIO


def check_is_teacher(
    network: VelocityNetwork, latent_shape: tuple[int, ...], cond: Conditioning | None
) -> None:
    """Refuse a few-step student that is offered as a teacher.

    Raises:
        RequestError: says how much its one-step images change with the noise.
    """
    ratio = noise_dependence(network, latent_shape, cond)
    if ratio > STUDENT_RATIO:
        raise RequestError(
            "This network looks like a few-step student, not a teacher: its one-step images "
            f"change with the noise (ratio {ratio:.2f}; a teacher's stays below {STUDENT_RATIO:g})."
        )
