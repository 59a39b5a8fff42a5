"""The embedded teachers: one TOML file each, in experiments/teachers."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from pydantic import Field, ValidationError

from workbench.bundled import bundled_folder
from workbench.errors import RequestError
from workbench.settings import FrozenConfig
from workbench.teachers.recipe import TinyRecipe


class EmbeddedTeacher(FrozenConfig):
    """A teacher that is built here, on bundled data.

    Attributes:
        description: for people.
        stands_for: the published teacher whose traits it keeps.
        parameters: of its transformer.
        data: name of the bundled data that it learns from.
        recipe: how it is built.
        default: whether it is the teacher of runs that name none.
    """

    description: str
    stands_for: str
    parameters: int = Field(ge=0)
    data: str
    recipe: TinyRecipe
    default: bool = False

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of one sample."""
        parts = self.recipe.autoencoder
        side = self.recipe.image_size // 2 ** (len(parts.channels) - 1)
        return (parts.latent_channels, side, side)


@cache
def embedded_teachers() -> dict[str, EmbeddedTeacher]:
    """Name (the file's stem) -> teacher.

    Raises:
        RequestError: a file that cannot be read; names it and what is wrong.
    """
    folder = bundled_folder("experiments") / "teachers"
    return {file.stem: load_embedded(file) for file in sorted(folder.glob("*.toml"))}


def default_teacher() -> str:
    """The teacher of a run that names none."""
    return next(name for name, teacher in embedded_teachers().items() if teacher.default)


def load_embedded(file: Path) -> EmbeddedTeacher:
    """One teacher's file.

    Raises:
        RequestError: not TOML, or not a recipe; names the file and the key.
    """
    try:
        return EmbeddedTeacher.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"Cannot read the teacher's recipe {file}: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"The teacher's recipe {file}: {where}: {first['msg']}.") from None
