"""Teachers by name, folder or hub id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.bundled import BUNDLED
from workbench.errors import RequestError, unknown_name
from workbench.teachers.analytic import ANALYTIC, MixtureRecipe
from workbench.teachers.embedded import embedded_teachers
from workbench.teachers.hub_catalog import HUB_TEACHERS, find_hub_teacher
from workbench.teachers.json_file import read_json
from workbench.teachers.recipe import TinyRecipe
from workbench.teachers.student_pipeline import refuse_student

if TYPE_CHECKING:
    import torch

    from workbench.teachers.pipeline import PipelineTeacher
    from workbench.teachers.pretrain import Progress


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher known by name: either built here from a recipe or downloaded from the hub.

    ``call`` makes the setting of a downloaded pipeline that serves several: a size, a text length.
    ``data`` is the bundled data that a pipeline built here learns from. ``resolution`` is None
    where samples are no images; ``parameters`` are then those of the network
    that students start at.
    """

    name: str
    description: str
    parameters: int
    resolution: int | None
    latent_shape: tuple[int, ...]
    recipe: TinyRecipe | MixtureRecipe | None = None
    data: str | None = None
    hub_id: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)


def _embedded() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name,
            f"{teacher.description} (as {teacher.stands_for})",
            teacher.parameters,
            teacher.recipe.image_size,
            teacher.latent_shape,
            recipe=teacher.recipe,
            data=teacher.data,
        )
        for name, teacher in embedded_teachers().items()
    ]


def _analytic() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name,
            recipe.description,
            recipe.parameters,
            None,
            recipe.latent_shape,
            recipe=recipe,
        )
        for name, recipe in ANALYTIC.items()
    ]


def _hub() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            teacher.name,
            teacher.description,
            teacher.parameters,
            teacher.resolution,
            teacher.latent_shape,
            hub_id=teacher.hub_id,
            call=teacher.call,
        )
        for teacher in HUB_TEACHERS
    ]


KNOWN_TEACHERS: Mapping[str, TeacherSpec] = {
    spec.name: spec for spec in (*_embedded(), *_analytic(), *_hub())
}
"""Name -> teacher."""


@dataclass(frozen=True)
class TeacherKind:
    """What is known of a teacher without loading it; None where it is not.

    Attributes:
        name: in the catalogue, also of a teacher that was asked for by its hub id.
        pipeline: the diffusers class; None of an analytic teacher.
        parameters: of its transformer.
    """

    name: str | None = None
    pipeline: str | None = None
    parameters: int | None = None


def teacher_kind(reference: str) -> TeacherKind:
    """The kind of a teacher by name, folder or hub id; downloads and builds nothing."""
    hub = find_hub_teacher(reference)
    if hub is not None:
        return TeacherKind(hub.name, hub.pipeline_class, hub.parameters)
    spec = KNOWN_TEACHERS.get(reference)
    if spec is not None:
        pipeline = getattr(spec.recipe, "pipeline", None)
        return TeacherKind(spec.name, pipeline, spec.parameters)
    local = Path(reference).expanduser()
    if not local.is_dir():
        from workbench.teachers.hub import HUB_ID, cached_snapshot

        snapshot = cached_snapshot(reference) if HUB_ID.fullmatch(reference) else None
        if snapshot is None:
            return TeacherKind()
        local = snapshot
    from workbench.teachers.folder import MODEL_INDEX, stored_numbers

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
    """A teacher by name, folder or hub id, in float32 unless told; embedded ones are built first.

    Args:
        call: arguments of the stock call, over the teacher's own.
        text: whether the text encoders are loaded too, in the precision of their own files.

    Raises:
        RequestError: no such teacher, a damaged or unsupported one, or a hub that refuses or
            cannot be reached; says the way out.
    """
    import torch

    from workbench.teachers.pipeline import load_pipeline_teacher

    folder = find_teacher(reference, teachers_dir)
    wanted = teacher_call(reference, call)
    return load_pipeline_teacher(
        reference, folder, device, dtype or torch.float32, call=wanted, text=text
    )


def teacher_call(reference: str, call: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """What a name of the catalogue, and then the caller, ask of the stock call."""
    spec = KNOWN_TEACHERS.get(reference)
    return {**(spec.call if spec else {}), **(call or {})}


def find_teacher(reference: str, teachers_dir: Path, show: Progress | None = None) -> Path:
    """The local folder of a teacher: built if embedded, downloaded if on the hub.

    Raises:
        RequestError: as :func:`load_teacher`, except for damage, which only loading finds.
    """
    check_teacher(reference)
    spec = KNOWN_TEACHERS.get(reference)
    if spec is not None and spec.recipe is not None:
        return build_teacher(reference, teachers_dir, show)
    local = Path(reference).expanduser()
    if spec is None and local.is_dir():
        return local
    from workbench.teachers.hub import download

    return download(reference if spec is None or spec.hub_id is None else spec.hub_id)


def check_teacher(reference: str) -> None:
    """Refuse what can be no teacher, without building or downloading anything.

    Raises:
        RequestError: neither a known name nor a folder nor a hub id, or an exported student.
    """
    if reference in KNOWN_TEACHERS:
        return
    local = Path(reference).expanduser()
    if local.is_dir():
        refuse_student(reference, local)
        return
    if "/" in reference:
        from workbench.teachers.hub import HUB_ID

        if HUB_ID.fullmatch(reference):
            return
    if "/" in reference or local.exists():
        raise RequestError(f"The teacher {reference!r} is no folder.")
    raise unknown_name("teacher", reference, KNOWN_TEACHERS)


def build_teacher(name: str, teachers_dir: Path, show: Progress | None = None) -> Path:
    """The folder of an embedded teacher, pretrained now unless its recipe has been built before.

    Args:
        show: told (what is being done, steps done, steps in all) after every step.

    Raises:
        RequestError: unknown, or not an embedded one.
    """
    from workbench.teachers.build import build_from_recipe
    from workbench.teachers.pretrain import silent

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
    return build_from_recipe(name, recipe, teachers_dir, show or silent, data)


def built_folder(name: str, teachers_dir: Path) -> Path | None:
    """The folder of an embedded teacher if it is built, else None; starts nothing."""
    from workbench.teachers.build import is_built, recipe_folder

    spec = KNOWN_TEACHERS.get(name)
    if spec is None or spec.recipe is None:
        return None
    folder = recipe_folder(name, spec.recipe, teachers_dir)
    return folder if is_built(folder) else None
