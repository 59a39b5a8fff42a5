"""How scores are shown."""

from __future__ import annotations

import pytest

from workbench.rounding import rounded


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.37126, 0.0123, "0.371"),
        (0.00012345, 0.000042, "0.000123"),
        (0.00012345, None, "0.00012"),
        (0.0, None, "0.000"),
        (1.5, 0.0, "1.500"),
        (812.345, None, "812.3"),
        (812.345, 0.0123, "812.345"),
        (float("nan"), None, "nan"),
        (float("inf"), None, "inf"),
    ],
)
def test_two_digits_of_the_interval_are_seen(value: float, half: float | None, text: str) -> None:
    assert rounded(value, half) == text


def test_differences_have_signs() -> None:
    assert rounded(0.0001234, 0.00005, sign=True) == "+0.000123"
    assert rounded(-0.2, 0.05, sign=True) == "-0.200"
