"""All teachers known by name, as rows of a table."""

from __future__ import annotations

from pathlib import Path

from workbench.teachers.catalog import KNOWN_TEACHERS, TeacherSpec, built_folder
from workbench.teachers.hub import cached_snapshot
from workbench.teachers.hub_catalog import HUB_TEACHERS, HubTeacher


def teacher_overview(teachers_dir: Path) -> list[dict[str, object]]:
    """One row a teacher: the embedded ones, then the paper's.

    ``ready`` tells whether it is built, or in the hub's cache; ``distil_bytes`` is what
    distilling takes on one device with full copies in bf16-mixed, gradient checkpointing and one
    sample at a time, None for teachers so small that it does not matter.
    """
    embedded = [spec for spec in KNOWN_TEACHERS.values() if spec.recipe is not None]
    return [
        *(_embedded_row(spec, built_folder(spec.name, teachers_dir)) for spec in embedded),
        *map(_hub_row, HUB_TEACHERS),
    ]


def _embedded_row(spec: TeacherSpec, folder: Path | None) -> dict[str, object]:
    return {
        "name": spec.name,
        "parameters": spec.parameters,
        "resolution": spec.resolution,
        "latent": _shape(spec.latent_shape),
        "gated": False,
        "ready": folder is not None,
        "distil_bytes": None,
        "source": str(folder) if folder else "built on first use",
        "licence": None,
        "description": spec.description,
    }


def _hub_row(teacher: HubTeacher) -> dict[str, object]:
    return {
        "name": teacher.name,
        "parameters": teacher.parameters,
        "resolution": teacher.resolution,
        "latent": _shape(teacher.latent_shape),
        "gated": teacher.gated,
        "ready": cached_snapshot(teacher.hub_id) is not None,
        "distil_bytes": teacher.distil_bytes + teacher.held_bytes,
        "source": teacher.hub_id,
        "licence": teacher.licence,
        "description": teacher.description,
    }


def _shape(latent_shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, latent_shape))
