"""Pairs in WebDataset's tar shards: KEY.jpg with KEY.txt, or KEY.json that holds the caption.

The format is https://github.com/webdataset/webdataset's: files of one sample share the part of
their name up to its first dot. The shards are read where they are, never unpacked.

Own code, because ``datasets`` has no place of an image in a shard: it streams whole shards (11
times as long as this for 200 MB of images, measured) or copies them. It also refuses samples that
differ in their types, and loses in silence what a shard cut off between two files had behind.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from workbench.data.captions import CAPTION_KEYS, checked_text, key_of, parsed_json
from workbench.data.images import SUFFIXES, FileImages, FileSpan, file_state, listing_hash
from workbench.data.listing import PairListing, match
from workbench.errors import RequestError

SHARD = ".tar"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class _Place(NamedTuple):
    """Where in which shard an image's bytes are; its ``repr`` is part of stored identities."""

    shard: int
    key: str
    offset: int
    size: int


def list_tars(pattern: str, caption_key: str | None, limit: int | None) -> PairListing:
    """The pairs of the shards that a pattern names, in the shards' order.

    Args:
        pattern: a file, or with ``*``, ``?``, ``{a,b}`` or ``{0000..0015}``.
        caption_key: of the caption in KEY.json; None = the first of the usual ones.

    Raises:
        RequestError: no such shard, one that is cut off, or too many halves of pairs.
    """
    shards = find_shards(pattern)
    images: dict[str, _Place] = {}
    captions: dict[str, str | None] = {}
    for number, shard in enumerate(shards):
        for key, sample in _samples(shard).items():
            where = f"{shard.name}: {key}"
            if (image := next((sample[s] for s in SUFFIXES if s in sample), None)) is not None:
                images[where] = _Place(number, key, image.offset_data, image.size)
            caption = _caption(shard, sample, caption_key)
            if caption is not None:
                captions[where] = caption
    kept, skipped = match(pattern, list(images), captions, limit)
    places = [images[where] for where in kept]
    spans = [FileSpan(shards[p.shard], p.key, p.offset, p.size) for p in places]
    identity = listing_hash([*(file_state(shard, shard.name) for shard in shards), *places])
    return PairListing(FileImages(spans, identity), tuple(kept.values()), skipped)


def find_shards(pattern: str) -> list[Path]:
    """The files of a pattern; braces in their own order, what a ``*`` finds sorted.

    Raises:
        RequestError: a part of the pattern names no file.
    """
    found: list[Path] = []
    for part in expand_braces(pattern):
        files = sorted(glob.glob(str(Path(part).expanduser())))  # noqa: PTH207
        if not files:
            raise RequestError(f"There is no tar shard {part}.")
        found += [Path(file) for file in files]
    return list(dict.fromkeys(found))


def expand_braces(pattern: str) -> Iterator[str]:
    """``a{0..2}.tar`` and ``{x,y}.tar`` as a shell reads them; zeros in front are kept."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    span = _RANGE.fullmatch(braces[1])
    options = braces[1].split(",")
    if span is not None:
        width = len(span[1]) if span[1].startswith("0") else 0
        options = [f"{n:0{width}d}" for n in range(int(span[1]), int(span[2]) + 1)]
    for option in options:
        yield from expand_braces(pattern[: braces.start()] + option + pattern[braces.end() :])


def _samples(shard: Path) -> Mapping[str, Mapping[str, tarfile.TarInfo]]:
    """Key -> file type -> member.

    Raises:
        RequestError: unreadable, damaged or cut off.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, slash, file = member.name.rpartition("/")
                stem, dot, kind = file.partition(".")
                if member.isfile() and stem and dot:
                    sample = samples.setdefault(f"{folder}{slash}{stem}", {})
                    sample[f".{kind.lower()}"] = member
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise RequestError(f"Cannot read the shard {shard}: {error}.") from None
    return samples


def _check_end(shard: Path, offset: int) -> None:
    """Refuse a shard that does not end with tar's end mark, which tarfile ignores.

    Args:
        offset: where no further member was found, in bytes.

    Raises:
        RequestError: no block of zeros is there.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        found = "is cut off" if len(block) < tarfile.BLOCKSIZE else "has a damaged header"
        raise RequestError(f"The shard {shard} {found} at byte {offset}.")


def _caption(
    shard: Path, sample: Mapping[str, tarfile.TarInfo], caption_key: str | None
) -> str | None:
    """A sample's caption; None where it has none."""
    if caption_key is None and ".txt" in sample:
        return _text(shard, sample[".txt"])
    if ".json" not in sample:
        return None
    member = sample[".json"]
    content = parsed_json(f"{shard}: {member.name}", _text(shard, member))
    keys = CAPTION_KEYS if caption_key is None else (caption_key,)
    key = key_of(content, keys) if isinstance(content, dict) else None
    if key is None or content[key] is None:
        return None
    return checked_text(f"{shard}: {member.name}", content[key])


def _text(shard: Path, member: tarfile.TarInfo) -> str:
    with shard.open("rb") as file:
        file.seek(member.offset_data)
        content = file.read(member.size)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{shard}: {member.name} is not UTF-8: {error.reason}.") from None
