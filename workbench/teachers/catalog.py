"""Teachers by name, folder or hub id; those that are built here have a TOML file each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from workbench.bundled import bundled_folder
from workbench.data.bundled import BUNDLED
from workbench.errors import RequestError, unknown_name
from workbench.lookup import Lookup
from workbench.settings import FrozenConfig
from workbench.teachers.analytic import ANALYTIC, MixtureRecipe
from workbench.teachers.build import build_from_recipe, is_built, recipe_folder, shipped_folder
from workbench.teachers.folder import MODEL_INDEX, stored_numbers
from workbench.teachers.hub import HUB_ID, cached_snapshot, download
from workbench.teachers.hub_catalog import HUB_TEACHERS, HubTeacher, find_hub_teacher
from workbench.teachers.json_file import read_json
from workbench.teachers.pipeline import PipelineTeacher, load_pipeline_teacher
from workbench.teachers.pretrain import Progress, silent
from workbench.teachers.recipe import TinyRecipe
from workbench.teachers.student_pipeline import check_not_student


class EmbeddedTeacher(FrozenConfig):
    """A teacher that is built here, on bundled data.

    Attributes:
        description: for people.
        stands_for: name of the published teacher whose traits it keeps.
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


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher known by name: either built here from a recipe or downloaded from the hub.

    Attributes:
        parameters: of its network, or of the one that students start at where it has none.
        resolution: height and width of its images in pixels; None where samples are no images.
        data: name of the bundled data that a pipeline built here learns from.
    """

    name: str
    description: str
    parameters: int
    resolution: int | None
    latent_shape: tuple[int, ...]
    recipe: TinyRecipe | MixtureRecipe | None = None
    data: str | None = None
    hub: HubTeacher | None = None

    @property
    def hub_id(self) -> str | None:
        return None if self.hub is None else self.hub.hub_id

    @property
    def call(self) -> Mapping[str, Any]:
        """What makes the setting of a hub's pipeline that serves several: a size, a text length."""
        return {} if self.hub is None else self.hub.call

    @property
    def pipeline(self) -> str | None:
        """The diffusers class; None of an analytic teacher."""
        if self.hub is not None:
            return self.hub.pipeline_class
        return getattr(self.recipe, "pipeline", None)


def _known_teachers() -> Iterator[TeacherSpec]:
    for name, built in embedded_teachers().items():
        yield TeacherSpec(
            name,
            f"{built.description} (as {built.stands_for})",
            built.parameters,
            built.recipe.image_size,
            built.latent_shape,
            recipe=built.recipe,
            data=built.data,
        )
    for name, exact in ANALYTIC.items():
        yield TeacherSpec(
            name, exact.description, exact.parameters, None, exact.latent_shape, recipe=exact
        )
    for hub in HUB_TEACHERS:
        yield TeacherSpec(
            hub.name, hub.description, hub.parameters, hub.resolution, hub.latent_shape, hub=hub
        )


KNOWN_TEACHERS = Lookup("teacher", {spec.name: spec for spec in _known_teachers()})
"""Name -> teacher."""


@dataclass(frozen=True)
class TeacherKind:
    """What is known of a teacher without loading it; None for what is unknown.

    Attributes:
        name: in the catalog, also if the teacher was asked for by its hub id.
        pipeline: the diffusers class; None of an analytic teacher.
        parameters: of its transformer.
    """

    name: str | None = None
    pipeline: str | None = None
    parameters: int | None = None


def teacher_kind(reference: str) -> TeacherKind:
    """The kind of a teacher by name, folder or hub id; downloads and builds nothing."""
    hub = find_hub_teacher(reference)
    spec = KNOWN_TEACHERS.get(reference if hub is None else hub.name)
    if spec is not None:
        return TeacherKind(spec.name, spec.pipeline, spec.parameters)
    local = Path(reference).expanduser()
    if not local.is_dir():
        snapshot = cached_snapshot(reference) if HUB_ID.fullmatch(reference) else None
        if snapshot is None:
            return TeacherKind()
        local = snapshot
    index = local / MODEL_INDEX
    if not index.is_file():
        return TeacherKind()
    pipeline = str(read_json(index).get("_class_name"))
    try:
        parameters = stored_numbers(local / "transformer").total() or None
    except RequestError:
        parameters = None  # damaged: check_teacher says so
    return TeacherKind(None, pipeline, parameters)


