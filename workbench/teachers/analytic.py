"""Teachers with a known answer: the velocity is exact, and students start at a small network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from pydantic import Field, PositiveFloat, ValidationError, model_validator
from torch import Tensor

from workbench.data.bundled import NUMBER_WORDS, the_number_in
from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.folder import component_fingerprint
from workbench.teachers.json_file import read_json
from workbench.teachers.mixture import LOG_SHARES, ExactVelocity, Mixture, MLPVelocity
from workbench.teachers.pretrain import Progress, PromptedLatents, pretrain, silent
from workbench.teachers.recipe import BuildRecipe, FlowMatchingRecipe

MIXTURE_FILE = "mixture.json"
"""The file that marks a folder as an analytic teacher."""
_START, _WEIGHTS = "start", "start/model.safetensors"


class MixtureRecipe(BuildRecipe):
    """A mixture of Gaussians, and the pretraining of the network that students start at.

    A prompted one has ten modes, one for each number that a prompt names; the empty prompt asks for
    all of them in their shares.
    """

    prompted: bool = Field(False, description="a prompt asks for the mode of its number")
    width: int = Field(64, ge=1, description="of the network that students start at")
    blocks: int = Field(3, ge=1)
    samples: int = Field(100_000, ge=2, description="of the mixture, to pretrain on")
    pretraining: FlowMatchingRecipe = FlowMatchingRecipe(
        steps=2000, batch_size=256, ema_decay=0.99, t_std=1.5, beta2=0.999
    )

    @property
    @abstractmethod
    def mixture(self) -> Mixture:
        """The truth."""

    @property
    @abstractmethod
    def description(self) -> str:
        """For lists of teachers."""

    @property
    def truth(self) -> dict[str, Any]:
        """The part of the recipe that the truth depends on, as plain values."""
        return self.model_dump(mode="json", exclude=_OF_THE_START)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.mixture.dimension,)

    @property
    def parameters(self) -> int:
        """Parameters of the network that students start at; their values are not made."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.network().parameters())

    def network(self) -> MLPVelocity:
        """The network that students start at, with weights from torch's random state."""
        seen = self.mixture.modes if self.prompted else 0
        return MLPVelocity(self.mixture.dimension, seen, self.width, self.blocks)


_OF_THE_START = {*BuildRecipe.model_fields, "width", "blocks", "samples"}


class RingRecipe(MixtureRecipe):
    """Equal Gaussians on a ring in the plane."""

    modes: int = Field(8, ge=1)
    radius: float = Field(2.0, gt=0)
    std: float = Field(0.25, gt=0, description="of each mode")

    @property
    def mixture(self) -> Mixture:
        return Mixture.ring(self.modes, self.radius, self.std)

    @property
    def description(self) -> str:
        return f"{self.modes} Gaussians on a ring, exact velocity"


class ModesRecipe(MixtureRecipe):
    """Any Gaussians whose axes are the coordinates'."""

    means: tuple[tuple[float, ...], ...] = Field(min_length=1, description="of each mode")
    stds: tuple[tuple[PositiveFloat, ...], ...] = Field(description="of each, along each axis")
    shares: tuple[PositiveFloat, ...] = Field(description="of the modes, up to a factor")

    @model_validator(mode="after")
    def _alike(self) -> Self:
        sizes = {len(row) for row in (*self.means, *self.stds)}
        counts = {len(self.means), len(self.stds), len(self.shares)}
        if len(sizes) > 1 or len(counts) > 1 or 0 in sizes:
            raise ValueError("each mode has a mean and a std along each axis, and a share")
        if self.prompted and len(self.means) != len(NUMBER_WORDS):
            raise ValueError(f"prompts ask for {len(NUMBER_WORDS)} modes, not {len(self.means)}")
        return self

    @property
    def mixture(self) -> Mixture:
        means, stds, shares = (
            torch.tensor(values, dtype=torch.float64)
            for values in (self.means, self.stds, self.shares)
        )
        return Mixture(means, stds, shares / shares.sum())

    @property
    def description(self) -> str:
        modes, dimension = len(self.means), len(self.means[0])
        what = "a Gaussian" if modes == 1 else f"{modes} unequal Gaussians"
        return f"{what} in {dimension} dimensions, exact velocity"


def mixture_recipe(values: Mapping[str, Any]) -> MixtureRecipe:
    """A recipe of either kind from plain values, or from its :attr:`MixtureRecipe.truth` alone."""
    return (ModesRecipe if "means" in values else RingRecipe).model_validate(values)


def _exact(value: float) -> float:
    """Rounded, because the last bits differ between machines and would enter the teacher's name."""
    return round(value, 12)


def _unequal() -> ModesRecipe:
    """Six modes on a ring, of three shares and widths in turn, far apart for their widths."""
    places = [math.pi / 3 * mode for mode in range(6)]
    return ModesRecipe(
        means=tuple((_exact(3 * math.cos(angle)), _exact(3 * math.sin(angle))) for angle in places),
        stds=((0.2, 0.2), (0.4, 0.4), (0.1, 0.1)) * 2,
        shares=(4.0, 1.0, 2.0) * 2,
    )


def _anisotropic(dimension: int = 64, largest: float = 1.0, smallest: float = 0.1) -> ModesRecipe:
    """A Gaussian whose std falls by equal factors from axis to axis."""
    fall = (smallest / largest) ** (1 / (dimension - 1))
    return ModesRecipe(
        means=((0.0,) * dimension,),
        stds=(tuple(_exact(largest * fall**axis) for axis in range(dimension)),),
        shares=(1.0,),
        width=128,
        blocks=2,
    )


