"""Bundled data written as a folder, so that it goes the way of anybody's images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from workbench.data.bundled import BUNDLED
from workbench.data.captions import CAPTION_KEYS, FILE_KEYS
from workbench.data.folder import CAPTION_FILES
from workbench.data.pairs import PairsConfig, read_pairs
from workbench.errors import RequestError, WorkbenchError, unknown_name


def write_folder(
    name: str,
    folder: Path,
    side: int,
    images: int | None = None,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the pairs of bundled data as PNG files of 8 bits and a table of captions.

    The table comes last: a folder that has it is whole.

    Args:
        folder: new or empty.
        side: width and height, in pixels.
        images: only the first so many; None = all.
        show: told how many are written, and of how many.

    Returns:
        How many there are.

    Raises:
        RequestError: no such bundled data, or a folder that holds something.
        WorkbenchError: no room on the disk.
    """
    from PIL import Image

    if name not in BUNDLED:
        raise unknown_name("bundled data set", name, BUNDLED)
    pairs = read_pairs(PairsConfig(source=name, limit=images))
    digits = len(str(len(pairs.prompts) - 1))
    rows = []
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RequestError(
                f"{folder} is there already, or was begun and not finished; name a new or an empty "
                "folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for index, prompt in enumerate(pairs.prompts):
            file = f"{index:0{digits}d}.png"
            pixels = pairs.images.load(index, side).pixels.mul(255).round().byte()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / file)
            rows.append(json.dumps({FILE_KEYS[0]: file, CAPTION_KEYS[1]: prompt}))
            show(index + 1, len(pairs.prompts))
        (folder / CAPTION_FILES[0]).write_text("\n".join(rows) + "\n", encoding="utf-8")
    except OSError as error:
        raise WorkbenchError(f"Could not write {folder}: {error}.") from error
    return len(rows)
