"""Figure 4 of tracked runs: their curves in the experiment's order, and the script's options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import RequestError
from workbench.reports.frames import collect_curves, level_frame
from workbench.reports.groups import Group
from workbench.runs.figures import Curves


def tracked_curves(groups: Sequence[Group], experiment: str) -> Curves:
    """The groups' curves, in the order of the experiment's file if it is known."""
    from workbench.registry import find_experiments

    found = find_experiments().experiments.get(experiment)
    order = {name: place for place, name in enumerate(found.variants)} if found else {}
    ordered = sorted(groups, key=lambda group: order.get(group.variant, len(order)))
    return Curves(collect_curves(ordered), level_frame(ordered))


def check_options(options: argparse.Namespace) -> None:
    """Refuses an option that says nothing about the source of the curves.

    Raises:
        RequestError: ``--label`` of tracked runs, or an option of tracked runs with ``--run-dir``.
    """
    of_store = {"experiment", "tracking_uri", "workspace"}
    useless = sorted(options.given & (of_store if options.run_dir else {"label"}))
    if not useless:
        return
    option = f"--{useless[0].replace('_', '-')}"
    if options.run_dir:
        raise RequestError(
            f"{option} is of tracked runs; with --run-dir the numbers come from the runs' folders."
        )
    raise RequestError(f"{option} names the curves of --run-dir; tracked runs have their variants.")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir", nargs="+", type=Path, metavar="DIR", help="these runs instead, in one panel"
    )
    parser.add_argument("--label", nargs="+", default=[], help="one for each --run-dir")
    parser.add_argument(
        "--second",
        metavar="SCORE",
        help="right axis: any score that the runs measured (default: the first that rises)",
    )
