"""Names of tags and of a table's rows, that are written here and read elsewhere."""

from __future__ import annotations

import re

RUN_KIND = "run"
"""Tag ``kind`` of a distillation, beside plans and studies."""

EVALUATION = "evaluation"
"""The protocol of evaluation; scores of two runs compare exactly where it is equal."""

REFERENCE = "evaluation.reference"
"""The real images that a run's scores are against."""

SHOWN = "evaluation.shown"
"""The prompts of the samples that a run logs as pictures, as a JSON list."""

EVENTS = "events"
"""What befell a run (instabilities, roll-backs), and when, newest last."""

LAST, BEST = "last", "best"
"""Whose scores are taken again at fresh evaluation seeds: the last weights, and the best ones."""

_APART = 10**9
_FRESH = re.compile(rf"fresh/({LAST}|{BEST})_(\d+)_(\w+)")


def fresh_seed(seed: int, number: int) -> int:
    """The fresh evaluation seed of that number, 1 on, of a run whose evaluation seed is ``seed``.

    Equal for the variants of one training seed, and no other's below 10^9.
    """
    return seed + number * _APART


def fresh_key(weights: str, number: int, score: str) -> str:
    """The MLflow metric of a score at the fresh seed of that number."""
    return f"fresh/{weights}_{number}_{score}"


def read_fresh(key: str) -> tuple[str, int, str] | None:
    """(weights, number, score) of a metric's name; None for any other metric."""
    found = _FRESH.fullmatch(key)
    return None if found is None else (found[1], int(found[2]), found[3])
