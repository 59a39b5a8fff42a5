"""The command line: one module a command group, heavy packages imported inside commands."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from workbench import __version__
from workbench.cli import (
    benchmarks,
    compare,
    completion,
    evaluate,
    experiments,
    export,
    figures,
    recipes,
    references,
    report,
    run,
    runs,
    sample,
    study,
    system,
    teachers,
)
from workbench.cli.common import print_error
from workbench.cli.old_spellings import OldSpellings
from workbench.errors import WorkbenchError, nearest_name

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(
    epilog="Example:  workbench run quickstart  |  Exit codes: 0 done, 1 failed, 2 wrong request"
)
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Distil flow-matching teachers into few-step generators, and find out why a recipe works."""


for _module in (run, compare, report, figures, evaluate, sample, export):
    _module.register(app)
for _module in (teachers, recipes, references, runs, experiments, benchmarks, study):
    app.add_typer(_module.app)
system.register(app)
completion.attach(app)


def run_cli() -> None:
    """Entry point: one command, also where torchrun or srun started it in several processes."""
    from workbench.training.world import run_in_world

    run_in_world(_run, print_error)


def _run() -> None:
    """Every error of a request is one line, and has its exit code."""
    try:
        code = app(standalone_mode=False, token_normalize_func=OldSpellings())
    except WorkbenchError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except TyperException as error:  # a word of the command line is wrong
        if message := error.format_message():  # none: help was asked for, and shown
            print_error(_with_nearest(message))
        sys.exit(error.exit_code)
    except typer.Abort:
        print_error("Nothing was done: the question was not answered with yes.")
        sys.exit(1)
    except KeyboardInterrupt:
        print_error("Interrupted.")
        sys.exit(1)
    sys.exit(code)


_NOT_ONE_OF = re.compile(r"'(?P<given>[^']*)' is not one of (?P<known>'.*')\.$")


def _with_nearest(message: str) -> str:
    """With the choice that was probably meant."""
    wrong = _NOT_ONE_OF.search(message)
    if wrong is None:
        return message
    known = re.findall("'([^']*)'", wrong["known"])
    return f"{message[:-1]}{nearest_name(wrong['given'], known)}"
