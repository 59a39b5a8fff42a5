"""Short hashes of what decides a score."""

from __future__ import annotations

import hashlib
import json


def short_hash(value: object) -> str:
    """Sixteen hex digits of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
