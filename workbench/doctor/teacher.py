"""Can this machine distil that teacher? Files, access, precision, disk and memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from workbench.doctor.fitting import Device, MemoryPlan, Teacher, first_that_fits, needed
from workbench.doctor.machine import Check
from workbench.errors import RequestError, unknown_name
from workbench.sizes import as_text
from workbench.teachers import KNOWN_TEACHERS, built_folder, hub
from workbench.teachers.architecture import Architecture
from workbench.teachers.catalog import teacher_call
from workbench.teachers.family import CallArguments
from workbench.teachers.folder import check_folder, check_kind, stored_numbers
from workbench.teachers.hub_catalog import HubTeacher, find_hub_teacher
from workbench.teachers.pipeline import text_precisions
from workbench.teachers.student_pipeline import check_not_student
from workbench.training.config import RunConfig
from workbench.training.memory import Estimate, checkpoint_bytes
from workbench.training.parallel import choose_device
from workbench.workspace import Workspace


@dataclass(frozen=True)
class TeacherReport:
    """What was found, and what would make it fit if it does not.

    Attributes:
        memory: the run's worst moment; None if the teacher's sizes are not known yet.
        available: bytes a rank may use.
    """

    teacher: str
    ranks: int
    checks: tuple[Check, ...]
    memory: Estimate | None
    available: int
    wish: MemoryPlan | None

    @property
    def fits(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        memory, wish = self.memory, self.wish
        return {
            "teacher": self.teacher,
            "ranks": self.ranks,
            "fits": self.fits,
            "checks": [check.as_dict() for check in self.checks],
            "memory": memory
            and {
                "parts_bytes": dict(memory.parts),
                "total_bytes": memory.total,
                "available_bytes": self.available,
            },
            "would_fit": wish
            and {
                "set": list(wish.assignments),
                "ranks": wish.ranks,
                "total_bytes": wish.estimate.total,
            },
        }


def examine(place: Workspace, config: RunConfig, ranks: int) -> TeacherReport:
    """Everything about ``config.teacher`` that a run needs.

    Raises:
        RequestError: no such teacher, or settings that contradict each other.
    """
    subject = _find(config.teacher, place)
    files = _files(subject)
    checks = [files, *_access(subject), _precision(config)]
    try:
        device = Device.here(ranks)
    except RequestError as error:
        checks.append(Check("devices", False, str(error)))
        device = Device.here(1)
    sizes = _sizes(subject, config) if files.passed else None
    if sizes is None:
        unknown = "not known before the teacher is here, built or downloaded"
        checks.append(Check("memory to distil", True, unknown))
        return TeacherReport(config.teacher, ranks, tuple(checks), None, device.memory, None)
    memory = needed(sizes, config, ranks)
    checks += [
        *_disk(subject, sizes, config, place),
        _loading(sizes, device),
        _memory(memory, device, ranks),
    ]
    wish = None
    if memory.total > device.memory:
        wish = first_that_fits(sizes, config, ranks, device)
    return TeacherReport(config.teacher, ranks, tuple(checks), memory, device.memory, wish)


@dataclass(frozen=True)
class _Subject:
    """A teacher as asked for: where it is, or where it would come from."""

    name: str
    folder: Path | None
    hub_id: str | None = None
    known: HubTeacher | None = None

    @cached_property
    def problem(self) -> str | None:
        """What is missing or damaged in its folder; None if nothing is, or there is none yet."""
        if self.folder is not None:
            try:
                check_folder(self.folder)
            except RequestError as error:
                return str(error)
        return None

    @property
    def is_complete(self) -> bool:
        """Whether nothing has to be downloaded: it is here, or is built here."""
        return self.problem is None if self.folder is not None else self.hub_id is None


def _find(reference: str, place: Workspace) -> _Subject:
    known = find_hub_teacher(reference)
    if known is None and reference in KNOWN_TEACHERS:
        return _Subject(reference, built_folder(reference, place.teachers))
    local = Path(reference).expanduser()
    if known is None and local.is_dir():
        return _Subject(reference, local)
    is_name = known is not None and known.name == reference
    hub_id = known.hub_id if known is not None and is_name else reference
    if hub.HUB_ID.fullmatch(hub_id):
        return _Subject(reference, hub.cached_snapshot(hub_id), hub_id, known)
    if "/" in reference or local.exists():
        raise RequestError(f"The teacher {reference!r} is no folder.")
    raise unknown_name("teacher", reference, KNOWN_TEACHERS)


def _files(subject: _Subject) -> Check:
    if subject.folder is None:
        where = "not built yet: the first run builds it, in minutes"
        if subject.hub_id is not None:
            where = f"{subject.hub_id} is not in the hub's cache: the first run downloads it"
        return Check("files", True, where)
    try:
        check_kind(subject.folder)
        check_not_student(subject.name, subject.folder)
    except RequestError as error:
        return Check("files", False, str(error))
    if subject.problem is not None:
        if subject.hub_id is not None:
            return Check("files", True, f"part of {subject.hub_id} is in the hub's cache")
        return Check("files", False, subject.problem)
    commit = hub.revision_of(subject.folder)
    revision = f", revision {commit}" if commit else ""
    return Check("files", True, f"complete in {subject.folder}{revision}")


def _access(subject: _Subject) -> Iterator[Check]:
    """For what must still be downloaded: the licence, and whether the hub lets this machine in."""
    known, hub_id = subject.known, subject.hub_id
    if known is not None:
        gate = "gated" if known.gated else "open"
        yield Check("licence", True, f"{known.licence} ({gate}): {known.license_page}")
    if hub_id is None or subject.is_complete:
        return
    if known is not None and known.gated and not hub.has_token():
        yield Check("access", False, hub.gated_message(known.hub_id))
        return
    try:
        size = hub.check_access(hub_id)
    except RequestError as error:
        yield Check("access", False, str(error))
        return
    yield Check("access", True, f"granted; the download is {as_text(size)}")


def _precision(config: RunConfig) -> Check:
    precision = config.training.precision
    device = choose_device()
    if precision == "fp32":
        return Check("precision", True, "fp32 runs anywhere")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return Check("precision", False, f"{precision}: this device has no bf16; use fp32")
    slow = ", slowly" if device.type == "cpu" else ""
    return Check("precision", True, f"{precision} runs on {device.type}{slow}")


def _sizes(subject: _Subject, config: RunConfig) -> Teacher | None:
    """From files where they are complete, else from the catalog; None if neither knows."""
    known, call = subject.known, teacher_call(config.teacher, config.teacher_call)
    if subject.folder is not None and subject.is_complete:
        return _sizes_in(subject.folder, call)
    if known is None:
        return None
    return Teacher(Architecture.of(known, call), known.vae_parameters, known.text_bytes)


def _sizes_in(folder: Path, call: CallArguments) -> Teacher:
    check_folder(folder)
    text = sum(
        stored_numbers(folder / name).total() * dtype.itemsize
        for name, dtype in text_precisions(folder).items()
    )
    return Teacher(
        Architecture.in_folder(folder, call),
        stored_numbers(folder / "vae").total(),
        text,
    )


def _disk(
    subject: _Subject, sizes: Teacher, config: RunConfig, place: Workspace
) -> Iterator[Check]:
    checkpoint, average = checkpoint_bytes(sizes.architecture, config)
    kept = config.schedule.keep_checkpoints + 1  # the one being written
    yield _room(
        "disk for checkpoints",
        place.root,
        kept * checkpoint + average,
        f"{kept} checkpoints of {as_text(checkpoint)}, and the best average",
    )
    if subject.hub_id is not None and not subject.is_complete and subject.known is not None:
        from huggingface_hub.constants import HF_HUB_CACHE

        size = subject.known.download_bytes
        yield _room("disk for weights", Path(HF_HUB_CACHE), size, f"at least {as_text(size)}")


def _room(name: str, folder: Path, size: int, what: str) -> Check:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Check(name, size <= free, f"{what}; {as_text(free)} free at {folder}")


def _loading(sizes: Teacher, device: Device) -> Check:
    """Each rank loads the text encoders, if prompts are not stored yet, and then its roles."""
    return Check(
        "memory to load",
        sizes.text_bytes <= device.memory,
        f"{as_text(sizes.text_bytes)} a rank: the text encoders, gone before anything else is "
        f"loaded; {as_text(device.memory)} usable",
    )


def _memory(memory: Estimate, device: Device, ranks: int) -> Check:
    each = f"on each of {ranks} ranks" if ranks > 1 else "in all"
    return Check(
        "memory to distil",
        memory.total <= device.memory,
        f"{as_text(memory.total)} {each}, during a step; {as_text(device.memory)} usable "
        f"({device.name})",
    )
