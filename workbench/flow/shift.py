"""Flow shift: moving times towards noise, by a constant or by resolution."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from workbench.errors import RequestError

_Time = TypeVar("_Time", float, Tensor)


def shift_time(t: _Time, shift: float) -> _Time:
    """shift t / (1 + (shift - 1) t) (arXiv 2403.03206, eq. 23); shift 1 is the identity.

    Raises:
        RequestError: the shift is not positive and finite.
    """
    _require_positive(shift)
    return shift * t / (1 + (shift - 1) * t)


def unshift_time(t: _Time, shift: float) -> _Time:
    """The inverse of :func:`shift_time`: a shift by 1 / shift.

    Raises:
        RequestError: the shift is not positive and finite.
    """
    _require_positive(shift)
    return t / (shift - (shift - 1) * t)


def resolution_shift(
    tokens: int,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_mu: float = 0.5,
    max_mu: float = 1.15,
) -> float:
    """FLUX.1's shift exp(mu), mu linear in the number of image tokens.

    Raises:
        RequestError: fewer than one token.
    """
    if tokens < 1:
        raise RequestError(f"A resolution-dependent shift needs at least 1 token, not {tokens}.")
    slope = (max_mu - base_mu) / (max_tokens - base_tokens)
    return math.exp(base_mu + slope * (tokens - base_tokens))


def _require_positive(shift: float) -> None:
    if not 0 < shift < math.inf:
        raise RequestError(f"flow_shift must be positive and finite, not {shift:g}.")
