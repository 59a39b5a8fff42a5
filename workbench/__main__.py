"""python -m workbench."""

from workbench.cli.main import run_cli

run_cli()
