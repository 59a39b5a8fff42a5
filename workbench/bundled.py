"""The project's files that are not code of the package: experiments and analysis scripts."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from workbench.errors import RequestError, WorkbenchError

EXPERIMENTS_VARIABLE = "WORKBENCH_EXPERIMENTS"
_PACKAGE = Path(__file__).resolve().parent


def bundled_folder(name: str) -> Path:
    """``experiments`` or ``analysis``: beside the package in a checkout, inside an installed one.

    Raises:
        WorkbenchError: neither place has it.
    """
    for folder in (_PACKAGE.parent / name, _PACKAGE / "_bundled" / name):
        if folder.is_dir():
            return folder
    raise WorkbenchError(f"The folder {name!r} is missing from this installation.")


def experiment_folders() -> list[Path]:
    """Where experiments, recipes, tasks and prompts are: bundled, then $WORKBENCH_EXPERIMENTS.

    Raises:
        RequestError: a folder of the variable does not exist.
    """
    text = os.environ.get(EXPERIMENTS_VARIABLE, "")
    own = [Path(part).expanduser() for part in text.split(os.pathsep) if part]
    for folder in own:
        if not folder.is_dir():
            raise RequestError(f"{EXPERIMENTS_VARIABLE} names {folder}, which is no folder.")
    return [bundled_folder("experiments"), *own]


def experiment_files(kind: str, ending: str) -> dict[str, Path]:
    """Name -> file of a kind; a person's own counts where the bundled ones have one of its name.

    Args:
        kind: the folder below each of :func:`experiment_folders`; recipes, for example.
        ending: of the files' names, with its dot.
    """
    return {
        file.stem: file
        for folder in experiment_folders()
        for file in sorted((folder / kind).glob(f"*{ending}"))
    }


def load_module(file: Path) -> ModuleType:
    """A Python file as a module, without putting its folder on the import path.

    Raises:
        ImportError: not a Python file; whatever the file itself raises.
    """
    spec = importlib.util.spec_from_file_location(f"workbench_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    spec.loader.exec_module(module)
    return module
