"""Where a run's image-text pairs come from: embedded, a folder, tar shards, a HF dataset."""

from __future__ import annotations

from pydantic import Field

from workbench.settings import FrozenConfig
from workbench.teachers.prompt_sources import EMBEDDED


class PairsConfig(FrozenConfig):
    """Which image-text pairs a method learns from."""

    source: str = Field(
        EMBEDDED,
        min_length=1,
        description="digits; a folder of images and captions; tar shards (FOLDER/*.tar); or "
        "hf:NAME, hf:FOLDER (HF datasets)",
    )
    image_column: str = Field("image", min_length=1, description="of an hf: source")
    caption_column: str | None = Field(
        None, description="of an hf: source; none = the first of prompt, caption, text"
    )
    limit: int | None = Field(None, ge=1, description="only the first so many; none = all")
    split: str | None = Field(None, description="of an hf: source; none = train, or the only one")
    revision: str | None = Field(None, description="of an hf: source on the hub; none = newest")
