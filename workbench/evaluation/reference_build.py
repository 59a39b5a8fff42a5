"""Making a reference: a seeded choice of captioned images, cropped, resized, seen by networks.

Captions come as text, as a table of names, or as COCO's annotation file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from workbench.data.bundled import BUNDLED
from workbench.data.captions import (
    CaptionTable,
    read_caption_lines,
    read_caption_table,
)
from workbench.data.images import list_images
from workbench.errors import RequestError, unknown_name
from workbench.evaluation.catalog import FEATURES, FeatureExtractors
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_cache import FeatureCache
from workbench.evaluation.images import Preparation, Prepared, read_images
from workbench.evaluation.metrics import ReferenceRows
from workbench.evaluation.references import (
    BuiltReference,
    ReferenceRecord,
    is_reference,
    references_folder,
    save_reference,
)
from workbench.evaluation.sample_loop import ProgressCallback, SampleLoop, Sampler
from workbench.flow.noise import NoiseSource
from workbench.hashing import file_fingerprint, fingerprint
from workbench.workspace import Workspace, exclusive

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FEWEST = 2
COCO_FOLDER = "val2014"
COCO_CAPTIONS = Path("annotations") / "captions_val2014.json"


@dataclass(frozen=True)
class CaptionedImages:
    """Image files and, where there are any, a caption for each."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]
    layout: str


@dataclass(frozen=True)
class BuildRequest:
    """What a reference is made of.

    Attributes:
        samples: how many of the images; None = all.
        seed: of the choice: the first ``samples`` of a seeded permutation of the sorted files, so
            that 10,000 are among 30,000.
        features: networks that look at the images; the first is the reference's own.
    """

    name: str
    images: Path
    captions: Path | None = None
    resolution: int = 256
    features: Sequence[str] = ("inception",)
    samples: int | None = None
    seed: int = 0
    batch_size: int = 50


def build_reference(
    workspace: Workspace,
    request: BuildRequest,
    extractors: FeatureExtractors,
    show: ProgressCallback = lambda done, total: None,
) -> BuiltReference:
    """Build a reference in the workspace; what was seen before an interruption is kept.

    Raises:
        RequestError: a name that is taken by other images or settings; images that cannot be read
            or are too few; captions that do not match; an unknown network, or weights that are
            missing or that no network needs.
    """
    _check(request)
    chosen, selection = _chosen(request)
    preparation = Preparation(request.resolution)
    images_hash = file_fingerprint(chosen.files)
    captions_hash = fingerprint(chosen.captions) if chosen.captions else None
    identity = fingerprint([images_hash, captions_hash, preparation.fingerprint])
    networks = {
        name: Prepared(extractors.find(name), preparation, preparation.of_images)
        for name in request.features
    }
    extractors.weights.check_all_used()
    folder = references_folder(workspace) / request.name
    record = ReferenceRecord(
        name=request.name,
        images=len(chosen.files),
        images_hash=images_hash,
        captions_hash=captions_hash,
        size=request.resolution,
        selection=selection,
        networks={name: extractor.key for name, extractor in networks.items()},
        identity=identity,
    )
    with exclusive(folder.with_name(f".{request.name}.lock"), f"Reference {request.name}"):
        record = _joined(folder, record)
        cache = FeatureCache(workspace.cache / "features", {"images": images_hash})
        rows = _look(chosen, preparation, networks, request.batch_size, cache, show)
        save_reference(folder, record, chosen.captions, rows)
    return BuiltReference(folder)


def _check(request: BuildRequest) -> None:
    if not _NAME.fullmatch(request.name) or request.name in BUNDLED:
        raise RequestError(
            f"A reference's name has letters, numerals and . _ - and is none of the bundled "
            f"{', '.join(BUNDLED)} (got {request.name!r})."
        )
    for name in request.features:
        if name not in FEATURES:
            raise unknown_name("network of features", name, FEATURES)
    if not request.features:
        raise RequestError("A reference needs at least one network: --network inception.")


