"""The data position: a function of the sample's number, through the store and any resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import EMPTY, SmallVelocity, without_padding
from tests.training.test_trainer import ALONE, config
from workbench.data.prompts import PromptsConfig, PromptSet, read_prompts
from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.teachers import PipelineTeacher
from workbench.teachers.base import Conditioning, OwnVelocity
from workbench.teachers.text_store import StoredPrompts, TextStore
from workbench.training.networks import DistillationInputs
from workbench.training.streams import PromptStream
from workbench.training.trainer import Trainer


def source(folder: Path, count: int = 150) -> PromptsConfig:
    file = folder / "prompts.jsonl"
    rows = [json.dumps({"prompt": f"the digit {i % 10} number {i}"}) for i in range(count)]
    file.write_text("\n".join(rows), encoding="utf-8")
    return PromptsConfig(source=str(file))


def stored(prompts: PromptSet, teacher: PipelineTeacher, folder: Path) -> StoredPrompts:
    store = TextStore(folder, shard_bytes=1)
    store.encode(teacher, store.missing(prompts.prompts))
    store.refresh()
    return store.view(prompts.prompts)


def test_a_stream_from_disk_is_the_one_from_memory(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    prompts = read_prompts(source(tmp_path))
    on_disk = PromptStream(stored(prompts, digits_teacher, tmp_path / "s"), NoiseSource(3))
    encoded = without_padding(digits_teacher.encode(prompts.prompts), digits_teacher)
    in_memory = PromptStream(encoded, NoiseSource(3))
    for start in (0, 100, 149, 310):
        ours, theirs = on_disk.take(start, 64), in_memory.take(start, 64)
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, tensor in theirs.tensors.items():
            torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_resumed_stream_sees_what_the_uninterrupted_one_would(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    """Read, opened and shuffled anew in the middle of the second pass over a JSONL file."""

    def stream() -> PromptStream:
        prompts = read_prompts(source(tmp_path))
        return PromptStream(stored(prompts, digits_teacher, tmp_path / "s"), NoiseSource(3))

    whole = [(start, 16) for start in range(0, 320, 16)]
    uninterrupted = stream()
    taken = [uninterrupted.take(*part) for part in whole]
    resumed = stream()
    again = [resumed.take(*part) for part in whole[11:]]
    expected, found = Conditioning.cat(taken[11:]), Conditioning.cat(again)
    assert all(torch.equal(found[name], expected[name]) for name in expected.tensors)
    passes = Conditioning.cat(taken)["embeds"][:300].flatten(1)
    assert len(passes[:150].unique(dim=0)) == len(passes[150:].unique(dim=0)) == 150
    assert not torch.equal(passes[:150], passes[150:])


def test_a_checkpoint_goes_on_with_its_own_prompts_alone(tmp_path: Path) -> None:
    def trainer(prompts: PromptSet) -> Trainer:
        encoded = Conditioning({"label": torch.arange(len(prompts)) % 2 + 1})
        network = OwnVelocity(SmallVelocity(1))
        student = DistillationInputs(
            network, (3,), encoded, EMPTY, fingerprint=f"t/{prompts.fingerprint}"
        )
        return Trainer(config(kimg=0.16), student, ALONE, tmp_path / "checkpoints")

    original = read_prompts(source(tmp_path))
    trainer(original).train()
    assert trainer(read_prompts(source(tmp_path))).resume()
    changed = read_prompts(source(tmp_path, count=149))
    with pytest.raises(RequestError, match="or to other prompts"):
        trainer(changed).resume()


def test_a_view_of_many_prompts_holds_none_of_them(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    """A view costs eight bytes a prompt, whatever an encoding weighs."""
    prompts = [f"the digit {number}" for number in range(10)]
    store = TextStore(tmp_path)
    store.encode(digits_teacher, prompts)
    store.refresh()
    view = store.view(prompts * 20_000)
    assert len(view) == 200_000
    stream = PromptStream(view, NoiseSource(0))
    rows = stream.rows(123_456, 32)
    expected = store.rows([prompts[row % 10] for row in rows.tolist()])
    assert torch.equal(stream.take(123_456, 32)["embeds"], expected["embeds"])
