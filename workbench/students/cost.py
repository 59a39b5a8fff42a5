"""What a step of a sampler costs. No torch."""

from __future__ import annotations

_ONE_BRANCH = (0.0, 1.0)


def evaluations_a_step(cfg_scale: float) -> int:
    """Network evaluations of one Euler step of a teacher at this guidance scale.

    Scale 1 evaluates the conditional branch alone, scale 0 the unconditional one; any other both.
    """
    return 1 if cfg_scale in _ONE_BRANCH else 2
