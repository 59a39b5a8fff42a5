"""Real images to compare with: their captions, and what each network saw in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from workbench.data.bundled import BUNDLED
from workbench.data.labeled import LabeledImages
from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_table import Rows
from workbench.evaluation.frechet import FeatureStatistics
from workbench.evaluation.images import Preparation, Prepared
from workbench.evaluation.metrics import ReferenceRows
from workbench.evaluation.networks.pixels import OncePerBatch
from workbench.evaluation.prompts import prompt_mix
from workbench.evaluation.threads import one_thread
from workbench.hashing import fingerprint
from workbench.workspace import Workspace, write_json, written_aside

ContentT = TypeVar("ContentT")

FORMAT = 1
_RECORD = "reference.json"
_CAPTIONS = "captions.json"
_AT_ONCE = 50
"""Bundled images that a network looks at together."""

_SIDE = 32
"""Pixels at which bundled images are looked at."""


class Reference(Protocol):
    """Real images as metrics need them.

    Attributes:
        network: the one that fid, kid, ... look through.
        identity: short hash of the images, their preparation and captions.
    """

    name: str
    network: str
    identity: str

    @property
    def caption_count(self) -> int:
        """How many captions it has; 0: none, or any number on demand."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each image, what it shows: its class or its caption, all the same if it has none."""
        ...

    def prompts(self, samples: int) -> tuple[str, ...]:
        """The captions to draw samples for.

        Raises:
            RequestError: it has none, or not so many.
        """
        ...

    def adapt(self, extractor: FeatureExtractor) -> FeatureExtractor:
        """The extractor as it must look at samples to be comparable."""
        ...

    def rows(self, network: str, extractor: FeatureExtractor) -> ReferenceRows:
        """What the extractor (as :meth:`adapt` gives it) saw in the real images.

        Raises:
            RequestError: the reference was made without this network, or with other weights.
        """
        ...


class BundledReference:
    """All images of a bundled data set; any network can look at them on the spot."""

    caption_count = 0

    def __init__(self, data: LabeledImages) -> None:
        self.data, self.name, self.identity = data, data.name, data.identity
        self.network = data.network

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(str(int(label)) for label in self.data.labels)

    def prompts(self, samples: int) -> tuple[str, ...]:
        """The classes in the real data's shares, in every wording."""
        counts = self.data.class_counts()
        wordings = {label: self.data.prompts_of(label) for label in counts}
        return prompt_mix(wordings, counts, samples)

    def adapt(self, extractor: FeatureExtractor) -> FeatureExtractor:
        return extractor

    def rows(self, network: str, extractor: FeatureExtractor) -> ReferenceRows:
        images = self.images()
        if network == self.network:
            # The rows' hash is in the fingerprint of every score of a run: they keep every bit.
            with one_thread():
                return ReferenceRows(_extracted(extractor, images))
        batches = torch.split(images, _AT_ONCE)
        return ReferenceRows(np.concatenate([_extracted(extractor, batch) for batch in batches]))

    def images(self) -> Tensor:
        """All of them, float32 (N, 3, 32, 32) in [0, 1]."""
        return self.data.images(_SIDE)

    def as_dict(self) -> dict[str, Any]:
        """The keys of a built reference's record; what it does not have is None."""
        return {
            "name": self.name,
            "images": len(self.data),
            "images_hash": None,
            "captions_hash": None,
            "size": None,
            "selection": f"all of {self.data.origin}",
            "networks": {self.network: None},
            "identity": self.identity,
            "format": FORMAT,
        }


def _extracted(extractor: FeatureExtractor, images: Tensor) -> Rows:
    rows: Rows = extractor.extract(images, [""] * len(images)).cpu().numpy()
    return rows


