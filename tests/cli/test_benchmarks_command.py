"""workbench benchmarks: images out, scores in, kept with their run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cli.conftest import InsideWorkbench
from workbench.tracking import default_uri, list_runs, metric_history

ITEMS = (
    {"tag": "single_object", "prompt": "the digit 7"},
    {"tag": "counting", "prompt": "a handwritten two"},
)


def test_geneval_out_and_in(inside_finished: InsideWorkbench, tmp_path: Path) -> None:
    workbench, folder = inside_finished, tmp_path / "images"
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("\n".join(json.dumps(item) for item in ITEMS))
    draw = ("benchmarks", "export", "geneval", "quickstart", str(folder), "--prompts", str(prompts))
    told = workbench.json(*draw, "--samples", "2", "--batch-size", "3")
    assert told["images"] == 4
    images = sorted(folder.glob("0*/samples/*.png"))
    drawn = [np.asarray(Image.open(image)) for image in images]
    assert len({image.tobytes() for image in drawn}) == 4

    images[2].unlink()  # as if stopped in between; another batch size draws the same
    workbench(*draw, "--samples", "2", "--batch-size", "1")
    again = np.asarray(Image.open(images[2]), dtype=float)
    assert np.abs(again - drawn[2]).max() <= 1
    workbench(*draw, "--samples", "3", code=2)

    results = tmp_path / "results.jsonl"
    lines = [
        {"filename": str(image), "correct": index != 3, **ITEMS[index // 2]}
        for index, image in enumerate(images)
    ]
    results.write_text("\n".join(json.dumps(line) for line in lines))
    before = list_runs(default_uri(workbench.workspace), where="tags.kind = 'run'")[0]
    told = workbench.json("benchmarks", "import", str(folder), str(results))
    assert told["scores"]["geneval"] == 0.75
    kept = json.loads(Path(told["file"]).read_text())
    assert (kept["values"]["geneval"], kept["kimg"]) == (0.75, 1.6)
    after = list_runs(default_uri(workbench.workspace), where="tags.kind = 'run'")[0]
    assert after.metrics["eval/geneval"] == 0.75
    assert after.metrics["eval/geneval/counting"] == 0.5
    assert (after.status, after.end_time) == (before.status, before.end_time)
    history = metric_history(default_uri(workbench.workspace), after.run_id, ["eval/geneval"])
    assert list(history["step"]) == [1600]

    workbench("benchmarks", "import", str(folder), str(results))  # the same again changes nothing
    results.write_text("\n".join(json.dumps({**line, "correct": True}) for line in lines))
    refused = workbench("benchmarks", "import", str(folder), str(results), code=2)
    assert "has eval/geneval = 0.75 at 1600 already" in refused.stderr
    results.write_text("\n".join(json.dumps(line) for line in lines[1:]))
    refused = workbench("benchmarks", "import", str(folder), str(results), code=2)
    assert "lacks 1 of 4 results" in refused.stderr
