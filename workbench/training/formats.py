"""Configurations of earlier formats: what the absence of a key meant.

``earlier_formats.json`` holds, for each earlier format, the keys that it did not have and what
their absence meant, in all runs or in those of a kind of teacher or of a method; format 1 had no
``format`` key either, and lacked what format 2 lacked. A key that is added from now on gets its
line there, under the newest format that lacked it, and ``RunConfig`` the next number where that
format was written before; one that is renamed gets its earlier name.
Then earlier files still load as what they were, and fingerprints of settings that mean the same
stay the same.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from workbench.teachers.analytic import ANALYTIC

FORMAT = 4

_WHOLE = {"teacher", "prompts", "method", "generator", "training", "schedule", "evaluation"}


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with today's keys: renamed ones, and those that an earlier format lacked.

    Only complete configurations are upgraded: earlier formats always wrote every group.
    """
    changed = copy.deepcopy(dict(values))
    written = changed.get("format", 1)
    if not changed.keys() >= _WHOLE or written not in range(1, FORMAT):
        return changed
    if not all(isinstance(changed[group], dict) for group in _WHOLE - {"teacher"}):
        return changed  # validation says what is wrong
    for now, before in _renamed(changed):
        _rename(changed, before, now)
    if changed["training"].get("precision") == "bf16":  # of all weights; trained ones are fp32 now
        changed["training"]["precision"] = "bf16-mixed"
        changed["evaluation"]["precision"] = "bf16"
    for (*groups, leaf), meaning in _absences(changed, written):
        node: Any = changed
        for group in groups:
            node = node.setdefault(group, {}) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(leaf, meaning)
    if written == 1 and _kind(changed) == "points":  # it learns from no prompts, whatever it names
        changed.get("prompts", {}).update(source=None)
    return {**changed, "format": FORMAT}


def as_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's plain values without those that format 1 implied by absence."""
    kept = copy.deepcopy(dict(values))
    del kept["format"]
    for (*groups, leaf), meaning in _absences(values):
        node = kept
        for group in groups:
            node = node[group]
        if node[leaf] == meaning:
            del node[leaf]
    for now, before in _renamed(values):
        _rename(kept, now, before)
    if kept["prompts"]["source"] is None:
        kept["prompts"]["source"] = _table()["prompts"]
    return kept


def unused_prompts_fingerprint() -> str:
    """Of the prompts that a run names but does not learn from: format 1 always had some.

    Checkpoints of such runs hold it.
    """
    return str(_table()["prompts_fingerprint"])


def shown_in_format_1() -> list[str]:
    """The prompts of the pictures that runs of images logged."""
    return list(_table()["1"]["images"]["evaluation.shown"])


def reference_in_format_1() -> str:
    """What the scores of runs of images were against."""
    return str(_table()["1"]["images"]["evaluation.reference"])


def _absences(values: Mapping[str, Any], written: int = 1) -> Iterator[tuple[list[str], Any]]:
    """Keys that the format ``written`` did not have, and what their absence meant.

    They are listed for all runs, for those of a kind of teacher, and for those of a method.
    """
    kind, method = _kind(values), str(values["method"].get("name"))
    for number in range(written, FORMAT):
        lacked = _table()[str(number)]
        found = {**lacked["all"], **lacked.get(kind, {}), **lacked.get(method, {})}
        for key, meaning in found.items():
            yield key.split("."), meaning


def _renamed(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Today's and the earlier name of settings of the method."""
    yield from _table()["renamed"].get(str(values["method"].get("name")), {}).items()


def _rename(values: dict[str, Any], old: str, new: str) -> None:
    """Give a setting another name in its group, if it is there and the other is not."""
    (*groups, leaf), name = old.split("."), new.rpartition(".")[2]
    node: Any = values
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if isinstance(node, dict) and leaf in node and name not in node:
        node[name] = node.pop(leaf)


def _kind(values: Mapping[str, Any]) -> str:
    recipe = ANALYTIC.get(str(values.get("teacher")))
    if recipe is None:
        return "images"
    return "prompted points" if recipe.prompted else "points"


@cache
def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("earlier_formats.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
