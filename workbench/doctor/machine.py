"""Can this machine run the workbench? Each finding says what to do if not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.evaluation.networks.weights import configured_weights
from workbench.launching.slurm import slurm_settings
from workbench.teachers.catalog import default_teacher
from workbench.tracking import check_store, default_artifact_root, default_uri, redact
from workbench.user_config import PROFILES, find_user_config, load_user_config
from workbench.workspace import Workspace, open_workspace

_PACKAGES = ("torch", "diffusers", "transformers", "mlflow", "optuna")
_LEAST_DISK_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    passed: bool
    finding: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def run_checks(workspace: Path | None, tracking_uri: str | None) -> list[Check]:
    """Everything that a run needs, checked by using it.

    Raises:
        RequestError: the workspace itself cannot be opened.
    """
    place = open_workspace(workspace)
    return list(_checks(place, tracking_uri))


def _checks(place: Workspace, tracking_uri: str | None) -> Iterator[Check]:
    yield Check("versions", True, ", ".join(f"{p} {metadata.version(p)}" for p in _PACKAGES))
    yield _attempt("device", _device)
    yield _attempt("image operators", _image_operators)
    free = shutil.disk_usage(place.root).free / 2**30
    enough = free >= _LEAST_DISK_GIB
    advice = "" if enough else f"; at least {_LEAST_DISK_GIB:g} GiB are needed"
    yield Check("disk", enough, f"{free:.1f} GiB free at {place.root}{advice}")
    yield _attempt("workbench.toml", lambda: _user_config(place, tracking_uri))
    yield _attempt("tracking store", lambda: _store(place, tracking_uri))
    yield _attempt("teachers", lambda: _teachers(place))


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except (WorkbenchError, OSError, RuntimeError, ImportError) as error:
        return Check(name, False, str(error).splitlines()[0])


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        index = torch.cuda.current_device()
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32 only"
        return f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB, {precision}"
    return (
        f"CPU, {os.cpu_count()} cores ({torch.get_num_threads()} threads): fit for the tiny teacher"
    )


def _image_operators() -> str:
    from workbench.teachers._torchvision import prepare_torchvision

    if find_spec("torchvision") is None:
        return "torchvision is not installed; Inception and CLIP need it: install workbench again"
    prepare_torchvision()
    import torchvision

    return f"torchvision {torchvision.__version__} imports"


def _store(place: Workspace, tracking_uri: str | None) -> str:
    own = tracking_uri is None
    uri = tracking_uri or default_uri(place.root)
    check_store(uri, default_artifact_root(place.root) if own else None)
    return f"{redact(uri)} answers"


def _user_config(place: Workspace, tracking_uri: str | None) -> str:
    """Which file counts, what comes from it, and what an option or the environment overrides.

    Raises:
        RequestError: anything in the file that is wrong, its Slurm settings included.
    """
    file, config = find_user_config(), load_user_config()
    if file is None:
        return "none here or above"
    for profile in (None, *config.slurm.get(PROFILES, {})):
        slurm_settings([] if profile is None else [f"profile={profile}"])
    used = {"workspace": place.root, "tracking_uri": tracking_uri}
    told = []
    for key, value in used.items():
        if (own := getattr(config, key)) is not None:
            told.append(key if own == value else f"{key} (overridden)")
    told += [f"weights of {name}" for name in configured_weights()]
    told += [f"slurm.{key}" for key in config.slurm if key != PROFILES]
    told += [f"Slurm profile {name}" for name in config.slurm.get(PROFILES, {})]
    return f"{file}: {', '.join(told) or 'empty'}"


def _teachers(place: Workspace) -> str:
    built = [folder.name for folder in sorted(place.teachers.glob("*")) if folder.is_dir()]
    return (
        ", ".join(built) if built else f"none built yet; the first run builds {default_teacher()}"
    )
