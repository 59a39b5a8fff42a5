"""Figures 1 and 5: the same prompts and noise by several models, one row a model."""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import NoRunsError, RequestError
from workbench.plotting import TEXT_WIDTH
from workbench.plotting.image_rows import image_rows
from workbench.training.run_folder import RunFolder, all_runs
from workbench.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from workbench.reports.drawn_images import Asked

Rows = Mapping[str, NDArray[Any]]
"""Caption to images (B, 3, H, W) in [0, 1]."""


def collect(rows: Rows, prompts: Sequence[str] = ()) -> pd.DataFrame:
    """What is shown: caption, column, prompt, and a hash of each image's numbers."""
    import pandas as pd

    shown = [
        (caption, column, prompts[column] if prompts else "", _hash(image))
        for caption, images in rows.items()
        for column, image in enumerate(images)
    ]
    return pd.DataFrame(shown, columns=["caption", "column", "prompt", "sha256"])


def _hash(image: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.float32).tobytes()).hexdigest()


def plot(
    rows: Rows,
    prompts: Sequence[str] = (),
    *,
    width: float = TEXT_WIDTH,
    interpolation: str = "nearest",
) -> Figure:
    """Grid of images: rows captioned by model, columns by prompt; see ``image_rows``."""
    return image_rows(rows, prompts, width=width, interpolation=interpolation).figure


def read_row(argument: str) -> tuple[str, NDArray[Any], list[str]]:
    """``caption=file.npz`` to caption, images and prompts.

    Raises:
        RequestError: no caption, no such file, or no images in it.
    """
    caption, separator, file = argument.partition("=")
    if not separator or not Path(file).is_file():
        raise RequestError(f"Expected CAPTION=FILE.npz with an existing file, not {argument!r}.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            prompts = [str(p) for p in arrays["prompts"]] if "prompts" in arrays else []
            return caption, arrays["images"], prompts
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise RequestError(f"{file} holds no array 'images': {error}.") from error


def rows_asked_for(options: argparse.Namespace) -> tuple[Rows, Sequence[str]]:
    """The images of the files or of the models that the options name, and the prompts.

    Raises:
        RequestError: both or neither are named, or an option that is of the other.
        WorkbenchError: a run without a whole checkpoint.
    """
    if options.rows and options.model:
        raise RequestError(
            "Name models with --model, or files as CAPTION=FILE.npz: one of the two."
        )
    return _of_files(options) if options.rows else _of_models(options)


def newest_run(workspace: Workspace) -> RunFolder | None:
    """The newest finished run of images whose checkpoints are still there; None without one."""
    found = [run for run in all_runs(workspace) if _has_images(run)]
    return max(found, key=lambda run: run.results_file.stat().st_mtime, default=None)


def _has_images(run: RunFolder) -> bool:
    from workbench.teachers.analytic import ANALYTIC, is_analytic

    teacher = str(json.loads(run.config_file.read_text(encoding="utf-8")).get("teacher"))
    if teacher in ANALYTIC or is_analytic(Path(teacher)):
        return False
    return run.results_file.exists() and any(run.checkpoints.glob("*"))


def _of_files(options: argparse.Namespace) -> tuple[Rows, Sequence[str]]:
    given = {
        "--prompt": bool(options.prompt),
        "--seed": options.seed is not None,
        "--no-teacher": options.no_teacher,
    }
    useless = [option for option, there in given.items() if there]
    if useless:
        raise RequestError(f"{useless[0]} is of what --model draws; files are shown as they are.")
    read = [read_row(argument) for argument in options.rows]
    rows: dict[str, NDArray[Any]] = {}
    for caption, images, _ in read:
        if caption in rows:
            raise RequestError(f"Two files are called {caption!r}: give each its own CAPTION.")
        rows[caption] = images
    return rows, read[0][2]


def _of_models(options: argparse.Namespace) -> tuple[Rows, Sequence[str]]:
    from workbench.reports.drawn_images import draw_models, image_arrays, read_asked
    from workbench.students.models import load_model, shown_prompts

    workspace = open_workspace(options.workspace, create=False)
    asked = [read_asked(text) for text in options.model] or [_default(workspace)]
    prompts = options.prompt or shown_prompts(load_model(workspace, asked[0].reference))
    teachers = not options.no_teacher
    drawn = draw_models(workspace, asked, prompts, options.seed or 0, teachers=teachers)
    return image_arrays(drawn), prompts


def _default(workspace: Workspace) -> Asked:
    from workbench.reports.drawn_images import Asked

    run = newest_run(workspace)
    if run is None:
        raise NoRunsError(
            f"{workspace.root} has no finished run to draw: name models with --model, or files as "
            "CAPTION=FILE.npz."
        )
    return Asked(run.name)


def lacking(workspace: Workspace) -> str | None:
    """Why there is nothing to draw unless it is named; None where there is."""
    return None if newest_run(workspace) else "the workspace has no finished run with checkpoints"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", metavar="CAPTION=FILE.npz")
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="[CAPTION=]MODEL[:STEPS]",
        help="(default: the workspace's newest finished run)",
    )
    parser.add_argument(
        "--prompt",
        nargs="+",
        default=[],
        help="one a column (default: those that the first model shows)",
    )
    parser.add_argument("--seed", type=int, help="of the first column's noise (default: 0)")
    parser.add_argument("--no-teacher", action="store_true", help="only the models named")
