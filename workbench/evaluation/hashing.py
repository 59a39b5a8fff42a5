"""Short hashes of what decides a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def short_hash(value: object) -> str:
    """Sixteen hex digits of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def protocol_id(ingredients: Mapping[str, Any]) -> str:
    """Short hash of all that decides scores besides the sampler, its steps and its noise.

    Protocols named the seed once, and most runs then had seed 0: its place keeps the 0, so that
    what was measured before still compares.
    """
    return short_hash({**ingredients, "seed": 0})
