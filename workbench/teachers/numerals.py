"""Numbers from 0 to 9 as words and numerals in a prompt."""

from __future__ import annotations

import re

from workbench.errors import RequestError

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def words_of(prompt: str) -> list[str]:
    """The words and numerals of a prompt, in lower case."""
    return re.findall(r"[a-z]+|[0-9]+", prompt.lower())


def the_number_in(prompt: str) -> int:
    """The one number from 0 to 9 that a prompt names, as a word or a numeral.

    Raises:
        RequestError: none, or several.
    """
    named = {number for word in words_of(prompt) if (number := number_of(word)) is not None}
    if len(named) != 1:
        found = "none" if not named else ", ".join(map(str, sorted(named)))
        raise RequestError(
            f"The prompt {prompt!r} must name exactly one number from 0 to 9; it names {found}."
        )
    return named.pop()


def number_of(word: str) -> int | None:
    """The number behind one word or numeral; None for any other word."""
    if word in NUMBER_WORDS:
        return NUMBER_WORDS.index(word)
    return int(word) if len(word) == 1 and word.isdigit() else None
