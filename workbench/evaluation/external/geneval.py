"""GenEval (Ghosh et al. 2023): does an object detector find what the prompt asks for?"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from workbench.errors import RequestError
from workbench.evaluation.external.export import Export
from workbench.evaluation.external.files import Item, all_there, checked_items, json_lines


class GenEval:
    """``evaluation/evaluate_images.py`` of github.com/djghosh13/geneval."""

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