ANALYTIC: Mapping[str, MixtureRecipe] = MappingProxyType(
    {
        "analytic-ring-8": RingRecipe(),
        "analytic-ring-10-prompted": RingRecipe(modes=len(NUMBER_WORDS), prompted=True),
        "analytic-unequal": _unequal(),
        "analytic-anisotropic": _anisotropic(),
    }
)
"""Name -> recipe of the analytic teachers."""


class MixtureTeacher:
    """A mixture of Gaussians as a teacher: no pipeline, no text encoder, no images.

    Attributes:
        name: what it was asked for as.
        network: the exact velocity.
        start: the network that students and fake scores start at, frozen.
        latent_shape: of one sample, which is its own latent.
    """

    resolution = None

    def __init__(
        self, name: str, recipe: MixtureRecipe, start: VelocityNetwork, folder: Path
    ) -> None:
        self.name, self.recipe, self.folder = name, recipe, folder
        self.start: VelocityNetwork | None = start
        self.mixture = recipe.mixture
        self.network: VelocityNetwork = ExactVelocity(self.mixture)
        self.latent_shape = recipe.latent_shape

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the files it was loaded from, the starting weights included."""
        return f"{self.recipe.hash}-{component_fingerprint(self.folder, (_START,))}"

    def encode(self, prompts: Sequence[str]) -> Conditioning | None:
        """Prompts to conditioning rows, in order; None for a teacher without prompts.

        Raises:
            RequestError: as :func:`mode_labels`.
        """
        return self.asking(mode_labels(prompts)) if self.recipe.prompted else None

    def asking(self, labels: Tensor) -> Conditioning | None:
        """Rows that ask for these modes (B,); None for a teacher without prompts."""
        if not self.recipe.prompted:
            return None
        return Conditioning({LOG_SHARES: self.mixture.asking(labels).float()})

    def uncond(self) -> Conditioning | None:
        """The empty prompt, one row; None for a teacher without prompts."""
        if not self.recipe.prompted:
            return None
        return Conditioning({LOG_SHARES: self.mixture.shares.log().float()[None]})

    def decode(self, latents: Tensor) -> Tensor:
        """A sample is its own latent: float32 (B, D)."""
        return latents.float()

    @property
    def weights(self) -> None:
        """It has none."""
        return None

    def release_network(self) -> None:
        """Nothing to free: a closed form has no weights."""


def mode_labels(prompts: Sequence[str]) -> Tensor:
    """The modes that prompts ask for, int64 (B,).

    Raises:
        RequestError: a prompt that names no number from 0 to 9, or several.
    """
    return torch.tensor([the_number_in(prompt) for prompt in prompts])


def is_analytic(folder: Path) -> bool:
    """Whether a teacher's folder holds a mixture instead of a pipeline."""
    return (folder / MIXTURE_FILE).is_file()


def check_not_analytic(name: str, folder: Path) -> None:
    """Refuse an analytic teacher where only images will do.

    Raises:
        RequestError: says where its samples can be seen.
    """
    if is_analytic(folder):
        raise RequestError(
            f"The teacher {name} draws points, not images. Its runs keep scores and samples; "
            "python analysis/analytic.py draws them."
        )


def load_mixture(name: str, folder: Path, device: torch.device | str = "cpu") -> MixtureTeacher:
    """The teacher in a folder that :func:`build_mixture` wrote.

    Raises:
        RequestError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    recipe = read_recipe(folder)
    start = recipe.network()
    try:
        start.module.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"Cannot load the teacher in {folder}: {reason}") from error
    start.to(device).eval().requires_grad_(False)
    return MixtureTeacher(name, recipe, start, folder)


def read_recipe(folder: Path) -> MixtureRecipe:
    """The recipe of an analytic teacher's folder.

    Raises:
        RequestError: damaged.
    """
    try:
        return mixture_recipe(read_json(folder / MIXTURE_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{folder / MIXTURE_FILE} is damaged: {where}.") from None


def build_mixture(recipe: MixtureRecipe, folder: Path, show: Progress = silent) -> None:
    """Pretrain the starting network by flow matching on samples, and save it beside the recipe.

    torch's random state is left alone.
    """
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = recipe.network()
        pretrain(network, _data(recipe), recipe.pretraining, show)
    (folder / _START).mkdir(parents=True)
    save_file(network.module.state_dict(), folder / _WEIGHTS)
    (folder / MIXTURE_FILE).write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _data(recipe: MixtureRecipe) -> PromptedLatents:
    """Samples of the mixture, each with the mode it is from as its prompt."""
    mixture, noise = recipe.mixture, NoiseSource(recipe.seed)
    labels = mixture.labels(noise.uniform("pretraining/mode", 0, recipe.samples))
    normal = noise.normal("pretraining/inside", 0, recipe.samples, (mixture.dimension,))
    each = mixture.asking(torch.arange(mixture.modes))
    rows = torch.cat([each, mixture.shares.log()[None]]).float()
    prompts = Conditioning({LOG_SHARES: rows})
    return PromptedLatents(mixture.at(labels, normal), labels, prompts, wordings=1)


def check_no_call(name: str, call: Mapping[str, Any]) -> None:
    """An analytic teacher has no images and no guidance input, whose settings would do nothing.

    Raises:
        RequestError: names the first of them.
    """
    if call:
        key = next(iter(call))
        raise RequestError(
            f"The analytic teacher {name} draws points, not images, and takes no guidance as an "
            f"input: it has no {key}. Set resolution=null and teacher_guidance=null."
        )
