"""What every analysis script shares: its options, how it fails, and how its files are written.

A script is ``collect(...) -> DataFrame``, ``plot(frame, ...) -> Figure``, and

    SCRIPT = Script("t_range", __doc__, draw, experiment="t_range")
    main = SCRIPT.main

where ``draw`` takes the parsed options and returns a :class:`Drawing`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.errors import WorkbenchError
from workbench.plotting.files import (
    FORMATS,
    check_formats,
    save_figure,
    save_frame,
    save_text,
)
from workbench.plotting.style import STYLES, use_style
from workbench.user_config import FILE_NAME, TRACKING_VARIABLE, default_tracking_uri

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from workbench.workspace import Workspace


@dataclass(frozen=True)
class Drawing:
    """What a script made; its keys are added to the stem of ``--out`` ("" for the main file).

    Attributes:
        figures: written in every format asked for.
        frames: the numbers behind the figures, written as CSV with ``--csv``.
        texts: key with suffix (".md", "_1.tex") -> text, always written.
        printed: for stdout, before the paths.
        notes: one line each for stderr: what was left out, cut or found.
    """

    figures: Mapping[str, Figure] = field(default_factory=dict)
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    printed: str = ""
    notes: tuple[str, ...] = ()


class Written(NamedTuple):
    """What a script wrote, and has to say."""

    files: tuple[Path, ...]
    printed: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """A figure or table that a person can ask for by a command.

    Attributes:
        name: of the files, unless ``--out`` says otherwise.
        doc: the script's own docstring, shown by ``--help``.
        draw: parsed options -> what to write; figures get the style asked for. ``options.given``
            are the names of those that the command line held.
        experiment: whose runs it draws unless ``--experiment`` names others, for scripts of tracked
            runs; None where a script has no such option or declares its own.
        also: other experiments that it draws in the same way.
        add_options: adds the script's own options.
        lacks: why it cannot be run in a workspace without options of its own, or None if it can;
            for scripts whose input is no experiment.
        any_experiment: its own ``--experiment`` takes every experiment alike.
        places: the options that say where its input is.
    """

    name: str
    doc: str | None
    draw: Callable[[argparse.Namespace], Drawing]
    experiment: str | None = None
    also: tuple[str, ...] = ()
    add_options: Callable[[argparse.ArgumentParser], object] | None = None
    lacks: Callable[[Workspace], str | None] | None = None
    any_experiment: bool = False
    places: tuple[str, ...] = ("workspace", "tracking-uri")

    def parser(self) -> argparse.ArgumentParser:
        """The shared options and the script's own."""
        parser = argparse.ArgumentParser(
            prog=f"{self.name}.py",
            description=self.doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if self.experiment is not None:
            parser.add_argument(
                "--experiment",
                default=self.experiment,
                metavar="NAME",
                help="experiment whose tracked runs are drawn (default: %(default)s)",
            )
        if self.add_options is not None:
            self.add_options(parser)
        add_shared_options(parser, self.name, self.places)
        return parser

    def run(self, arguments: Sequence[str] | None = None) -> Written:
        """Draw and write everything asked for.

        Raises:
            RequestError: what was asked for does not exist, or a file cannot be written.
            WorkbenchError: the tracking store does not answer.
        """
        options = self.parser().parse_args(arguments)
        options.given = self._given(options, arguments)
        formats = options.format.split(",")
        check_formats(formats)
        with use_style(options.style):
            drawing = self.draw(options)
            files = _save(drawing, options.out, formats, csv=options.csv)
        return Written(tuple(files), drawing.printed, drawing.notes)

    def _given(
        self, options: argparse.Namespace, arguments: Sequence[str] | None
    ) -> frozenset[str]:
        """The options that were named: what takes the place of a value that is there before."""
        before = object()
        known = argparse.Namespace(**dict.fromkeys(vars(options), before))
        named = vars(self.parser().parse_args(arguments, known)).items()
        return frozenset(name for name, value in named if value is not before)

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The command: the files' paths on stdout, notes on stderr.

        Raises:
            SystemExit: what went wrong, in one line on stderr, and its exit code.
        """
        try:
            written = self.run(arguments)
        except WorkbenchError as error:
            self.parser().exit(error.exit_code, f"{error}\n")
        if written.printed:
            print(written.printed)
        for path in written.files:
            print(path)
        for note in written.notes:
            print(note, file=sys.stderr)
        return 0


def add_shared_options(
    parser: argparse.ArgumentParser,
    name: str,
    places: Sequence[str],
) -> None:
    """``--out --format --csv --style``, the same for every script, and where its input is."""
    group = parser.add_argument_group("what every script takes")
    group.add_argument(
        "--out", type=Path, default=Path(name), metavar="STEM", help="path without suffix"
    )
    group.add_argument("--format", default="png,svg", help=f"any of {','.join(FORMATS)}")
    group.add_argument("--csv", action="store_true", help="also write the numbers as CSV")
    group.add_argument(
        "--style",
        default="paper",
        choices=sorted(STYLES),
        help="paper: at least 7 points at printed size; screen: larger",
    )
    if "workspace" in places:
        group.add_argument(
            "--workspace",
            type=Path,
            default=None,
            metavar="DIR",
            help=f"(default: $WORKBENCH_WORKSPACE, {FILE_NAME}, ./.workbench)",
        )
    if "tracking-uri" in places:
        group.add_argument(
            "--tracking-uri",
            default=default_tracking_uri(),
            metavar="URI",
            help=f"MLflow store (default: ${TRACKING_VARIABLE}, {FILE_NAME}, the workspace's own)",
        )


def _save(drawing: Drawing, out: Path, formats: Sequence[str], *, csv: bool) -> list[Path]:
    def stem(key: str) -> Path:
        return out.with_name(f"{out.name}{key}")

    files: list[Path] = []
    for key, figure in drawing.figures.items():
        files += save_figure(figure, stem(key), formats)
    for key, text in drawing.texts.items():
        files.append(save_text(text, stem(key)))
    if csv:
        files += [save_frame(frame, stem(f"{key}.csv")) for key, frame in drawing.frames.items()]
    return files
