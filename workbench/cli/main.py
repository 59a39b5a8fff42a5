"""The command line: one module a command group, heavy packages imported inside commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from workbench import __version__
from workbench.cli import (
    compare,
    completion,
    evaluate,
    experiments,
    export,
    external,
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
from workbench.errors import WorkbenchError

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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Distil flow-matching teachers into few-step generators, and find out why a recipe works."""


for _module in (run, compare, report, figures, evaluate, sample, export):
    _module.register(app)
for _module in (teachers, recipes, references, runs, experiments, external, study):
    app.add_typer(_module.app)
system.register(app)
completion.attach(app)


def run_cli() -> None:
    """Entry point: one command, also where torchrun or srun started it in several processes."""
    from workbench.training.world import run_in_world

    run_in_world(_run, print_error)


def _run() -> None:
    """WorkbenchErrors become one line and their exit code."""
    try:
        app()
    except WorkbenchError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error("Interrupted.")
        sys.exit(1)
