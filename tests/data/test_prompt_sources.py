"""One set of prompts from every kind of source, and what a wrong source is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from workbench.data.bundled import PROMPTS
from workbench.data.prompts import PromptsConfig, PromptSet, read_prompts
from workbench.errors import RequestError

LINES = ["a red fox", "", "ein Fuchs im Schnee, 雪", "a red fox", "   ", "two  foxes "]
KEPT = ("a red fox", "ein Fuchs im Schnee, 雪", "a red fox", "two  foxes ")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def text_file(folder: Path) -> PromptsConfig:
    file = folder / "prompts.txt"
    file.write_bytes("\ufeff".encode() + "\r\n".join(LINES).encode())
    return PromptsConfig(source=str(file))


def json_file(folder: Path) -> PromptsConfig:
    file = folder / "prompts.jsonl"
    rows = [json.dumps({"id": i, "prompt": line}) for i, line in enumerate(LINES)]
    rows[1] = json.dumps({"id": 1, "prompt": None})
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return PromptsConfig(source=str(file))


def parquet_file(folder: Path) -> PromptsConfig:
    file = folder / "prompts.PARQUET"
    table = pyarrow.table({"url": list(range(6)), "caption": [LINES[0], None, *LINES[2:]]})
    pyarrow.parquet.write_table(table, file, row_group_size=4)
    return PromptsConfig(source=str(file))


def saved_dataset(folder: Path) -> PromptsConfig:
    datasets.Dataset.from_dict({"text": LINES, "n": [0] * 6}).save_to_disk(str(folder / "saved"))
    return PromptsConfig(source=f"hf:{folder / 'saved'}")


def dataset_of_splits(folder: Path) -> PromptsConfig:
    one = datasets.Dataset.from_dict({"own": LINES})
    two = datasets.Dataset.from_dict({"own": ["not this"]})
    datasets.DatasetDict({"held": one, "train": two}).save_to_disk(str(folder / "splits"))
    return PromptsConfig(source=f"hf:{folder / 'splits'}", split="held", column="own")


def folder_of_files(folder: Path, streaming: bool = False) -> PromptsConfig:
    (folder / "files").mkdir()
    table = pyarrow.table({"prompt": LINES})
    pyarrow.parquet.write_table(table, folder / "files" / "train.parquet")
    return PromptsConfig(source=f"hf:{folder / 'files'}", streaming=streaming)


def streamed_files(folder: Path) -> PromptsConfig:
    return folder_of_files(folder, streaming=True)


SOURCES = [
    text_file,
    json_file,
    parquet_file,
    saved_dataset,
    dataset_of_splits,
    folder_of_files,
    streamed_files,
]


@pytest.mark.parametrize("make", SOURCES)
def test_every_source_gives_the_same_prompts(
    make: Callable[[Path], PromptsConfig], tmp_path: Path
) -> None:
    config = make(tmp_path)
    found = read_prompts(config)
    assert found.prompts == KEPT
    assert found.dropped == 2
    assert found.source == config.source
    assert found.fingerprint == PromptSet("elsewhere", KEPT).fingerprint
    limited = read_prompts(config.model_copy(update={"limit": 2}))
    assert limited.prompts == KEPT[:2]
    assert read_prompts(config.model_copy(update={"limit": 99})).prompts == KEPT


def test_the_embedded_prompts_are_a_source() -> None:
    assert read_prompts(PromptsConfig(source="digits")).prompts == PROMPTS
    assert read_prompts(PromptsConfig(source="digits", limit=7)).prompts == PROMPTS[:7]


def test_the_fingerprint_tells_order_and_borders() -> None:
    variants = [("a", "b"), ("b", "a"), ("a\nb",), ("a", "b", "b"), ("ab",)]
    assert len({PromptSet("x", prompts).fingerprint for prompts in variants}) == len(variants)


def test_a_named_column_wins(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "one", "long": "a long one"}\n')
    assert read_prompts(PromptsConfig(source=str(file))).prompts == ("one",)
    assert read_prompts(PromptsConfig(source=str(file), column="long")).prompts == ("a long one",)


def refusal(config: PromptsConfig) -> str:
    with pytest.raises(RequestError) as error:
        read_prompts(config)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "column", "told"),
    [
        ("a.txt", b"", None, "holds no prompts: nothing"),
        ("a.txt", b"\n \n", None, "holds no prompts: only 2 empty ones"),
        ("a.txt", b"fine\nna\xefve\n", None, "a.txt line 2 is not UTF-8 (byte 3: 0xef)"),
        ("a.txt", "fine".encode("utf-16"), None, "a.txt line 1 is not UTF-8"),
        ("a.jsonl", b'{"prompt": "x"}\nnope\n', None, "a.jsonl line 2 is not JSON"),
        ("a.jsonl", b'["x"]\n', None, "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", b'{"prompt": 3}\n', None, "a.jsonl line 1 holds int, not text: '3'"),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', None, "line 1 holds half a character"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', None, "a.jsonl line 1 is not UTF-8"),
        ("a.jsonl", b'{"title": "x", "id": 1}\n', None, "Set prompts.column to one of: title, id"),
        ("a.jsonl", b'{"prompt": "x"}\n', "promt", "Unknown column 'promt'. Did you mean 'prompt'"),
        ("a.jsonl", b'{"prompt": "x"}\n{"text": "y"}\n', None, "line 2: Unknown column 'prompt'"),
        ("a.parquet", b"PAR1 it is not", None, "a.parquet as Parquet"),
        ("a.csv", b"prompt\nx\n", None, "Unknown type of prompt file '.csv'. Known: .jsonl, .parq"),
        ("a.json", b"[]", None, "Unknown type of prompt file '.json'. Did you mean '.jsonl'?"),
    ],
)
def test_a_wrong_file_is_told_why_and_where(
    name: str, content: bytes, column: str | None, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert told in refusal(PromptsConfig(source=str(tmp_path / name), column=column))


def test_a_parquet_column_must_hold_text(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [1, 2], "other": ["a", "b"]}), file)
    assert "row 1 holds int, not text" in refusal(PromptsConfig(source=str(file)))
    told = refusal(PromptsConfig(source=str(file), column="othr"))
    assert "Unknown column 'othr'. Did you mean 'other'? Known: other, prompt." in told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("digit", "Unknown prompt source 'digit'. Did you mean 'digits'?"),
        ("missing.txt", "There is no prompt file 'missing.txt'."),
        ("./nowhere/p.jsonl", "There is no prompt file './nowhere/p.jsonl'."),
        ("hf:nobody/there-is-no-such-dataset", "Cannot read the dataset 'nobody/there-is-no"),
    ],
)
def test_a_source_that_is_not_there(source: str, told: str) -> None:
    assert told in refusal(PromptsConfig(source=source))


def test_a_folder_is_pointed_to_hf(tmp_path: Path) -> None:
    assert f"write prompts.source=hf:{tmp_path}" in refusal(PromptsConfig(source=str(tmp_path)))


def test_a_dataset_s_split_and_column_are_checked(tmp_path: Path) -> None:
    config = dataset_of_splits(tmp_path)
    told = refusal(config.model_copy(update={"split": "hold"}))
    assert "Unknown split of the dataset 'hold'. Did you mean 'held'? Known: held, train." in told
    told = refusal(config.model_copy(update={"column": None}))
    assert "none of the columns prompt, caption, text. Set prompts.column to one of: own." in told
    told = refusal(config.model_copy(update={"revision": "main"}))
    assert "prompts.revision applies to the hub only" in told
    told = refusal(config.model_copy(update={"streaming": True}))
    assert "drop prompts.streaming" in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"source": "p.txt", "split": "train"}, "split applies to hf: sources only"),
        ({"source": "p.jsonl", "revision": "main"}, "revision applies to hf: sources only"),
        ({"source": "p.txt", "streaming": True}, "streaming applies to hf: sources only"),
        ({"source": "p.TXT", "column": "prompt"}, "has no columns"),
        ({"column": "prompt"}, "options of prompts without a source"),
        ({"limit": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PromptsConfig.model_validate(settings)


def test_two_hundred_varied_prompts_are_bundled() -> None:
    prompts = read_prompts(PromptsConfig(source="varied")).prompts
    assert len(prompts) == len(set(prompts)) == 200
    lengths = sorted(len(prompt.split()) for prompt in prompts)
    assert lengths[0] >= 3
    assert lengths[20] <= 7
    assert 50 < lengths[-1] <= 60
    assert all(prompt == " ".join(prompt.split()) for prompt in prompts)


def test_a_person_s_prompts_are_a_source_by_name_and_count_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts").mkdir()
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path))
    for name in ("mine", "varied"):
        (tmp_path / "prompts" / f"{name}.txt").write_text(f"a fox of {name}\n")
        found = read_prompts(PromptsConfig(source=name))
        assert (found.source, found.prompts) == (name, (f"a fox of {name}",))
    told = refusal(PromptsConfig(source="mne"))
    assert "Unknown prompt source 'mne'. Did you mean 'mine'?" in told
    assert ", mine, " in told
    assert "'mine' have no columns" in refusal(PromptsConfig(source="mine", column="text"))


def test_prompts_without_a_source_are_refused() -> None:
    assert "set prompts.source" in refusal(PromptsConfig())
