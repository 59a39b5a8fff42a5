"""Names of tags that are written here and read elsewhere."""

from __future__ import annotations

EVALUATION = "evaluation"
"""The protocol of evaluation; scores of two runs compare exactly where it is equal."""

REFERENCE = "evaluation.reference"
"""The real images that a run's scores are against."""

SHOWN = "evaluation.shown"
"""The prompts of the samples that a run logs as pictures, as a JSON list."""

EVENTS = "events"
"""What befell a run (instabilities, roll-backs), and when, newest last."""
