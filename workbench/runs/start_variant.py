"""A run that starts where another variant of its experiment, with the same seed, has ended.

An experiment's file says ``start = "variant:NAME"``. Its plan adds the hash of that variant's
settings, ``variant:NAME#HASH``: whatever is changed there changes this variant too, and the run to
start at is found by content, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder, all_runs, run_folder
from workbench.workspace import Workspace

_PREFIX, _HASH = "variant:", "#"


@dataclass(frozen=True)
class StartVariant:
    """Which variant a run starts at; ``hash`` is its ``variant_fingerprint``, once settled."""

    name: str
    hash: str = ""

    @classmethod
    def of(cls, config: RunConfig) -> StartVariant | None:
        """None for a run that starts elsewhere."""
        if config.start is None or not config.start.startswith(_PREFIX):
            return None
        name, _, hash_ = config.start.removeprefix(_PREFIX).partition(_HASH)
        return cls(name, hash_)

    def __str__(self) -> str:
        return f"{_PREFIX}{self.name}{_HASH}{self.hash}"


def starts_at(config: RunConfig, other: RunConfig) -> bool:
    """Whether a run starts where the other one ends."""
    start = StartVariant.of(config)
    return (
        start is not None
        and (config.experiment, start.name, config.seed)
        == (other.experiment, other.variant, other.seed)
        and start.hash == other.variant_fingerprint()
    )


def settle_starts(variants: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """An experiment's variants, with the hash of each variant that another one starts at.

    Raises:
        RequestError: no such variant, or variants that start at each other.
    """
    settled: dict[str, RunConfig] = {}

    def settle(name: str, asking: tuple[str, ...] = ()) -> RunConfig:
        config, path = variants[name], (*asking, name)
        start = StartVariant.of(config)
        if name in settled or start is None:
            return settled.setdefault(name, config)
        if start.name in path:
            raise RequestError(f"Variants start at each other: {' -> '.join((*path, start.name))}.")
        if start.name not in variants:
            raise unknown_name(f"variant that {name} starts at", start.name, variants)
        found = StartVariant(start.name, settle(start.name, path).variant_fingerprint())
        return settled.setdefault(name, config.model_copy(update={"start": str(found)}))

    return {name: settle(name) for name in variants}


def with_starts(variants: Mapping[str, RunConfig], names: Iterable[str]) -> list[str]:
    """The named variants, each after those that it starts at, which join them."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        start = StartVariant.of(variants[name])
        if start is not None:
            add(start.name)
        ordered.setdefault(name)

    for name in names:
        add(name)
    return list(ordered)


def start_reference(workspace: Workspace, config: RunConfig) -> str | None:
    """``config.start`` as a run or folder; of a variant, its finished run in this workspace.

    Raises:
        RequestError: a variant outside an experiment.
        WorkbenchError: that variant's run is not finished here.
    """
    start = StartVariant.of(config)
    if start is None:
        return config.start
    if not start.hash:
        raise RequestError(
            f"start={config.start} is for the variants of an experiment's file: name a run instead."
        )
    run = _run_of(workspace, start, config)
    if run is None or run.results() is None:
        raise WorkbenchError(
            f"This run starts at variant {start.name!r}, seed {config.seed}, which is not finished "
            f"in this workspace: workbench run {config.experiment} --variant {start.name} "
            f"--seed {config.seed}."
        )
    return run.name


def _run_of(workspace: Workspace, start: StartVariant, config: RunConfig) -> RunFolder | None:
    beginning = f"{config.experiment}/{start.name}-seed{config.seed}-"
    for run in all_runs(workspace):
        if run.name.startswith(beginning):
            other = run.config()
            is_current = run_folder(workspace, other).path == run.path  # not set aside by --fresh
            if is_current and starts_at(config, other):
                return run
    return None
