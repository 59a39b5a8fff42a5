"""Flow shift: moving times towards noise."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from workbench.errors import RequestError

_Time = TypeVar("_Time", float, Tensor)


def shift_time(t: _Time, shift: float) -> _Time:
    """shift t / (1 + (shift - 1) t) (arXiv 2403.03206, eq. 23).

    Shift 1 is the identity, and 1 / shift the inverse.

    Raises:
        RequestError: the shift is not positive and finite.
    """
    if not 0 < shift < math.inf:
        raise RequestError(f"flow_shift must be positive and finite, not {shift:g}.")
    return shift * t / (1 + (shift - 1) * t)
