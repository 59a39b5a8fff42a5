"""How long a run is, without anything that is slow to import."""

from __future__ import annotations

import math


def total_images(kimg: float, batch_size: int) -> int:
    """Generated images of a whole run: kimg rounded up to whole batches."""
    return math.ceil(round(kimg * 1000, 6) / batch_size) * batch_size