def load_teacher(
    reference: str,
    teachers_dir: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    call: Mapping[str, Any] | None = None,
    text: bool = True,
) -> PipelineTeacher:
    """A teacher by name, folder or hub id, in float32 by default; embedded ones are built first.

    Args:
        call: arguments of the stock call, over the teacher's own.
        text: whether the text encoders are loaded too, in the precision of their own files.

    Raises:
        RequestError: no such teacher, a damaged or unsupported one, or a hub that refuses or
            cannot be reached; says the way out.
    """
    folder = find_teacher(reference, teachers_dir)
    wanted = teacher_call(reference, call)
    return load_pipeline_teacher(
        reference, folder, device, dtype or torch.float32, call=wanted, text=text
    )


def teacher_call(reference: str, call: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Arguments of the stock call: those of the catalog, overridden by the caller's."""
    spec = KNOWN_TEACHERS.get(reference)
    return {**(spec.call if spec else {}), **(call or {})}


def find_teacher(reference: str, teachers_dir: Path, show: Progress = silent) -> Path:
    """The local folder of a teacher: built if embedded, downloaded if on the hub.

    Raises:
        RequestError: as :func:`load_teacher`, except for damage, which only loading finds.
    """
    check_teacher(reference)
    spec = KNOWN_TEACHERS.get(reference)
    if spec is not None and spec.recipe is not None:
        return built_folder(reference, teachers_dir) or build_teacher(reference, teachers_dir, show)
    local = Path(reference).expanduser()
    if spec is None and local.is_dir():
        return local
    return download(reference if spec is None or spec.hub_id is None else spec.hub_id)


def check_teacher(reference: str) -> None:
    """Refuse what cannot be a teacher, without building or downloading anything.

    Raises:
        RequestError: neither a known name nor a folder nor a hub id, or an exported student.
    """
    if reference in KNOWN_TEACHERS:
        return
    local = Path(reference).expanduser()
    if local.is_dir():
        check_not_student(reference, local)
        return
    if HUB_ID.fullmatch(reference):
        return
    if "/" in reference or local.exists():
        raise RequestError(f"The teacher {reference!r} is no folder.")
    KNOWN_TEACHERS.check(reference)


def build_teacher(name: str, teachers_dir: Path, show: Progress = silent) -> Path:
    """The folder of an embedded teacher, pretrained now unless its recipe has been built before.

    Args:
        show: told (what is being done, steps done, steps in all) after every step.

    Raises:
        RequestError: unknown, or not an embedded one.
    """
    embedded = {key: spec for key, spec in KNOWN_TEACHERS.items() if spec.recipe is not None}
    if name not in embedded:
        if name in KNOWN_TEACHERS:
            raise RequestError(
                f"The teacher {name!r} is not built here but downloaded when it is used. "
                f"Built here: {', '.join(embedded)}."
            )
        raise unknown_name("embedded teacher", name, embedded)
    recipe, learnt = embedded[name].recipe, embedded[name].data
    assert recipe is not None
    data = BUNDLED[learnt] if learnt is not None else None
    return build_from_recipe(name, recipe, teachers_dir, show, data)


def built_folder(name: str, teachers_dir: Path) -> Path | None:
    """The folder of an embedded teacher, built here or shipped, else None; starts nothing."""
    spec = KNOWN_TEACHERS.get(name)
    if spec is None or spec.recipe is None:
        return None
    folder = recipe_folder(name, spec.recipe, teachers_dir)
    return folder if is_built(folder) else shipped_folder(name, spec.recipe)


def teacher_overview(teachers_dir: Path) -> list[dict[str, object]]:
    """All teachers known by name as rows of a table: those built here, then the paper's.

    ``ready`` tells whether it is built, or in the hub's cache; ``distil_bytes`` is what
    distilling takes on one device with full copies in bf16-mixed, gradient checkpointing and one
    sample at a time, None for teachers so small that it does not matter.
    """
    return [_row(spec, teachers_dir) for spec in KNOWN_TEACHERS.values()]


def _row(spec: TeacherSpec, teachers_dir: Path) -> dict[str, object]:
    hub = spec.hub
    folder = built_folder(spec.name, teachers_dir) if hub is None else cached_snapshot(hub.hub_id)
    return {
        "name": spec.name,
        "parameters": spec.parameters,
        "resolution": spec.resolution,
        "latent": " x ".join(map(str, spec.latent_shape)),
        "gated": hub is not None and hub.gated,
        "ready": folder is not None,
        "distil_bytes": hub and hub.distil_bytes + hub.held_bytes,
        "source": hub.hub_id if hub is not None else str(folder or "built on first use"),
        "licence": hub and hub.licence,
        "description": spec.description,
    }