@dataclass(frozen=True)
class ReferenceRecord:
    """``reference.json``.

    Attributes:
        images: how many.
        images_hash: of their names and contents, in order.
        captions_hash: of the captions, None without.
        size: pixels, after a centre crop.
        selection: how the images were chosen, for people.
        networks: name -> key of the extractor that looked.
    """

    name: str
    images: int
    images_hash: str
    captions_hash: str | None
    size: int
    selection: str
    networks: Mapping[str, str]
    identity: str
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class BuiltReference:
    """A reference in the workspace, made by ``workbench references build``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = self._read(_RECORD, lambda content: ReferenceRecord(**content))
        if self.record.format != FORMAT:
            raise RequestError(f"The reference {folder} is of another version; build it again.")
        self.name, self.identity = self.record.name, self.record.identity
        self.network = next(iter(self.record.networks))
        self.preparation = Preparation(self.record.size)
        self._prepare = OncePerBatch(self.preparation.of_images)

    def _read(self, name: str, make: Callable[[Any], ContentT]) -> ContentT:
        try:
            return make(json.loads((self.folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(
                f"The reference {self.folder} is damaged ({error}); build it again."
            ) from error

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """In the images' order; empty if it was built without."""
        if self.record.captions_hash is None:
            return ()
        captions: tuple[str, ...] = self._read(_CAPTIONS, tuple)
        if fingerprint(captions) != self.record.captions_hash:
            raise RequestError(
                f"The captions in {self.folder / _CAPTIONS} are not those that the reference was "
                "built with; build it again."
            )
        return captions

    @property
    def caption_count(self) -> int:
        return len(self.captions)

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.captions or ("",) * self.record.images

    def prompts(self, samples: int) -> tuple[str, ...]:
        """The first captions."""
        if not self.captions:
            raise RequestError(
                f"The reference {self.name} has no captions: name the prompts with --prompts FILE."
            )
        if samples > len(self.captions):
            raise RequestError(
                f"The reference {self.name} has {len(self.captions)} captions, not {samples}: ask "
                f"for --samples {len(self.captions)} or name prompts with --prompts FILE."
            )
        return self.captions[:samples]

    def adapt(self, extractor: FeatureExtractor) -> FeatureExtractor:
        return Prepared(extractor, self.preparation, self._prepare)

    def rows(self, network: str, extractor: FeatureExtractor) -> ReferenceRows:
        networks = self.record.networks
        if network not in networks:
            raise RequestError(
                f"The reference {self.name} has no {network} features, only "
                f"{', '.join(networks)}: build one with --network {network}."
            )
        if networks[network] != extractor.key:
            raise RequestError(
                f"The reference {self.name} was made with other settings: its {network} features "
                f"are of {networks[network]}, the samples' would be of {extractor.key}."
            )
        return _load_rows(self.folder / f"{network}.safetensors")


def is_reference(folder: Path) -> bool:
    """Whether a whole reference is there: its record is written last."""
    return (folder / _RECORD).is_file()


def references_folder(workspace: Workspace) -> Path:
    return workspace.root / "references"


def list_references(workspace: Workspace) -> list[BuiltReference]:
    """The workspace's own references, by name; the bundled ones are there always."""
    found = references_folder(workspace).glob(f"*/{_RECORD}")
    return [BuiltReference(file.parent) for file in sorted(found)]


def open_reference(workspace: Workspace, name: str) -> Reference:
    """A bundled reference, or one of the workspace.

    Raises:
        RequestError: unknown name (names the nearest), or damaged.
    """
    if name in BUNDLED:
        return BundledReference(BUNDLED[name])
    folder = references_folder(workspace) / name
    if not is_reference(folder):
        known = [*BUNDLED, *(reference.name for reference in list_references(workspace))]
        wrong = unknown_name("reference", name, known)
        raise RequestError(
            f"{wrong} Build it: workbench references build {name} --images FOLDER --captions FILE."
        )
    return BuiltReference(folder)


def save_reference(
    folder: Path,
    record: ReferenceRecord,
    captions: tuple[str, ...],
    rows: Mapping[str, ReferenceRows],
) -> None:
    """Write a reference; its record comes last and says that all is there.

    Raises:
        WorkbenchError: no room on the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _RECORD).unlink(missing_ok=True)
        for network, seen in rows.items():
            _save_rows(folder / f"{network}.safetensors", seen)
        if captions:
            write_json(folder / _CAPTIONS, list(captions))
        write_json(folder / _RECORD, record.as_dict())
    except OSError as error:
        raise WorkbenchError(f"Could not write the reference {folder}: {error}.") from error


def _save_rows(file: Path, seen: ReferenceRows) -> None:
    """Rows with their statistics and the root of their covariance, computed here once."""
    from safetensors.numpy import save_file

    statistics = seen.statistics
    content = {
        "rows": seen.rows,
        "mean": statistics.mean,
        "covariance": statistics.covariance,
        "factor": statistics.factor,
    }
    with written_aside(file) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in content.items()}, partial)


def _load_rows(file: Path) -> ReferenceRows:
    """What :func:`_save_rows` wrote.

    Raises:
        RequestError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        content = load_file(file)
        rows, mean = content["rows"], content["mean"]
        covariance, factor = content["covariance"], content["factor"]
    except (OSError, SafetensorError, KeyError) as error:
        raise RequestError(f"{file} is damaged ({error}); build the reference again.") from error
    return ReferenceRows(rows, FeatureStatistics(mean, covariance, len(rows), factor))
