"""workbench recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.cli.common import print_json, print_table
from workbench.cli.options import JsonOption

app = typer.Typer(
    name="recipes",
    no_args_is_help=True,
    help="How teachers are distilled unless told: settings, each with its source.",
)


@app.command("list", epilog="Example:  workbench recipes list")
def list_(json_output: JsonOption = False) -> None:
    """Every recipe: whose it is, its task, and the one GPU that it was made to fit."""
    from workbench.training.recipe_files import all_recipes

    recipes = all_recipes().values()
    if json_output:
        print_json([recipe.model_dump(mode="json", exclude={"settings"}) for recipe in recipes])
        return
    print_table(
        ["recipe", "teachers", "task", "card", "description"],
        [
            [
                recipe.name,
                ", ".join(recipe.teachers) or "-",
                recipe.task or "-",
                f"{recipe.card_gib} GiB" if recipe.card_gib else "-",
                recipe.description,
            ]
            for recipe in recipes
        ],
    )


@app.command(epilog="Example:  workbench recipes show sana-0.6b-512 --method dmd2")
def show(
    name: Annotated[str, typer.Argument(help="A recipe by name.")],
    method: Annotated[
        str, typer.Option(help="Distillation method that the settings are for.")
    ] = "sid",
    json_output: JsonOption = False,
) -> None:
    """Every setting of a recipe and its task, and who says so.

    What is not listed is built in, or the experiment's.
    """
    from workbench.training.recipe_files import get_recipe, get_task
    from workbench.training.recipes import Foundation

    recipe = get_recipe(name)
    task = get_task(recipe.task) if recipe.task else None
    settings = Foundation("", recipe, task, own=True).settings(method)
    if json_output:
        print_json(
            {
                **recipe.model_dump(mode="json", exclude={"settings"}),
                "method": method,
                "settings": {
                    key: {"value": value, "source": source}
                    for key, (value, source) in settings.items()
                },
            }
        )
        return
    typer.echo(f"{recipe.description}\n")
    rows, last = [], ""
    for key, (value, source) in settings.items():
        rows.append([key, value, "" if source == last else source])
        last = source
    print_table(["setting", "value", "source"], rows)
