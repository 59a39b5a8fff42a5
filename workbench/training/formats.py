"""Configurations of earlier formats: what they meant by what they did not say.

Format 1 had no ``format`` key, and none of the keys in ``format_1.json``; that file holds what
their absence meant, in all runs or in those of a kind of teacher or of a method. A key that is
added from now on gets its line there, and one that is renamed its earlier name. Then earlier files
still load as what they were, and fingerprints of settings that mean the same stay the same.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from workbench.teachers.analytic import ANALYTIC

_WHOLE = {"teacher", "prompts", "method", "generator", "training", "schedule", "evaluation"}


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration by today's names, with what a format-1 file left unsaid.

    Format 1 was always written whole: what holds some settings alone is no such file.
    """
    changed = copy.deepcopy(dict(values))
    for now, before in _table()["renamed"].items():
        _rename(changed, before, now)
    if "format" in changed or not changed.keys() >= _WHOLE:
        return changed
    for (*groups, leaf), meaning in _absences(changed):
        node = changed
        for group in groups:
            node = node.setdefault(group, {})
        node.setdefault(leaf, meaning)
    if _kind(changed) == "points":  # which learns from no prompts, whatever the file names
        changed.get("prompts", {}).update(source=None)
    return changed


def as_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a configuration without what format 1 meant by saying nothing."""
    kept = copy.deepcopy(dict(values))
    del kept["format"]
    for (*groups, leaf), meaning in _absences(values):
        node = kept
        for group in groups:
            node = node[group]
        if node[leaf] == meaning:
            del node[leaf]
    for now, before in _table()["renamed"].items():
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
    return list(_table()["images"]["evaluation.shown"])


def reference_in_format_1() -> str:
    """What the scores of runs of images were against."""
    return str(_table()["images"]["evaluation.reference"])


def _absences(values: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    table, method = _table(), values["method"].get("name")
    for key, meaning in {
        **table["all"],
        **table[_kind(values)],
        **table["methods"].get(method, {}),
    }.items():
        yield key.split("."), meaning


def _rename(values: dict[str, Any], old: str, new: str) -> None:
    """Give a setting, if it is there, another name in its group."""
    (*groups, leaf), name = old.split("."), new.rpartition(".")[2]
    node: Any = values
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if isinstance(node, dict) and leaf in node:
        node[name] = node.pop(leaf)


def _kind(values: Mapping[str, Any]) -> str:
    recipe = ANALYTIC.get(str(values.get("teacher")))
    if recipe is None:
        return "images"
    return "prompted points" if recipe.prompted else "points"


@cache
def _table() -> dict[str, Any]:
    text = Path(__file__).with_name("format_1.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
