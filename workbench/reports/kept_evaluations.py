"""Evaluations that ``workbench evaluate`` kept in the workspace, as rows beside runs' tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workbench.evaluation.evaluator import protocol_id
from workbench.reports.groups import SeedRun
from workbench.reports.samples import still_of
from workbench.scoring.external_scores import ExternalFile
from workbench.scoring.kept_scores import ARTIFACTS, scores_folder, short_protocol
from workbench.training.run_folder import RunFolder
from workbench.workspace import Workspace

_NOT_PROTOCOL = ("steps", "id")
_STOCK_CALL = ("resolution", "teacher_guidance")
"""Settings of a run that change its teacher's call; ``workbench evaluate`` has none of them."""


class TeacherCall(NamedTuple):
    """What decides a teacher's images besides steps, noise and machine.

    ``pipeline`` is the fingerprint of the teacher's files; of a student's row, its teacher's.
    """

    cfg_scale: float
    flow_shift: float
    pipeline: str


class KeptRow(NamedTuple):
    """One sampler's scores by name.

    ``seed`` is the evaluation seed. ``protocol`` is what runs have as their tag ``evaluation``;
    ``protocols`` are the scores' own, by name, as the names of logged scores hold them.
    """

    model: str
    reference: str
    steps: int
    nfe: float
    ms_per_image: float
    seed: int
    scores: Mapping[str, float]
    protocol: str
    protocols: Mapping[str, str]
    call: TeacherCall
    file: Path


def kept_rows(workspace: Workspace, kind: str, name: str) -> list[KeptRow]:
    """What was measured of a model, by steps, then by age, the newest last.

    The newest file counts where several measured the same call by the same protocol on the same
    noise.

    Files of other models, or that are no evaluation, are passed over.

    Args:
        kind: ``TEACHER`` or ``STUDENT``.
        name: of the teacher, or "experiment/folder" of a run.
    """
    newest: dict[tuple[int, int, str, TeacherCall], tuple[float, KeptRow]] = {}
    for file in sorted((workspace.root / ARTIFACTS).glob("*/*.json")):
        for row in _rows(file, kind, name):
            key, written = (row.steps, row.seed, row.protocol, row.call), file.stat().st_mtime
            if key not in newest or newest[key][0] < written:
                newest[key] = (written, row)
    found = sorted(newest.values(), key=lambda kept: (kept[1].steps, kept[0]))
    return [row for _, row in found]


def kept_benchmarks(workspace: Workspace, model: str) -> list[ExternalFile]:
    """What was imported of a model, the newest last."""
    files = scores_folder(workspace, model).glob("*.json")
    found = [
        content
        for file in sorted(files, key=lambda file: (file.stat().st_mtime, file.name))
        if (content := ExternalFile.parse(file.read_text(encoding="utf-8"))) is not None
    ]
    return [content for content in found if content.model == model]


def one_call(workspace: Workspace, runs: Sequence[SeedRun]) -> TeacherCall | None:
    """How runs of one teacher sampled it; None where they do not say it alike."""
    calls = {teacher_call(workspace, run) for run in runs} - {None}
    return calls.pop() if len(calls) == 1 else None


def teacher_call(workspace: Workspace, run: SeedRun) -> TeacherCall | None:
    """How a run's own table sampled its teacher.

    None where ``workbench evaluate`` cannot do so (a call of the run's own), or where the run's
    results, which alone say what its teacher's files were, are not in the workspace.
    """
    params, given = run.row.params, Path(run.row.tags.get("folder", ""))
    if not given.name or any(params.get(key, "null") != "null" for key in _STOCK_CALL):
        return None
    folder = still_of(run, workspace.runs / given.parent.name / given.name)
    results = None if folder is None else RunFolder(folder).results()
    pipeline = ((results or {}).get("teacher") or {}).get("fingerprint")
    if pipeline is None:
        return None
    return TeacherCall(
        float(params.get("evaluation.cfg_scale", 1.0)),
        float(params.get("evaluation.teacher_flow_shift", 1.0)),
        pipeline,
    )


def _rows(file: Path, kind: str, name: str) -> Iterator[KeptRow]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if (values["model"], values["name"]) != (kind, name):
            return
        made = values["fingerprint"]
        prints = {name: score["fingerprint"] for name, score in values["scores"].items()}
        by = next(iter(prints.values()))["sampler"]
        yield KeptRow(
            model=name,
            reference=str(values["reference"]),
            steps=int(values["steps"]),
            nfe=float(values["nfe"]),
            ms_per_image=float(values["ms_per_image"]),
            seed=int(made["seed"]),
            scores={name: float(values[name]) for name in prints},
            protocol=protocol_id({k: v for k, v in made.items() if k not in _NOT_PROTOCOL}),
            protocols={name: short_protocol(own["protocol"]) for name, own in prints.items()},
            call=TeacherCall(float(by["cfg_scale"]), float(by["flow_shift"]), by["pipeline"]),
            file=file,
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return
