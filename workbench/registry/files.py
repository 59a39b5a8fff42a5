"""Experiment files: Python or TOML, each found by lying in a folder.

A TOML file holds ``name``, ``question``, ``hypothesis``, a table ``[base]`` of settings for all and
a table ``[variants.NAME]`` for each, over the teacher's recipe; ``[tasks.TASK.base]`` and
``[tasks.TASK.variants.NAME]`` hold what counts for runs of one task alone. ``[space]`` holds what
``workbench studies run`` searches (:mod:`workbench.studies.space_text`), ``[tasks.TASK.space]``
what it searches instead for one task, where learning rates have another scale, say, and
``[study]`` how (:class:`~workbench.studies.StudySettings`). With ``extends`` instead of ``name``
the file adds its variants to an experiment of another file, over that one's base. A Python file
defines ``EXPERIMENT = Experiment(...)``, for what a table cannot say.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from workbench.bundled import experiment_folders, load_module
from workbench.errors import RequestError, unknown_name
from workbench.registry.experiment import Experiment, Part
from workbench.settings import FrozenConfig
from workbench.studies import SearchSpace, StudySettings
from workbench.studies.space_text import read_table
from workbench.training.config import RunConfig
from workbench.training.overrides import flattened
from workbench.training.recipe_files import get_task
from workbench.training.recipes import run_config


@dataclass(frozen=True)
class Problem:
    """A file that gives no experiment, and why; ``name`` is the experiment's, where known."""

    file: Path
    message: str
    name: str | None = None


@dataclass(frozen=True)
class Found:
    """What the folders hold. An experiment that two files define is in neither's name."""

    experiments: Mapping[str, Experiment]
    files: Mapping[str, Path]
    problems: tuple[Problem, ...]


class _Scoped(FrozenConfig):
    """What counts for one task."""

    base: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    space: dict[str, Any] = Field(default_factory=dict)


class _Addition(FrozenConfig):
    """A TOML file's content."""

    name: str | None = None
    extends: str | None = None
    question: str = ""
    hypothesis: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]]
    tasks: dict[str, _Scoped] = Field(default_factory=dict)
    space: dict[str, Any] = Field(default_factory=dict)
    study: dict[str, Any] = Field(default_factory=dict)


def find_experiments() -> Found:
    """Every experiment, and every file that gives none; one bad file hides no other."""
    experiments: dict[str, Experiment] = {}
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    additions: list[tuple[Path, _Addition]] = []
    for file in _files():
        try:
            content = _read(file)
        except RequestError as error:
            problems.append(Problem(file, str(error)))
            continue
        if isinstance(content, _Addition):
            additions.append((file, content))
        elif content.name in files:
            message = f"Experiment {content.name!r} is defined twice, in {files[content.name]} too."
            problems.append(Problem(file, message, content.name))
            experiments.pop(content.name, None)
        else:
            experiments[content.name], files[content.name] = content, file
    for file, addition in additions:
        try:
            extended = _extended(experiments, addition)
        except RequestError as error:
            problems.append(Problem(file, str(error), addition.extends))
        else:
            experiments[extended.name] = extended
    return Found(experiments, files, tuple(problems))


