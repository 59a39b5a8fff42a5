"""Names for the shell to complete: read from files, without torch, in a fraction of a second.

Whatever goes wrong gives no names: a shell must not print a traceback into a half-typed command.
"""

from __future__ import annotations

import sqlite3
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.models import ParameterInfo

_TEACHERS = (
    "analytic-ring-8",
    "analytic-ring-10-prompted",
    "analytic-unequal",
    "analytic-anisotropic",
    "sana-0.6b-512",
    "sana-1.6b-512",
    "sana-1.6b-1024",
    "sana-sprint-0.6b",
    "sana-sprint-1.6b",
    "sd3-medium",
    "sd3.5-medium",
    "sd3.5-large",
    "flux.1-dev-512",
    "flux.1-dev-1024",
)
"""Teachers that no file of ours defines; the catalog itself would load torch."""

Completer = Callable[[typer.Context, str], list[str]]


def _quiet(names: Callable[[typer.Context], Iterable[str]]) -> Completer:
    """The names that begin with what is typed, in order; none where they cannot be had.

    In a list that is separated by commas, those that continue it.
    """

    @wraps(names)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            before, comma, last = incomplete.rpartition(",")
            fitting = {name for name in names(ctx) if name.startswith(last)}
            return [f"{before}{comma}{name}" for name in sorted(fitting)]
        except Exception:
            return []

    # Typer tells arguments apart by their annotations, which `wraps` would hide.
    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    del complete.__wrapped__
    return complete


@_quiet
def experiments(ctx: typer.Context) -> Iterable[str]:
    """Experiments by their files; a Python file's is taken to be named as the file."""
    return [
        str(table.get("name", file.stem))
        for file, table in _experiment_files()
        if "extends" not in table
    ]


@_quiet
def variants(ctx: typer.Context) -> Iterable[str]:
    """Variants of the experiment that was named before, else of all."""
    given = ctx.params.get("experiment") or ctx.params.get("name")
    wanted = {given} if isinstance(given, str) else set(given or ())
    return [
        name
        for file, table in _experiment_files()
        if not wanted or wanted & {table.get("name"), table.get("extends"), file.stem}
        for name in table.get("variants", {})
    ]


@_quiet
def runs(ctx: typer.Context) -> Iterable[str]:
    """Runs of the workspace."""
    files = (_workspace(ctx) / "runs").glob("*/*/config.json")
    return [f"{file.parent.parent.name}/{file.parent.name}" for file in files]


@_quiet
def teachers(ctx: typer.Context) -> Iterable[str]:
    """Teachers that are known by name."""
    from workbench.bundled import bundled_folder

    built_here = (bundled_folder("experiments") / "teachers").glob("*.toml")
    return [*_TEACHERS, *(file.stem for file in built_here)]


@_quiet
def recipes(ctx: typer.Context) -> Iterable[str]:
    """Recipes, bundled and own."""
    from workbench.bundled import experiment_files

    return experiment_files("recipes", ".toml")


@_quiet
def metrics(ctx: typer.Context) -> Iterable[str]:
    """Metrics by name."""
    from workbench.metrics import METRICS

    return METRICS


@_quiet
def references(ctx: typer.Context) -> Iterable[str]:
    """References of the workspace, and those that tasks name."""
    from workbench.bundled import experiment_files

    built = (_workspace(ctx) / "references").glob("*/reference.json")
    files = experiment_files("tasks", ".toml").values()
    parts = [part for file in files for part in tomllib.loads(file.read_text())["settings"]]
    named = [part.get("evaluation", {}).get("reference") for part in parts]
    return {*filter(None, named), *(file.parent.name for file in built)}


@_quiet
def studies(ctx: typer.Context) -> Iterable[str]:
    """Studies in the workspace's own storage."""
    file = (_workspace(ctx) / "optuna.db").resolve(strict=True)
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=0.2)
    try:
        return [str(name) for (name,) in connection.execute("SELECT study_name FROM studies")]
    finally:
        connection.close()


@_quiet
def models(ctx: typer.Context) -> Iterable[str]:
    """Runs and teachers: what can be sampled."""
    return [*runs(ctx, ""), *teachers(ctx, "")]


@_quiet
def compared(ctx: typer.Context) -> Iterable[str]:
    """Experiments and runs."""
    return [*experiments(ctx, ""), *runs(ctx, "")]


@_quiet
def columns(ctx: typer.Context) -> Iterable[str]:
    """What runs can be sorted by."""
    from workbench.metrics import METRICS
    from workbench.runs.listing import COLUMNS

    names = [*COLUMNS, "score", "best", *METRICS]
    return [*names, *(f"-{name}" for name in names)]


_BY_NAME: Mapping[str, Completer] = {
    "against": variants,
    "experiment": experiments,
    "first": runs,
    "metric": metrics,
    "metrics": metrics,
    "model": models,
    "recipe": recipes,
    "reference": references,
    "references": references,
    "run": runs,
    "runs": runs,
    "second": runs,
    "sort": columns,
    "study": studies,
    "teacher": teachers,
    "variant": variants,
}
"""Parameter -> what completes it, in whichever command: a word means the same everywhere."""

_NAMED: Mapping[str, Completer] = {
    "compare": compared,
    "experiments": experiments,
    "recipes": recipes,
    "references": references,
    "report": experiments,
    "teachers": teachers,
}
"""Command or group -> what completes its ``NAME``."""

_NAMES = ("name", "names", "references")


def attach(app: typer.Typer, group: str | None = None) -> None:
    """Give every parameter the completion of its name."""
    for command in app.registered_commands:
        callback = command.callback
        if callback is None:
            continue
        own = _NAMED.get(group or command.name or callback.__name__)
        by_name = _BY_NAME if own is None else {**_BY_NAME, **dict.fromkeys(_NAMES, own)}
        # Resolved once and kept: an annotation that is text gives another object each time.
        callback.__annotations__ = get_type_hints(callback, include_extras=True)
        for name, hint in callback.__annotations__.items():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, ParameterInfo) and name in by_name:
                    info.autocompletion = by_name[name]
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            attach(inner.typer_instance, inner.name or inner.typer_instance.info.name)


def _experiment_files() -> Iterable[tuple[Path, dict[str, Any]]]:
    from workbench.bundled import experiment_folders

    for folder in experiment_folders():
        for file in folder.glob("[!_.]*"):
            if file.suffix == ".toml":
                yield file, tomllib.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".py":
                yield file, {}


def _workspace(ctx: typer.Context) -> Path:
    """Where commands would find it, without making it."""
    from workbench.workspace import open_workspace

    given = ctx.params.get("workspace")
    return open_workspace(Path(given) if given else None, create=False).root
