"""One dialect: the same word means the same everywhere, and ``--help`` shows it in one way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from workbench.cli.main import app
from workbench.cli.old_spellings import _GROUPS, _OPTIONS
from workbench.cli.options import parse_seeds
from workbench.errors import RequestError

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option"
]


@pytest.mark.parametrize(
    ("name", "option"), OPTIONS, ids=[f"{name} {option.opts[0]}" for name, option in OPTIONS]
)
def test_option(name: str, option: Any) -> None:
    """Spelt as the dialect has it, explained by a sentence, its default not in the text."""
    assert not {opt.removeprefix("--") for opt in option.opts} & set(_OPTIONS)
    assert re.match(r"[A-Z\d]", option.help)
    assert option.help.endswith((".", ")"))
    assert "(default" not in option.help
    words = [opt for opt in option.opts if opt.startswith("--")]
    assert all(re.search(f"`{word}[` ]", DOCS) for word in words if shared(word)), words


def shared(word: str) -> bool:
    return sum(word in option.opts for _, option in OPTIONS) > 2


def test_groups_are_plural() -> None:
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    assert groups == {
        *("benchmarks", "experiments", "recipes", "references", "runs", "studies", "teachers")
    }
    assert set(_GROUPS.values()) <= groups


def test_old_spellings_work_with_one_note(workbench) -> None:
    told = workbench("study", "run", "nothing", "--seeds", "0", "--seeds=1", code=2).stderr
    assert told.splitlines() == [
        "`study` is now `studies`: the old spelling works in this version only.",
        "`--seeds` is now `--seed`: the old spelling works in this version only.",
        told.splitlines()[-1],
    ]
    assert told.splitlines()[-1].startswith("Error: Unknown experiment 'nothing'")
    assert "--seeds" not in workbench("run", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "quickstart", "--launcher", "slrum"], "is not one of 'local', 'slurm'. Did you"),
        (["evaluate", "x", "--precision", "bf15"], "Did you mean 'bf16'?"),
        (["sample", "x", "--noise", "fresj"], "Did you mean 'fresh'?"),
        (["sample", "x", "--files", "--format", "pgn"], "Did you mean 'png'?"),
        (["figures", "--format", "pngg"], "Did you mean 'png'?"),
        (["figures", "--style", "papr"], "Did you mean 'paper'?"),
        (["evaluate", "x", "--metric", "fdi"], "Did you mean 'fid'?"),
        (["run", "quickstart", "--sed", "1"], "--sed"),
        (["rnu"], "No such command 'rnu'"),
        (["runs", "list", "--workspace", "/nowhere/at/all"], "There is no workspace at /nowhere"),
    ],
)
def test_wrong_values_are_one_line(workbench, arguments: list[str], said: str) -> None:
    told = workbench(*arguments, code=2).stderr
    assert said in told
    assert told.startswith("Error: ")
    assert told.count("\n") == 1


def test_seeds_are_comma_separated_or_repeated() -> None:
    assert parse_seeds(["0,2", "1", "2"]) == (0, 2, 1)
    assert parse_seeds(None, (7,)) == parse_seeds([], (7,)) == (7,)
    for wrong in ("a", "-1", str(2**63), ""):
        with pytest.raises(RequestError, match="--seed"):
            parse_seeds([wrong])
