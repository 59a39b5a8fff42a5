"""Bytes, for people."""

from __future__ import annotations


def as_text(size: int) -> str:
    gib = size / 2**30
    if gib < 1:
        return f"{size / 2**20:.1f} MiB"
    return f"{gib:.1f} GiB" if gib < 100 else f"{gib:.0f} GiB"
