"""Benchmarks by name, and exports by folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from workbench.errors import RequestError, unknown_name
from workbench.evaluation.external.export import MANIFEST, Benchmark, Export
from workbench.evaluation.external.geneval import GenEval
from workbench.evaluation.external.imagereward import ImageReward

BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (GenEval(), ImageReward())
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        RequestError: unknown name.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def open_export(folder: Path) -> Export:
    """The export that a folder holds.

    Raises:
        RequestError: it holds none, or images of it are missing.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        export = Export(
            folder,
            get_benchmark(content["benchmark"]),
            tuple(content["items"]),
            int(content["samples"]),
            str(content["model"]),
            dict(content["sampler"]),
            content["nimg"],
        )
    except FileNotFoundError:
        raise RequestError(f"{folder} is no export of workbench: it has no {MANIFEST}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is damaged: {error!r}.") from error
    missing = [image for image in export.paths() if not image.exists()]
    if missing:
        raise RequestError(
            f"{len(missing)} of {len(export.prompts)} images are missing in {folder}, the first is "
            f"{missing[0].relative_to(folder)}: run the same export again."
        )
    return export
