"""Pairs of images and captions, and those that lack a counterpart."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from workbench.data.images import PairImages
from workbench.errors import RequestError

TOLERATED = 0.01
"""The share of pairs that may be bad; above it the run stops."""

_NEAREST_AMONG = 2000


@dataclass(frozen=True)
class Skipped:
    """A skipped pair: where it is and why it is skipped."""

    where: str
    reason: str


@dataclass(frozen=True)
class PairListing:
    """Images and their captions in the source's order; nothing is decoded yet."""

    images: PairImages
    prompts: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()


def match(
    source: str, images: Sequence[str], captions: Mapping[str, str | None], limit: int | None
) -> tuple[dict[str, str], tuple[Skipped, ...]]:
    """Join images and captions by name.

    Args:
        source: for errors.
        limit: how many pairs are wanted at most; None = all.

    Returns:
        The captions of images with both halves, in the images' order, and what lacks one.

    Raises:
        RequestError: above 1 % have no counterpart or an empty caption; says how many of which
            kind, which is the first, and the nearest cause.
    """
    here = set(images)
    kept = {name: str(captions[name]).strip() for name in images if captions.get(name)}
    kept = {name: caption for name, caption in kept.items() if caption}
    bare = [name for name in images if name not in captions]
    empty = [name for name in images if name in captions and name not in kept]
    orphans = [name for name in captions if name not in here]
    skipped = tuple(
        Skipped(name, reason)
        for names, reason in ((bare, _BARE), (empty, _EMPTY), (orphans, _ORPHAN))
        for name in names
    )
    total = len(images) + len(orphans)
    if len(skipped) > TOLERATED * total:
        raise RequestError(
            f"{source}: {_counted(skipped, total)}{_nearest_cause(bare, orphans)} Up to "
            f"{TOLERATED:.0%} would be skipped."
        )
    return dict(islice(kept.items(), limit)), skipped


_BARE, _EMPTY, _ORPHAN = (
    "image without a caption",
    "image with an empty caption",
    ("caption without an image"),
)


def _counted(skipped: Sequence[Skipped], total: int) -> str:
    by_reason: dict[str, list[str]] = {}
    for item in skipped:
        by_reason.setdefault(item.reason, []).append(item.where)
    parts = [f"{len(names)} x {why} ({_first(names)})" for why, names in by_reason.items()]
    return f"of {total} pairs {len(skipped)} lack a half: {', '.join(parts)}."


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _nearest_cause(bare: Sequence[str], orphans: Sequence[str]) -> str:
    """The likeliest reason why the first image and caption do not match."""
    if not bare or not orphans:
        return ""
    for words, alike in _CAUSES:
        images = {alike(name): name for name in reversed(bare)}
        for caption in orphans:
            if (image := images.get(alike(caption))) is not None:
                return f" Nearest cause: {words} ({image!r} and the caption of {caption!r})."
    near = difflib.get_close_matches(orphans[0], bare[:_NEAREST_AMONG], n=1)
    return f" The nearest image to {orphans[0]!r} is {near[0]!r}." if near else ""


_CAUSES: Iterable[tuple[str, Callable[[str], str]]] = (
    ("capital letters", str.casefold),
    ("another file type", lambda name: str(PurePosixPath(name).with_suffix(""))),
    ("another folder", lambda name: PurePosixPath(name).name),
    ("another folder and file type", lambda name: PurePosixPath(name).stem),
)
