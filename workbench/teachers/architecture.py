"""What decides a teacher's size: its network's class and settings, and the shapes it is fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from workbench.errors import RequestError
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.families import FAMILIES
from workbench.teachers.family import CallArguments
from workbench.teachers.folder import MODEL_INDEX, TeacherNotes, family_of
from workbench.teachers.hub_catalog import HubTeacher
from workbench.teachers.json_file import read_json

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Enough to build a teacher's network without weights.

    Attributes:
        transformer: arguments of the transformer class.
        latent_shape: of one sample.
        conditioning: shape of one prompt's encoding by name.
    """

    pipeline_class: str
    transformer_class: str
    transformer: Mapping[str, Any]
    latent_shape: tuple[int, ...]
    conditioning: Shapes

    @staticmethod
    def of(teacher: HubTeacher, call: CallArguments | None = None) -> Architecture:
        """From the catalog.

        Args:
            call: arguments of the stock call, over the teacher's own; a height, say.

        Raises:
            RequestError: images of that size are impossible.
        """
        factor = teacher.resolution // teacher.latent_shape[-1]
        stub = _stub(teacher.transformer, factor)
        family = FAMILIES[teacher.pipeline_class]
        arguments = family.call_arguments(stub, {**teacher.call, **(call or {})})
        return Architecture(
            teacher.pipeline_class,
            teacher.transformer_class,
            teacher.transformer,
            family.latent_shape(stub, arguments),
            teacher.conditioning,
        )

    @staticmethod
    def in_folder(folder: Path, call: CallArguments | None = None) -> Architecture:
        """From the configuration files of a saved pipeline; no weights are read.

        Args:
            call: arguments of the stock call, over those stored with the teacher.

        Raises:
            RequestError: a file is missing or damaged, the class is not supported, or images of
                the asked-for size are impossible.
        """
        family = family_of(folder / MODEL_INDEX)
        transformer = read_json(folder / "transformer" / "config.json")
        try:
            stub = _stub(transformer, _vae_factor(read_json(folder / "vae" / "config.json")))
            stored = {**TeacherNotes.load(folder).call, **(call or {})}
            arguments = family.call_arguments(stub, stored)
            return Architecture(
                family.pipeline_class,
                str(transformer["_class_name"]),
                transformer,
                family.latent_shape(stub, arguments),
                family.encoding_shapes(folder, transformer, arguments),
            )
        except (KeyError, AttributeError) as error:
            raise RequestError(f"The settings of the teacher in {folder} lack {error}.") from None

    def network(self) -> VelocityNetwork:
        """The network on torch's meta device: shapes and types, no memory."""
        import diffusers

        with torch.device("meta"):
            module = getattr(diffusers, self.transformer_class).from_config(dict(self.transformer))
        family = FAMILIES[self.pipeline_class]
        return family.network(SimpleNamespace(transformer=module), {"guidance_scale": 1.0})

    def prompts(self, count: int) -> Conditioning:
        """Encodings of the right shapes, of ones."""
        return Conditioning(
            {name: torch.ones(count, *shape) for name, shape in self.conditioning.items()}
        )


_FLUX_SAMPLE_SIZE = 128  # FluxPipeline's own constant


def _stub(transformer: Mapping[str, Any], vae_factor: int) -> Any:
    """As much of a pipeline as its family asks for sizes."""
    return SimpleNamespace(
        transformer=SimpleNamespace(config=SimpleNamespace(**transformer)),
        vae_scale_factor=vae_factor,
        default_sample_size=_FLUX_SAMPLE_SIZE,
    )


def _vae_factor(vae: Mapping[str, Any]) -> int:
    """Pixels a latent, as the stock pipelines count it: a factor of 2 between resolutions."""
    channels = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
    return int(2 ** (len(channels) - 1))
