"""Images of several models on the same prompts and noise, for figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RequestError
from workbench.samplers import STUDENT, TEACHER
from workbench.students.models import Drawing, LoadedModel, LoadedStudent, load_model
from workbench.students.pictures import checked_prompts
from workbench.students.sampling import sample_model
from workbench.workspace import Workspace

_ASKED = re.compile(r"((?P<caption>[^=]+)=)?(?P<reference>[^=]+?)(:(?P<steps>\d+))?")


@dataclass(frozen=True)
class Asked:
    """A model and how it is drawn.

    Attributes:
        reference: a run (``RUN@KIMG`` for a checkpoint), an exported student, a teacher.
        steps: None = a student's K, or the most of a teacher's usual ones.
        caption: None = what it is, and its steps.
    """

    reference: str
    steps: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Drawn:
    """Images (B, 3, H, W) in [0, 1] of one model; ``kimg`` of a student."""

    caption: str
    model: str
    steps: int
    kimg: float | None
    images: NDArray[np.float32]


def read_asked(text: str) -> Asked:
    """``[CAPTION=]MODEL[:STEPS]``.

    Raises:
        RequestError: no model in it, or no steps.
    """
    found = _ASKED.fullmatch(text)
    if found is None or found["steps"] == "0":
        raise RequestError(
            f"Expected [CAPTION=]MODEL[:STEPS], as in teacher=sana:50, not {text!r}."
        )
    steps = found["steps"]
    return Asked(found["reference"], None if steps is None else int(steps), found["caption"])


def draw_models(
    workspace: Workspace,
    asked: Sequence[Asked],
    prompts: Sequence[str],
    seed: int = 0,
    *,
    teachers: bool = True,
) -> list[Drawn]:
    """The same prompts and noise by every model: image i is drawn from ``seed`` + i.

    Args:
        teachers: whether the students' teachers come first, at their most steps and at the
            student's K, unless they are among those asked for.

    Raises:
        RequestError: an unknown model, steps that it cannot take, two equal captions.
        WorkbenchError: a run without a whole checkpoint.
    """
    drawing = Drawing(checked_prompts(prompts), 1, seed)
    found: dict[str, Drawn] = {}
    taught: dict[str, LoadedStudent] = {}
    for each in asked:
        model = load_model(workspace, each.reference)
        if isinstance(model, LoadedStudent):
            taught.setdefault(model.taught_by.name, model)
        plain = STUDENT if len(asked) == 1 else _short(each.reference)
        drawn = _draw(model, each, plain, drawing)
        if drawn.caption in found:
            raise RequestError(f"Two models are called {drawn.caption!r}: add CAPTION= to one.")
        found[drawn.caption] = drawn
    names = {drawn.model for drawn in found.values()}
    wanted = [student for name, student in taught.items() if teachers and name not in names]
    first = [
        drawn
        for student in wanted
        for drawn in _of_teacher(workspace, student, drawing, several=len(wanted) > 1)
    ]
    return [*first, *found.values()]


def _draw(model: LoadedModel, asked: Asked, plain: str, drawing: Drawing) -> Drawn:
    steps = asked.steps or model.default_steps[0]
    images = sample_model(model, replace(drawing, steps=steps)).numpy()
    caption = asked.caption or f"{plain}, {steps} step{'s' if steps != 1 else ''}"
    kimg = model.nimg / 1000 if isinstance(model, LoadedStudent) else None
    return Drawn(caption, model.name, steps, kimg, images)


def _of_teacher(
    workspace: Workspace, student: LoadedStudent, drawing: Drawing, *, several: bool
) -> Iterator[Drawn]:
    """The student's teacher at many steps and at K.

    Raises:
        RequestError: what has the teacher's name now is not what the student was distilled from.
    """
    was = student.taught_by
    teacher = load_model(workspace, was.name)
    if teacher.teacher.fingerprint != was.fingerprint:
        raise RequestError(
            f"{student.name} was distilled from another teacher than {was.name} is now; "
            "--no-teacher draws it alone."
        )
    most = max(student.config.evaluation.teacher_steps)
    for steps in dict.fromkeys((most, *student.default_steps)):
        yield _draw(teacher, Asked(was.name, steps), was.name if several else TEACHER, drawing)


def _short(reference: str) -> str:
    return Path(reference).name if Path(reference).is_dir() else reference


def image_arrays(drawn: Sequence[Drawn]) -> Mapping[str, NDArray[Any]]:
    """Caption to images, as grids take them."""
    return {each.caption: each.images for each in drawn}
