"""Teachers of any size with random weights: what is measured with them is time and memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from workbench.data.bundled import PROMPTS
from workbench.teachers.architecture import Architecture
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.catalog import embedded_teachers
from workbench.teachers.families import FAMILIES
from workbench.teachers.hub_catalog import find_hub_teacher
from workbench.teachers.recipe import TinyRecipe
from workbench.training.networks import DistillationInputs


class RandomWeights:
    """A module's weights, drawn by name and shape: the same for everyone who reads them.

    Matrices keep the size of what goes through them; scales of normalisations are one.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self._state, self._device = module.state_dict(), device

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def read(self, name: str, rows: slice | None) -> Tensor:
        kept: Tensor = self._state[name]
        if not kept.is_meta:  # a buffer that the network computed
            return kept if rows is None else kept[rows]
        if kept.ndim < 2:
            value = torch.full(kept.shape, float(name.endswith("weight")), device=self._device)
        else:
            seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
            drawn = torch.Generator(self._device).manual_seed(seed)
            value = torch.randn(kept.shape, generator=drawn, device=self._device)
            value /= math.sqrt(math.prod(kept.shape[1:]))
        return value if rows is None else value[rows]


def embedded_student(recipe: TinyRecipe) -> DistillationInputs:
    """A student of an embedded teacher's recipe; weights as torch makes them.

    Draws from torch's global random state.
    """
    from workbench.teachers.tiny import tiny_arguments, tiny_pipeline

    pipeline = tiny_pipeline(recipe, PROMPTS)
    family = FAMILIES[type(pipeline).__name__]
    arguments = family.call_arguments(pipeline, tiny_arguments(recipe))
    with torch.no_grad():
        prompts = family.encode(pipeline, PROMPTS, arguments)
        uncond = family.uncond(pipeline, arguments)
    network = family.network(pipeline, arguments)
    return DistillationInputs(network, family.latent_shape(pipeline, arguments), prompts, uncond)


def catalog_architecture(
    name: str, transformer: Mapping[str, Any] | None = None, **shapes: Any
) -> Architecture:
    """A hub teacher's architecture.

    Args:
        transformer: changes of the transformer's arguments; fewer layers, say.
        shapes: changes of the architecture's other attributes.

    Raises:
        ValueError: the catalog has no such teacher.
    """
    teacher = find_hub_teacher(name)
    if teacher is None:
        raise ValueError(f"{name} is no teacher of the hub's catalog")
    whole = Architecture.of(teacher)
    return replace(whole, transformer={**whole.transformer, **(transformer or {})}, **shapes)


def student_of(
    architecture: Architecture, device: torch.device, prompts: int = 64
) -> DistillationInputs:
    """A student of an architecture, with random prompts in bfloat16, as text encoders give them."""
    network = empty_network(architecture)
    weights = RandomWeights(network.module, device)
    encoded, uncond = random_prompts(architecture, prompts), random_prompts(architecture, 1)
    return DistillationInputs(network, architecture.latent_shape, encoded, uncond, weights=weights)


def empty_network(architecture: Architecture) -> VelocityNetwork:
    """The network without weights, but with the buffers that it computes when it is made."""
    import diffusers
    from accelerate import init_empty_weights

    kind = getattr(diffusers, architecture.transformer_class)
    with init_empty_weights(include_buffers=False):
        module = kind.from_config(dict(architecture.transformer))
    family = FAMILIES[architecture.pipeline_class]
    return family.network(SimpleNamespace(transformer=module), {"guidance_scale": 1.0})


def random_prompts(architecture: Architecture, count: int) -> Conditioning:
    """Encodings of the right shapes; every token is seen."""
    mask = FAMILIES[architecture.pipeline_class].token_mask
    ones = architecture.prompts(count).tensors
    return Conditioning(
        {
            name: value if name == mask else torch.randn_like(value).bfloat16()
            for name, value in ones.items()
        }
    )


def named_student(name: str, device: torch.device) -> DistillationInputs:
    """A student of an embedded teacher, or of the hub's catalog, with random weights.

    Raises:
        ValueError: there is no teacher of that name.
    """
    known = embedded_teachers()
    if name in known:
        return embedded_student(known[name].recipe)
    return student_of(catalog_architecture(name), device)
