"""The benchmarks by name: their prompts, the layout that their scripts read, their results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.errors import RequestError, unknown_name
from workbench.evaluation.external.export import (
    MANIFEST,
    Benchmark,
    Export,
    Item,
    all_there,
    checked_items,
    json_lines,
    read_json,
)
from workbench.workspace import write_json


class GenEval:
    """GenEval (Ghosh et al. 2023): does an object detector find what the prompt asks for?

    Read by ``evaluation/evaluate_images.py`` of github.com/djghosh13/geneval.
    """

    name = "geneval"

    def read_items(self, path: Path) -> tuple[Item, ...]:
        items = [record for _, record in json_lines(path)]
        return checked_items(path, items, ("tag", "prompt"))

    def place(self, export: Export, index: int, sample: int) -> str:
        return f"{index:05d}/samples/{sample:04d}.png"

    def write_items(self, export: Export) -> None:
        for index, item in enumerate(export.items):
            path = export.folder / f"{index:05d}" / "metadata.jsonl"
            path.write_text(json.dumps(item) + "\n", encoding="utf-8")

    def read_results(self, export: Export, path: Path) -> dict[str, float]:
        """Accuracy of each tag, and their mean: the overall score of ``summary_scores.py``."""
        expected = {
            self.place(export, index, sample): item
            for index, item in enumerate(export.items)
            for sample in range(export.samples)
        }
        correct: dict[str, bool] = {}
        for where, record in json_lines(path):
            filename = str(record.get("filename", "")).replace("\\", "/")
            image = "/".join(PurePosixPath(filename).parts[-3:])
            verdict = record.get("correct")
            if not isinstance(verdict, bool) or image in correct:
                raise RequestError(
                    f"{where} is no verdict (one true or false an image): {image or record}."
                )
            item = expected.get(image)
            if item is None or record.get("prompt") != item["prompt"]:
                raise RequestError(
                    f"{where} is of other prompts than {export.folder}: {image} shows "
                    f"{record.get('prompt')!r}."
                )
            correct[image] = verdict
        all_there(path, list(expected), correct)
        tags: dict[str, list[bool]] = {}
        for image, item in expected.items():
            tags.setdefault(str(item["tag"]), []).append(correct[image])
        accuracy = {f"{self.name}/{tag}": sum(seen) / len(seen) for tag, seen in tags.items()}
        return {self.name: sum(accuracy.values()) / len(accuracy), **accuracy}

    def how_to_score(self, export: Export) -> str:
        return f"python evaluation/evaluate_images.py {export.folder} --outfile results.jsonl"


class ImageReward:
    """ImageReward (Xu et al. 2023): a reward learnt from people's rankings.

    Read by ``test-benchmark.py`` of github.com/THUDM/ImageReward.
    """

    name = "imagereward"

    def read_items(self, path: Path) -> tuple[Item, ...]:
        content = read_json(path)
        if not isinstance(content, list):
            raise RequestError(f"{path} holds no JSON list of prompts.")
        items = checked_items(path, content, ("id", "prompt"))
        names = {str(item["id"]) for item in items}
        if len(names) < len(items) or any(not re.fullmatch(r"[\w.-]+", name) for name in names):
            raise RequestError(f"{path}: every prompt needs an id of its own that can name a file.")
        return items

    def place(self, export: Export, index: int, sample: int) -> str:
        return f"images/{self._model(export)}/{export.items[index]['id']}_{sample}.png"

    def write_items(self, export: Export) -> None:
        images = [path.relative_to(export.folder).as_posix() for path in export.paths()]
        count = export.samples
        listed = [
            {**item, "images": images[index * count : (index + 1) * count]}
            for index, item in enumerate(export.items)
        ]
        write_json(export.folder / "prompts.json", listed)

    def read_results(self, export: Export, path: Path) -> dict[str, float]:
        """The mean over prompts of the mean over their images."""
        content = read_json(path)
        if not isinstance(content, list):
            raise RequestError(f"{path} holds no JSON list of rewards.")
        prompts = {str(item["id"]): item["prompt"] for item in export.items}
        means: dict[str, float] = {}
        for number, record in enumerate(content, 1):
            where = f"{path}, entry {number}"
            if not isinstance(record, dict) or str(record.get("id")) in means:
                raise RequestError(f"{where} is no prompt's rewards, or a second time the same.")
            key = str(record.get("id"))
            if prompts.get(key) != record.get("prompt"):
                raise RequestError(
                    f"{where} is of other prompts than {export.folder}: {record.get('prompt')!r}."
                )
            means[key] = _mean_reward(record.get("rewards"), export.samples, where)
        all_there(path, list(prompts), means)
        return {self.name: sum(means.values()) / len(means)}

    def how_to_score(self, export: Export) -> str:
        return (
            f"python test-benchmark.py --prompts_path {export.folder}/prompts.json --img_dir "
            f"{export.folder}/images --model {self._model(export)} --benchmark ImageReward-v1.0"
        )

    def _model(self, export: Export) -> str:
        return re.sub(r"[^\w.-]+", "-", export.model).strip("-.") or "model"


def _mean_reward(rewards: Any, samples: int, where: str) -> float:
    values = rewards if isinstance(rewards, list) else [rewards]
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if len(values) != samples or len(numbers) != samples:
        raise RequestError(f"{where}: expected {samples} rewards that are numbers, got {rewards}.")
    return sum(numbers) / samples


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
