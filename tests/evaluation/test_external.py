"""Layouts and result files of benchmarks that score elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from workbench.errors import RequestError
from workbench.evaluation.external import Export, get_benchmark, import_results, open_export

Records = list[dict[str, Any]]
GENEVAL_ITEMS = [
    {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "a photo of two cats"},
    {"tag": "colors", "include": [{"class": "bus", "color": "red"}], "prompt": "a red bus"},
    {"tag": "colors", "include": [{"class": "cup", "color": "blue"}], "prompt": "a blue cup"},
]
REWARD_ITEMS = [{"id": "000-1", "prompt": "a cat"}, {"id": "001-7", "prompt": "a dog; with a hat"}]


def exported(name: str, folder: Path, items: Records) -> Export:
    """An export whose images are empty files."""
    benchmark = get_benchmark(name)
    source = folder / f"{name}-prompts"
    lines = "\n".join(json.dumps(item) for item in items)
    source.write_text(lines if name == "geneval" else json.dumps(items), encoding="utf-8")
    sampler = {"steps": "4", "seed": "0", "weights": "abc"}
    read = benchmark.read_items(source)
    export = Export(folder / name, benchmark, read, 2, "runs/a student", sampler, 1600)
    export.begin()
    for path in export.paths():
        path.touch()
    return export


@pytest.fixture
def geneval(tmp_path: Path) -> Export:
    return exported("geneval", tmp_path, GENEVAL_ITEMS)


@pytest.fixture
def reward(tmp_path: Path) -> Export:
    return exported("imagereward", tmp_path, REWARD_ITEMS)


def verdicts(export: Export) -> Records:
    """As evaluate_images.py writes them, in the order in which a disk lists files."""
    records = [
        {
            "filename": str(path),
            "tag": export.items[index // 2]["tag"],
            "prompt": export.items[index // 2]["prompt"],
            "correct": index in (0, 2, 3, 4),
            "reason": "",
            "metadata": json.dumps(dict(export.items[index // 2])),
            "details": "{}",
        }
        for index, path in enumerate(export.paths())
    ]
    return [records[index] for index in (5, 0, 3, 1, 4, 2)]


def rewards(export: Export) -> Records:
    return [
        {"id": item["id"], "prompt": item["prompt"], "mean_score": 0.0, "rewards": [index, -1.5]}
        for index, item in enumerate(export.items)
    ]


def written(records: Records, path: Path) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path


def test_geneval_reads_what_is_written(geneval: Export) -> None:
    """Checked the way evaluate_images.py walks the folder."""
    for index, item in enumerate(GENEVAL_ITEMS):
        folder = geneval.folder / f"{index:05d}"
        assert json.loads((folder / "metadata.jsonl").read_text()) == item
        assert sorted(path.name for path in (folder / "samples").iterdir()) == [
            "0000.png",
            "0001.png",
        ]
    assert geneval.prompts == [item["prompt"] for item in GENEVAL_ITEMS for _ in range(2)]
    assert open_export(geneval.folder) == geneval


def test_geneval_scores_are_those_of_its_own_summary(geneval: Export, tmp_path: Path) -> None:
    path = written(verdicts(geneval), tmp_path / "results.jsonl")
    frame = pandas.read_json(path, orient="records", lines=True)
    by_tag = frame.groupby("tag", sort=False)["correct"].mean()
    scores = import_results(geneval, path)
    assert scores.values["geneval"] == pytest.approx(np.mean(list(by_tag)))
    assert scores.values["geneval"] != pytest.approx(frame["correct"].mean())
    for tag, value in by_tag.items():
        assert scores.values[f"geneval/{tag}"] == pytest.approx(value)


def test_imagereward_reads_what_is_written_and_means_are_over_prompts(
    reward: Export, tmp_path: Path
) -> None:
    listed = json.loads((reward.folder / "prompts.json").read_text())
    assert [item["id"] for item in listed] == ["000-1", "001-7"]
    model = reward.folder / "images" / "runs-a-student"
    assert sorted(path.name for path in model.iterdir()) == [
        f"{item['id']}_{sample}.png" for item in REWARD_ITEMS for sample in range(2)
    ]
    assert all((reward.folder / image).exists() for item in listed for image in item["images"])
    assert "--model runs-a-student " in reward.benchmark.how_to_score(reward)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(rewards(reward)))
    assert import_results(reward, path).values == {"imagereward": pytest.approx(-0.5)}


def test_the_fingerprint_knows_results_prompts_and_sampler(geneval: Export, tmp_path: Path) -> None:
    path = written(verdicts(geneval), tmp_path / "results.jsonl")
    first = import_results(geneval, path).fingerprint
    assert import_results(geneval, path).fingerprint == first
    other_sampler = replace(geneval, sampler={**geneval.sampler, "seed": "1"})
    changed = [{**record, "reason": "why"} for record in verdicts(geneval)]
    elsewhere = written(changed, tmp_path / "other.jsonl")
    ids = {
        first["id"],
        import_results(other_sampler, path).fingerprint["id"],
        import_results(geneval, elsewhere).fingerprint["id"],
    }
    assert len(ids) == 3


SPOILED: dict[str, tuple[Callable[[Records], Records], str]] = {
    "lines missing": (lambda all_: all_[1:], r"lacks 1 of 6 results, .*00002/samples/0001"),
    "a line twice": (lambda all_: [*all_, all_[0]], "one true or false an image"),
    "other prompts": (lambda all_: [{**all_[0], "prompt": "a dog"}, *all_[1:]], "other prompts"),
    "other images": (
        lambda all_: [{**all_[0], "filename": "x/00009/samples/0000.png"}, *all_[1:]],
        "other prompts",
    ),
    "no verdict": (lambda all_: [{**all_[0], "correct": None}, *all_[1:]], "true or false"),
    "nothing": (lambda all_: [], "lacks 6 of 6"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_no_score_of_a_spoiled_geneval_file(geneval: Export, tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED[case]
    path = written(spoil(verdicts(geneval)), tmp_path / "results.jsonl")
    with pytest.raises(RequestError, match=message):
        import_results(geneval, path)


SPOILED_REWARDS: dict[str, tuple[Callable[[Records], object], str]] = {
    "missing": (lambda all_: all_[1:], "lacks 1 of 2 results, the first is 000-1"),
    "twice": (lambda all_: [*all_, all_[0]], "second time"),
    "other prompts": (lambda all_: [{**all_[0], "prompt": "x"}, all_[1]], "other prompts"),
    "too few": (lambda all_: [{**all_[0], "rewards": [1.0]}, all_[1]], "expected 2 rewards"),
    "not a number": (
        lambda all_: [{**all_[0], "rewards": [1.0, float("nan")]}, all_[1]],
        "expected 2 rewards",
    ),
    "too many": (
        lambda all_: [{**all_[0], "rewards": [1.0, 2.0, float("nan")]}, all_[1]],
        "expected 2 rewards",
    ),
    "no list": (lambda all_: {"runs-a-student": 0.3}, "no JSON list"),
}


@pytest.mark.parametrize("case", SPOILED_REWARDS)
def test_no_score_of_a_spoiled_reward_file(reward: Export, tmp_path: Path, case: str) -> None:
    spoil, message = SPOILED_REWARDS[case]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(spoil(rewards(reward))))
    with pytest.raises(RequestError, match=message):
        import_results(reward, path)


def test_files_that_are_none(geneval: Export, reward: Export, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RequestError, match="No such file"):
        import_results(geneval, path)
    path.write_text("{not json")
    with pytest.raises(RequestError, match="line 1 is not JSON"):
        import_results(geneval, path)
    with pytest.raises(RequestError, match="is not JSON"):
        import_results(reward, path)
    path.write_text('{"prompt": "without a tag"}\n')
    with pytest.raises(RequestError, match="prompt 1: there is no tag"):
        geneval.benchmark.read_items(path)
    path.write_text('[{"id": "../../up", "prompt": "a cat"}]')
    with pytest.raises(RequestError, match="can name a file"):
        reward.benchmark.read_items(path)
    path.write_text("")
    with pytest.raises(RequestError, match="holds no prompts"):
        geneval.benchmark.read_items(path)
    with pytest.raises(RequestError, match="Did you mean 'geneval'"):
        get_benchmark("gen-eval")


def test_a_folder_is_one_export(geneval: Export, tmp_path: Path) -> None:
    geneval.begin()
    with pytest.raises(RequestError, match="holds another export"):
        replace(geneval, samples=1).begin()
    with pytest.raises(RequestError, match="not empty and no export"):
        replace(geneval, folder=tmp_path).begin()
    (geneval.folder / "00001" / "samples" / "0001.png").unlink()
    with pytest.raises(RequestError, match=r"1 of 6 images are missing .*00001/samples/0001\.png"):
        open_export(geneval.folder)
    with pytest.raises(RequestError, match="no export of workbench"):
        open_export(tmp_path)
