"""A run on prompts of one's own: encoded once, recorded, refused when they change."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench
from workbench.data.prompts import PromptsConfig, read_prompts
from workbench.tracking import default_uri, list_runs

SHORT = ("training.kimg=0.16", "evaluation.samples=50", "evaluation.student_steps=[4]")
LONG = " ".join(["seven"] * 50)


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    prompts = [f"a drawing of the number {number} {LONG}" for number in range(3)]
    prompts += [f"the digit {number % 10}" for number in range(50)] + [""]
    rows = [json.dumps({"prompt": prompt, "id": 1}) for prompt in prompts]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The text encoders that this process made."""
    import transformers

    made: list[object] = []
    original = transformers.Gemma2Model.__init__

    def counting(self, *arguments, **keywords) -> None:
        made.append(self)
        original(self, *arguments, **keywords)

    monkeypatch.setattr(transformers.Gemma2Model, "__init__", counting)
    return made


def test_a_run_on_a_file_of_prompts(
    prepared: InsideWorkbench, prompts_file: Path, encoders: list[object]
) -> None:
    settings = (*SHORT, f"prompts.source={prompts_file}")
    done = prepared(*prepared.quick(settings=settings))
    assert "3 of 53 prompts are longer than the text encoder reads" in done.stderr
    assert "a drawing of the number 0 seven" in done.stderr
    assert f"1 empty prompts of {prompts_file} were left out" in done.stderr
    results = json.loads((prepared.only_run() / "results.json").read_text())
    assert results["nimg"] == 160
    expected = read_prompts(PromptsConfig(source=str(prompts_file)))
    assert results["prompts"] == {
        "source": str(prompts_file),
        "count": 53,
        "fingerprint": expected.fingerprint,
    }
    (tracked,) = list_runs(default_uri(prepared.workspace), "quickstart", where=ONLY_RUNS)
    assert tracked.params["prompts.source"] == str(prompts_file)
    (listing,) = prepared.workspace.glob("mlartifacts/**/inputs/prompts.txt")
    assert listing.read_text().splitlines() == list(expected.prompts)
    assert len(encoders) == 1

    # Another seed: everything is encoded already, and no text encoder is loaded.
    prepared(*prepared.quick("--seed", "5", settings=settings))
    assert len(encoders) == 1
    (store,) = (prepared.workspace / "cache" / "text").iterdir()
    assert len(list(store.glob("shard-*.safetensors"))) == 1

    # One prompt more: loaded once more, and only that prompt is encoded.
    with prompts_file.open("a") as file:
        file.write('{"prompt": "a digit that nobody asked for"}\n')
    prepared(*prepared.quick("--seed", "6", settings=settings))
    assert len(encoders) == 2
    assert len(list(store.glob("shard-*.safetensors"))) == 2


def test_changed_prompts_are_refused_on_resume(
    prepared: InsideWorkbench, prompts_file: Path
) -> None:
    arguments = prepared.quick(
        settings=(*SHORT, "training.kimg=0.48", f"prompts.source={prompts_file}")
    )
    prepared.signal_when(arguments, prepared.nimg_reached(160), signal.SIGTERM)
    original = prompts_file.read_text()
    prompts_file.write_text(original.replace("the digit 7", "the digit 8", 1))
    refused = prepared(*arguments, code=2)
    assert "belong to another recipe or teacher, or to other prompts" in refused.stderr
    prompts_file.write_text(original)
    assert "Resuming at" in prepared(*arguments).stderr


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("prompts.source=missing.txt", "There is no prompt file 'missing.txt'."),
        ("prompts.source=digit", "Unknown prompt source 'digit'. Did you mean 'digits'?"),
        ("prompts.sourc=x.txt", "Did you mean 'prompts.source'?"),
        ("prompts.limit=0", "prompts.limit"),
        ("prompts.split=train", "split applies to hf: sources only"),
    ],
)
def test_wrong_prompts_are_told_before_anything_starts(
    prepared: InsideWorkbench, setting: str, told: str
) -> None:
    refused = prepared(*prepared.quick(settings=(setting,)), code=2)
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(prepared.workspace.glob("runs/*/*"))


def test_a_file_that_is_not_utf8_is_told_with_its_line(
    prepared: InsideWorkbench, tmp_path: Path
) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("a seven\nna\xefve\n".encode("latin-1"))
    refused = prepared(*prepared.quick(settings=(f"prompts.source={file}",)), code=2)
    assert f"{file} line 2 is not UTF-8" in refused.stderr
