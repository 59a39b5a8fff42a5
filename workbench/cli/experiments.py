"""workbench experiments."""

from __future__ import annotations

import typer

from workbench.cli.common import JsonOption, print_json, print_table

app = typer.Typer(name="experiments", no_args_is_help=True, help="What can be run.")


@app.command("list", epilog="Example:  workbench experiments list")
def list_(json_output: JsonOption = False) -> None:
    """Every experiment with its question and variants."""
    from workbench.registry import load_experiments

    experiments = load_experiments().values()
    if json_output:
        print_json(
            [
                {
                    "name": e.name,
                    "question": e.question,
                    "hypothesis": e.hypothesis,
                    "variants": list(e.variants),
                }
                for e in experiments
            ]
        )
        return
    print_table(
        ["experiment", "question", "variants"],
        [[e.name, e.question, ", ".join(e.variants)] for e in experiments],
    )
