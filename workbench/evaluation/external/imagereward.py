"""ImageReward (Xu et al. 2023): a reward learnt from people's rankings."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from workbench.errors import RequestError
from workbench.evaluation.external.export import Export
from workbench.evaluation.external.files import Item, all_there, checked_items, read_json
from workbench.workspace import write_json


class ImageReward:
    """``test-benchmark.py`` of github.com/THUDM/ImageReward."""

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
