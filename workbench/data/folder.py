"""Pairs in a folder: a file of captions, or NAME.txt beside NAME.png.

Own code, because the imagefolder of ``datasets`` knows no NAME.txt and no COCO, drops images
without a caption in silence and keeps captions without an image; here lone halves are counted.
"""

from __future__ import annotations

from pathlib import Path

from workbench.data.captions import (
    TABLES,
    CaptionTable,
    read_caption_lines,
    read_caption_table,
    read_text,
)
from workbench.data.images import (
    SUFFIXES,
    FileImages,
    FileSpan,
    file_state,
    list_images,
    listing_hash,
)
from workbench.data.listing import PairListing, match
from workbench.errors import RequestError

LINES = ".txt"
CAPTION_FILES = tuple(
    f"{stem}{kind}" for stem in ("captions", "metadata") for kind in (*TABLES, LINES)
)
"""Looked for in this order at the top of a folder, where no file of captions is named."""


def list_folder(
    folder: Path, captions: Path | None, caption_key: str | None, limit: int | None
) -> PairListing:
    """The images below a folder in sorted order, with their captions.

    Args:
        captions: the file that holds them; None = one of :data:`CAPTION_FILES`, else a text file
            beside each image.

    Raises:
        RequestError: no images, unreadable captions, a caption column where there are no columns,
            or too many halves of pairs.
    """
    shards = sorted(folder.glob("*.tar"))
    if shards and not any(f.suffix.lower() in SUFFIXES for f in folder.rglob("*")):
        raise RequestError(
            f"{folder} holds tar shards: write data.source={folder}/*.tar, in quotes in a shell."
        )
    files = list_images(folder)
    names = [file.relative_to(folder).as_posix() for file in files]
    if captions is None:
        found = (folder / name for name in CAPTION_FILES if (folder / name).is_file())
        captions = next(found, None)
    elif not captions.is_file():
        raise RequestError(f"There is no file of captions {captions}.")
    if caption_key is not None and (captions is None or captions.suffix.lower() == LINES):
        raise RequestError(
            f"data.caption_column={caption_key} needs a file of captions with columns "
            f"({', '.join(TABLES)}); {folder} has {'none' if captions is None else captions.name}."
        )
    if captions is None:
        texts: dict[str, str | None] = dict(_beside(folder, files))
    elif captions.suffix.lower() == LINES:
        texts = dict(zip(names, read_caption_lines(captions, files, folder), strict=True))
    else:
        texts = dict(_placed(read_caption_table(captions, caption_key), names))
    kept, skipped = match(str(folder), names, texts, limit)
    identity = listing_hash(file_state(folder / name, name) for name in kept)
    pictures = FileImages([FileSpan(folder / name) for name in kept], identity)
    return PairListing(pictures, tuple(kept.values()), skipped)


def _beside(folder: Path, files: list[Path]) -> dict[str, str]:
    """The text files below the folder, under the names of the images that they belong to."""
    images = {file.with_suffix(""): file.relative_to(folder).as_posix() for file in files}
    texts = {}
    for file in sorted(folder.rglob(f"*{LINES}")):
        own = file.relative_to(folder).as_posix()
        texts[images.get(file.with_suffix(""), own)] = read_text(file)
    if not texts:
        raise RequestError(
            f"{folder} holds {len(files)} images and no captions: expected one of "
            f"{', '.join(CAPTION_FILES)} in it, NAME.txt beside NAME{files[0].suffix}, or "
            "data.captions=FILE."
        )
    return texts


def _placed(table: CaptionTable, names: list[str]) -> dict[str, str]:
    """Captions by place in the folder; COCO's files know their names alone."""
    if not table.is_coco:
        return dict(table.by_name)
    places = {name.rpartition("/")[2]: name for name in names}
    return {places.get(name, name): caption for name, caption in table.by_name.items()}
