"""How many decimals a score is shown with: a KID of 0.00012 must not read 0.000."""

from __future__ import annotations

import math


def rounded(value: float, half: float | None = None, *, sign: bool = False) -> str:
    """A score as text: three decimals, or as many as its interval's first two digits need.

    Args:
        half: half the width of its interval, of which two significant digits are shown; without
            one, two digits of the value.
        sign: with a plus sign where it is positive, as differences are.

    Example:
        >>> rounded(0.37126, 0.0123), rounded(-0.0001234, sign=True), rounded(812.34)
        ('0.371', '-0.00012', '812.3')
    """
    scale = abs(value) if half is None or math.isnan(half) or half == 0 else half
    places = 1 if abs(value) >= 100 else 3
    if math.isfinite(scale) and scale > 0:
        places = max(places, min(9, 1 - math.floor(math.log10(scale))))
    return f"{value:{'+' if sign else ''}.{places}f}"
