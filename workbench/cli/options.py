"""The options that several commands share: each is declared, and explained, once.

The same word means the same everywhere (docs/cli.md). A default that no single value can tell is
told in words by ``show_default``, so that ``--help`` shows all defaults in one way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from workbench.errors import RequestError

PLACES = "Where things are"
OUTPUT = "Output"
WHAT = "What to do it with"
SETTINGS = "Settings"
SAMPLES = "Which samples"
EXECUTION = "How to run it"

Precision = Literal["fp32", "bf16"]
Noise = Literal["fresh", "fixed", "ddim"]


def _tracking_uri(named: str | None) -> str | None:
    """What the command line or the environment says, else workbench.toml."""
    from workbench.user_config import default_tracking_uri

    return named or default_tracking_uri()


WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        metavar="DIR",
        help="Folder of teachers, runs and the tracking store.",
        envvar="WORKBENCH_WORKSPACE",
        show_default="workbench.toml, ./.workbench",
        rich_help_panel=PLACES,
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="Address of the MLflow store.",
        envvar="MLFLOW_TRACKING_URI",
        show_default="workbench.toml, SQLite in the workspace",
        callback=_tracking_uri,
        rich_help_panel=PLACES,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on stdout, and everything else on stderr.",
        rich_help_panel=OUTPUT,
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Port that the server listens on.",
        show_default="5000",
    ),
]
HostOption = Annotated[
    str | None,
    typer.Option(help="Address that the server listens on.", show_default="127.0.0.1"),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting; repeatable.",
        rich_help_panel=SETTINGS,
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(help="Name, folder or hub id of the teacher.", rich_help_panel=SETTINGS),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="Recipe that the settings are taken from.",
        show_default="the teacher's own",
        rich_help_panel=SETTINGS,
    ),
]
SeedListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        metavar="SEED,...",
        help="Seeds of training: one run for each. Comma-separated or repeated.",
        show_default="those registered, 0",
        rich_help_panel=SETTINGS,
    ),
]
NewVersionOption = Annotated[
    bool,
    typer.Option(
        "--new-version",
        help="Begin a new version where the settings changed under their name.",
        rich_help_panel=SETTINGS,
    ),
]
NprocOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Processes on this machine that share the work of one run.",
        rich_help_panel=EXECUTION,
    ),
]

LauncherOption = Annotated[
    Literal["local", "slurm"],
    typer.Option(
        help="Where to run: in processes here, or as Slurm jobs.", rich_help_panel=EXECUTION
    ),
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A setting of the Slurm jobs, or profile=NAME for those of a profile in "
        "workbench.toml; repeatable.",
        show_default="workbench.toml",
        rich_help_panel=EXECUTION,
    ),
]

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A run by the beginning of its name (RUN@KIMG for a checkpoint), an exported folder "
        "or a teacher."
    ),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="A prompt to draw; repeatable.",
        show_default="those that the model's run or recipe shows",
        rich_help_panel=SAMPLES,
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File of prompts: .txt, .jsonl or .parquet.",
        rich_help_panel=SAMPLES,
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Sampling steps of an image.",
        show_default="the student's own, 50 of a teacher",
        rich_help_panel=SAMPLES,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Seed of the noise: image i is drawn from SEED + i.",
        rich_help_panel=SAMPLES,
    ),
]
CfgScaleOption = Annotated[
    float,
    typer.Option(
        help="Guidance scale of a teacher; 1 turns guidance off.", rich_help_panel=SAMPLES
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="Images that are worked on at a time; this changes no result.",
        rich_help_panel=EXECUTION,
    ),
]
WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="File of a metric network's weights; repeatable.",
        show_default="workbench.toml, WORKSPACE/weights",
        rich_help_panel=PLACES,
    ),
]

JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="METRIC",
        help="Metric that sorts and judges: one measured during training, or one that `workbench "
        "evaluate` logged.",
        show_default="what judged the runs themselves",
        rich_help_panel=WHAT,
    ),
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        metavar="VARIANT",
        help="Compare all others with this variant, named before its scores are seen.",
        show_default="the best, which corrects for all pairs",
        rich_help_panel=WHAT,
    ),
]
FinishedOption = Annotated[
    bool, typer.Option("--finished", help="Use only finished runs.", rich_help_panel=WHAT)
]
AllowMixedOption = Annotated[
    bool,
    typer.Option(
        "--allow-mixed",
        help="Compare runs although they were evaluated in different ways.",
        rich_help_panel=WHAT,
    ),
]

MOST_SEEDS = 2**63
"""Seeds of training are below it: what torch's generators and the noise addresses take."""


def split_names(texts: Iterable[str], option: str) -> list[str]:
    """Distinct names, comma-separated or repeated.

    Raises:
        RequestError: there is none.
    """
    parts = (name.strip() for text in texts for name in text.split(","))
    names = list(dict.fromkeys(name for name in parts if name))
    if not names:
        raise RequestError(f"{option} expects comma-separated names.")
    return names


def whole_numbers(
    option: str, texts: Sequence[str] | None, *, least: int = 0, below: int | None = None
) -> list[int] | None:
    """Distinct numbers, comma-separated or repeated; None if the option was not given.

    Raises:
        RequestError: one that is no whole number, below ``least`` or not ``below``.
    """
    if not texts:
        return None
    given = ",".join(texts)
    try:
        found = list(dict.fromkeys(int(part) for part in given.split(",")))
    except ValueError:
        raise RequestError(f"{option} {given}: expected whole numbers as in 4,2,1.") from None
    if min(found) < least:
        raise RequestError(f"{option} {given}: each must be at least {least}.")
    if below is not None and max(found) >= below:
        raise RequestError(f"{option} {given}: each must be below {below}.")
    return found


def parse_seeds(texts: Sequence[str] | None, default: tuple[int, ...] = (0,)) -> tuple[int, ...]:
    """Distinct seeds of ``--seed`` in the order given.

    Raises:
        RequestError: not whole numbers from 0 to 2^63 - 1.
    """
    return tuple(whole_numbers("--seed", texts, below=MOST_SEEDS) or default)


def pairs(form: str, assignments: Sequence[str] | None) -> dict[str, str]:
    """``KEY=VALUE`` texts; ``form`` is how the option is written.

    Raises:
        RequestError: one that is none.
    """
    found = {}
    for text in assignments or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise RequestError(f"Expected {form}, not {text!r}.")
        found[key] = value
    return found


def weight_paths(assignments: Sequence[str] | None) -> dict[str, Path]:
    """Files of ``--weights NAME=PATH``.

    Raises:
        RequestError: one that is none.
    """
    found = pairs("--weights NAME=PATH", assignments)
    return {name: Path(path) for name, path in found.items()}


def with_selectors(
    assignments: list[str] | None, teacher: str | None, recipe: str | None = None
) -> list[str]:
    """The person's changes as assignments.

    Raises:
        RequestError: a key that is given both as an option and by ``--set``.
    """
    changes = list(assignments or [])
    given = [text.partition("=")[0].strip() for text in changes]
    options = {"teacher": teacher, "recipe": recipe}
    for key, value in options.items():
        if value is not None:
            if key in given:
                raise RequestError(
                    f"Two sources for one value: --{key} {value} and --set {key}=...; drop one."
                )
            changes.append(f"{key}={value}")
    return changes
