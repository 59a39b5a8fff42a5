"""Spellings of an earlier version, which work for one version more and say what they are now."""

from __future__ import annotations

from workbench.cli.common import say

_OPTIONS = {
    "dtype": "precision",
    "features": "network",
    "metrics": "metric",
    "seeds": "seed",
}
_GROUPS = {"external": "benchmarks", "study": "studies"}


class OldSpellings:
    """What Typer asks for the name of a word that it does not know: ``token_normalize_func``."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, word: str) -> str:
        names, dashes = (_OPTIONS, "--") if word in _OPTIONS else (_GROUPS, "")
        new = names.get(word)
        if new is None:
            return word
        if word not in self._told:
            self._told.add(word)
            say(
                f"`{dashes}{word}` is now `{dashes}{new}`: the old spelling works in this version "
                "only."
            )
        return new
