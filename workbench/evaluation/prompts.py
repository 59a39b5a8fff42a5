"""The prompts that samples are scored on: the same mix as the real data's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource


def apportion(counts: Mapping[int, int], total: int) -> dict[int, int]:
    """Split ``total`` in proportion to ``counts``, each class within one of its exact share.

    Largest remainders (Hamilton's method); ties go to the smaller key. Exact whenever ``total``
    is a multiple of the counts' sum.
    """
    whole = sum(counts.values())
    shares = {key: total * count // whole for key, count in counts.items()}
    remainders = sorted(counts, key=lambda key: (-(total * counts[key] % whole), key))
    for key in remainders[: total - sum(shares.values())]:
        shares[key] += 1
    return shares


def prompt_mix(
    wordings: Mapping[int, Sequence[str]], counts: Mapping[int, int], total: int
) -> tuple[str, ...]:
    """``total`` prompts whose classes have the shares of ``counts``, in one random order.

    A class's wordings take turns, so that they too have equal shares.

    Args:
        wordings: the prompts that ask for each class.
        counts: how often each class occurs in the real data.
        total: number of prompts.

    Raises:
        RequestError: fewer than 1 prompt, or a class without a wording.
    """
    if total < 1:
        raise RequestError(f"A prompt mix needs at least 1 prompt, not {total}.")
    missing = sorted(key for key in counts if not wordings.get(key))
    if missing:
        raise RequestError(f"No prompt asks for classes {missing}, which the real data has.")
    prompts = [
        wordings[key][turn % len(wordings[key])]
        for key, share in sorted(apportion(counts, total).items())
        for turn in range(share)
    ]
    order = NoiseSource(0).permutation("evaluation/prompts", total)
    return tuple(prompts[int(place)] for place in order)
