"""Names of tags and of a table's rows, that are written here and read elsewhere."""

from __future__ import annotations

EVALUATION = "evaluation"
"""The protocol of evaluation; scores of two runs compare exactly where it is equal."""

REFERENCE = "evaluation.reference"
"""The real images that a run's scores are against."""

SHOWN = "evaluation.shown"
"""The prompts of the samples that a run logs as pictures, as a JSON list."""

EVENTS = "events"
"""What befell a run (instabilities, roll-backs), and when, newest last."""

STOCK, TEACHER, STUDENT = "stock", "teacher", "student"
"""Rows: the teacher by its pipeline's own call, the teacher by plain Euler steps, the student."""


def sampler_name(model: str, steps: int) -> str:
    """As figures name a row of the table: ``teacher, 50 steps``."""
    name = "teacher's pipeline" if model == STOCK else model
    return f"{name}, {steps} step{'s' if steps != 1 else ''}"