def _chosen(request: BuildRequest) -> tuple[CaptionedImages, str]:
    found = captioned_images(request.images, request.captions)
    total = len(found.files)
    wanted = total if request.samples is None else request.samples
    if not _FEWEST <= wanted <= total:
        raise RequestError(
            f"{request.images} has {total} images: a reference takes {_FEWEST} to {total} of them, "
            f"not {wanted}."
        )
    if wanted == total:
        return found, f"all {total} images; {found.layout}"
    order = NoiseSource(request.seed).permutation("reference/selection", total)[:wanted].tolist()
    chosen = CaptionedImages(
        tuple(found.files[place] for place in order),
        tuple(found.captions[place] for place in order) if found.captions else (),
        found.layout,
    )
    return chosen, f"{wanted} of {total} images, seed {request.seed}; {found.layout}"


def _joined(folder: Path, record: ReferenceRecord) -> ReferenceRecord:
    """With the networks that have looked before: a reference may get more of them.

    Raises:
        RequestError: the name is taken by other images, captions or sizes.
    """
    if not is_reference(folder):
        return record
    there = BuiltReference(folder).record
    if there.identity != record.identity:
        raise RequestError(
            f"The reference {record.name} is there already, of other images, captions or size "
            f"({there.images} images, {there.size} pixels): take another name, or delete {folder}."
        )
    return replace(record, networks={**there.networks, **record.networks})


def _look(
    chosen: CaptionedImages,
    preparation: Preparation,
    networks: dict[str, Prepared],
    batch_size: int,
    cache: FeatureCache,
    show: ProgressCallback,
) -> dict[str, ReferenceRows]:
    def draw(prompts: list[str], start: int, count: int) -> Tensor:
        return read_images(chosen.files[start : start + count], preparation)

    by_key: dict[str, FeatureExtractor] = {seen.key: seen for seen in networks.values()}
    prompts = chosen.captions or tuple(file.name for file in chosen.files)
    result = SampleLoop(by_key, prompts, batch_size, cache, show).run(Sampler(draw, 1, 0.0))
    return {
        name: ReferenceRows(result.table.rows(seen.key, len(prompts)))
        for name, seen in networks.items()
    }


def captioned_images(images: Path, captions: Path | None) -> CaptionedImages:
    """The images of a folder with their captions.

    COCO-2014's validation set is recognised by its layout (``val2014/`` beside
    ``annotations/captions_val2014.json``) or by its annotation file: an image's caption is its
    first, by annotation id, and images without one are left out.

    Raises:
        RequestError: no images; captions unreadable, or not one for each image.
    """
    if captions is None and (images / COCO_CAPTIONS).is_file():
        captions = images / COCO_CAPTIONS
    if (images / COCO_FOLDER).is_dir():
        images = images / COCO_FOLDER
    files = list_images(images)
    if captions is None:
        return CaptionedImages(tuple(files), (), "a folder of images without captions")
    if not captions.is_file():
        raise RequestError(f"There is no file of captions {captions}.")
    if captions.suffix.lower() == ".txt":
        return _in_order(captions, files, images)
    table = read_caption_table(captions)
    if table.is_coco:
        return _of_coco(captions, table, files)
    return _named(captions, table, files, images)


def _in_order(path: Path, files: Sequence[Path], images: Path) -> CaptionedImages:
    """One caption a line, for the files in sorted order."""
    lines = read_caption_lines(path, files, images)
    return CaptionedImages(tuple(files), tuple(lines), "one line an image, in sorted order")


def _named(path: Path, table: CaptionTable, files: Sequence[Path], images: Path) -> CaptionedImages:
    captions = table.by_name
    names = {file.relative_to(images).as_posix(): file for file in files}
    _check_all(path, "images without a caption", [n for n in names if n not in captions])
    _check_all(path, "captions without an image", [n for n in captions if n not in names])
    return CaptionedImages(tuple(files), tuple(captions[name] for name in names), table.layout)


def _of_coco(path: Path, table: CaptionTable, files: Sequence[Path]) -> CaptionedImages:
    first = table.by_name
    kept = [file for file in files if file.name in first]
    here = {file.name for file in kept}
    _check_all(path, "captioned images are not there", sorted(set(first) - here))
    return CaptionedImages(tuple(kept), tuple(first[file.name] for file in kept), table.layout)


def _check_all(path: Path, what: str, missing: Sequence[str]) -> None:
    if missing:
        raise RequestError(
            f"{path} does not match the images: {len(missing)} {what}, the first is {missing[0]}."
        )
