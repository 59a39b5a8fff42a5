"""How figures and their numbers are saved: whole, and the same bytes for the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError, unknown_name
from workbench.plotting.style import paper_style
from workbench.workspace import written_aside

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# What matplotlib would stamp into a file beside the drawing: dates and its own version.
_NO_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(_NO_METADATA)


def check_formats(names: Sequence[str]) -> None:
    """Refuses formats that no figure can be saved in.

    Raises:
        RequestError: an unknown format.
    """
    for name in names:
        if name not in FORMATS:
            raise unknown_name("figure format", name, FORMATS)


def save_figure(
    figure: Figure, path_stem: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write ``path_stem`` + "." + format for each format; equal figures give equal bytes.

    Raises:
        RequestError: an unknown format, or a file that cannot be written.
    """
    check_formats(formats)
    written = []
    with paper_style():
        for name in formats:

            def save(partial: Path, name: str = name) -> None:
                figure.savefig(partial, format=name, metadata=_NO_METADATA[name])

            written.append(_whole(path_stem.with_name(f"{path_stem.name}.{name}"), save))
    return written


def save_frame(frame: pd.DataFrame, path: Path) -> Path:
    """Write the numbers behind a figure as CSV, every float in full.

    Raises:
        RequestError: a file that cannot be written.
    """
    return _whole(path, lambda partial: frame.to_csv(partial, index=False, lineterminator="\n"))


def save_text(text: str, path: Path) -> Path:
    """Write a text.

    Raises:
        RequestError: a file that cannot be written.
    """
    return _whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Written aside and renamed: nobody ever sees half a file."""
    try:
        with written_aside(path) as partial:
            write(partial)
    except OSError as error:
        raise RequestError(f"Cannot write {path}: {error.strerror or error}.") from None
    return path
