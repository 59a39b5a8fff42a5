"""Who is measured: the rows of a run's final table, and what figures call them."""

from __future__ import annotations

import re

STOCK, TEACHER, STUDENT = "stock", "teacher", "student"
"""Rows: the teacher by its pipeline's own call, the teacher by plain Euler steps, the student."""

CELL = re.compile(rf"table/({STOCK}|{TEACHER}|{STUDENT})_(\d+)_(\w+)")
"""The MLflow metric of a final table's cell: model, steps, score."""


def sampler_name(model: str, steps: int) -> str:
    """As figures name a row of the table: ``teacher, 50 steps``."""
    name = "teacher's pipeline" if model == STOCK else model
    return f"{name}, {steps} step{'s' if steps != 1 else ''}"