def get_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        RequestError: unknown, defined twice, or one of its files does not load.
    """
    found = find_experiments()
    for problem in found.problems:
        if name in (problem.name, problem.file.stem, problem.file.stem.partition(".")[0]):
            raise RequestError(f"{problem.file}: {problem.message}")
    if name not in found.experiments:
        raise unknown_name("experiment", name, found.experiments)
    return found.experiments[name]


def write_variant(
    folder: Path, experiment: str, variant: str, config: RunConfig, provenance: str
) -> Path:
    """Save a configuration as a variant of an experiment, in a TOML file of its own.

    It holds every setting that differs from the built-in ones, from its teacher's recipe, from the
    experiment's base on that teacher or from another variant.

    Args:
        provenance: where it comes from, for readers of the file: its first lines, as comments.

    Raises:
        RequestError: unknown experiment, or it has such a variant.
    """
    existing = get_experiment(experiment)
    if variant in existing.variants:
        raise RequestError(
            f"{experiment} has a variant {variant!r} already; name another with --variant."
        )
    bare = {**existing.variants, variant: {"teacher": config.teacher}}
    bases = [
        RunConfig().flat(),
        run_config(f"teacher={config.teacher}").flat(),
        replace(existing, variants=bare).variant(variant).flat(),
        *(existing.variant(name).flat() for name in existing.variants),
    ]
    own = {
        key: text
        for key, text in config.flat().items()
        if key not in ("format", "experiment", "variant", "seed")
        and any(base.get(key) != text for base in bases)
    }
    lines = [
        *(f"# {line}" for line in provenance.splitlines()),
        f"extends = {json.dumps(experiment)}",
        "",
        f"[variants.{json.dumps(variant)}]",
        *(f"{json.dumps(key)} = {json.dumps(text)}" for key, text in own.items()),
    ]
    file = folder / f"{experiment}.{variant}.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
    except OSError as error:
        raise RequestError(f"Cannot write {file}: {error.strerror}.") from None
    return file


def _files() -> list[Path]:
    kinds = ("[!_.]*.py", "[!_.]*.toml")
    return [
        file
        for folder in experiment_folders()
        for file in sorted(found for kind in kinds for found in folder.glob(kind))
    ]


def _read(file: Path) -> Experiment | _Addition:
    if file.suffix == ".toml":
        return _read_toml(file)
    try:
        module = load_module(file)
    except RequestError as error:
        raise RequestError(f"{_place(error, file)}{error}") from error
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}"
        raise RequestError(f"does not load: {_place(error, file)}{text}") from error
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise RequestError("defines no EXPERIMENT = Experiment(...).")
    return experiment


def _place(error: BaseException, file: Path) -> str:
    """The file's own line that led to the error, as ``line 12 (`code`): ``."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f"line {frames[-1].lineno} (`{frames[-1].line}`): " if frames else ""


def _read_toml(file: Path) -> Experiment | _Addition:
    import tomllib

    try:
        content = _Addition.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"cannot be read: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{where}: {first['msg']}.") from None
    if (content.name is None) == (content.extends is None):
        raise RequestError("expected either name = ... or extends = ... .")
    if content.name is None:
        _check_extension(content)
        return content
    for task in content.tasks:
        get_task(task)
    parts = {
        task: Part(part.base, part.variants, _space(f"tasks.{task}.space", part.space))
        for task, part in content.tasks.items()
    }
    experiment = Experiment(
        content.name,
        content.question,
        content.hypothesis,
        content.variants,
        content.base,
        parts,
        _space("space", content.space),
        StudySettings().with_changes(content.study) if content.study else None,
    )
    for variant in experiment.variants:
        experiment.resolve(variant)  # what is wrong in the file is told as the file's
    return experiment


def _space(where: str, table: Mapping[str, Any]) -> SearchSpace:
    try:
        return read_table(table)
    except RequestError as error:
        raise RequestError(f"[{where}] {error}") from None


def _check_extension(content: _Addition) -> None:
    for name in ("tasks", "space", "study"):
        if getattr(content, name):
            raise RequestError(
                f"[{name}] is for the file of the experiment {content.extends} itself: one that "
                "extends it adds variants."
            )


def _extended(experiments: Mapping[str, Experiment], addition: _Addition) -> Experiment:
    name = addition.extends or ""
    if name not in experiments:
        raise unknown_name("experiment", name, experiments)
    base = experiments[name]
    shared = flattened(addition.base)
    more = {key: {**shared, **flattened(own)} for key, own in addition.variants.items()}
    for variant in more:
        if variant in base.variants:
            raise RequestError(f"{name} has a variant {variant!r} already.")
    grown = replace(base, variants={**base.variants, **more})
    for variant in more:
        grown.resolve(variant)
    return grown
