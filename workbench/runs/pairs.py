"""A run's image-text pairs as its method takes them: latents, and encoded prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from workbench.data.listing import PairListing, Skipped
from workbench.methods import Pairs
from workbench.students.text import RateLines, TextJob, on_every_rank, writing
from workbench.teachers import PipelineTeacher
from workbench.teachers.latent_store import LatentStore, latents_identity, write_skipped
from workbench.teachers.text_store import TextStore
from workbench.tracking import InputData, Tracker

_IMAGES = "images"


class EncodedPairs:
    """Pairs that can be learnt from, their images and prompts encoded on disk.

    Args:
        latents: of the listing's images, complete.
        texts: holds the listing's prompts.
    """

    def __init__(
        self, source: str, listing: PairListing, latents: LatentStore, texts: TextStore
    ) -> None:
        self.source, self._latents = source, latents
        self.prompts = tuple(listing.prompts[row] for row in latents.good())
        self._texts = texts.view(self.prompts)
        self.skipped = (
            *listing.skipped,
            *(Skipped(listing.images.name(row), reason) for row, reason in latents.bad()),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, index: Tensor, /) -> Pairs:
        """Rows by an int64 index (any order, repeats allowed)."""
        return Pairs(self._latents.select(index), self._texts.select(index))

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the contents of image files and of prompts in their order."""
        digest = hashlib.sha256(self._latents.digests().tobytes())
        for prompt in self.prompts:
            digest.update(hashlib.sha256(prompt.encode()).digest())
        return digest.hexdigest()[:16]

    def as_dict(self) -> dict[str, object]:
        """Where they are from, how many, how many were left out, and which they are."""
        return {
            "source": self.source,
            "count": len(self),
            "skipped": len(self.skipped),
            "fingerprint": self.fingerprint,
        }

    def report(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        """Tell the tracker which pairs go into the run, and people what does not."""
        shape = list(self._latents.teacher.latent_shape)
        columns = {"image": f"latents float32{shape}", "prompt": "text"}
        tracker.log_inputs(InputData("pairs", self.fingerprint, len(self), columns, self.source))
        if self.skipped:
            file = write_skipped(self._latents.folder, self.skipped)
            tracker.log_artifact(file, "data")
            warn(
                f"{len(self.skipped)} pairs of {self.source} were left out, the first: "
                f"{self.skipped[0].where} ({self.skipped[0].reason}). All are listed in {file}."
            )


def encode_pairs(
    source: str, listing: PairListing, teacher: PipelineTeacher, texts: TextStore, job: TextJob
) -> EncodedPairs:
    """The pairs, their images encoded now unless they are stored. Every rank calls this.

    Raises:
        RequestError: above 1 % of the images cannot be used, or no room on the disk.
        InterruptedRunError: a stop was requested; what is encoded stays.
    """
    store = latent_store(job.workspace.cache, listing, teacher)
    ranks = job.ranks
    if ranks.broadcast(store.missing()):
        with writing(store, job, _IMAGES):
            missing = ranks.broadcast(store.missing())  # another process may have been here
            show = RateLines(job, _IMAGES)
            on_every_rank(ranks, partial(store.encode, missing, ranks.rank, ranks.world, show))
    store.refresh()
    store.judge(store.bad())
    return EncodedPairs(source, listing, store, texts)


def latent_store(cache: Path, listing: PairListing, teacher: PipelineTeacher) -> LatentStore:
    """Where a workspace's cache keeps the latents of these images."""
    folder = cache / "latents" / latents_identity(teacher, listing.images)
    return LatentStore(folder, listing.images, teacher)
