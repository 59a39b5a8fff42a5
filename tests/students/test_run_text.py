"""Encoding before a run: on all ranks, beside other runs, stopped, and with nothing to do."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from workbench.errors import InterruptedRunError, RequestError
from workbench.students.text import TextJob, load_with_encodings
from workbench.teachers import PipelineTeacher, load_pipeline_teacher
from workbench.teachers.text_store import TextStore, text_identity
from workbench.training.config import RunConfig
from workbench.training.events import StopFlag
from workbench.training.launch import launch
from workbench.training.parallel import Ranks, init_distributed
from workbench.training.recipes import run_config
from workbench.workspace import Workspace

ALONE = Ranks(0, 1, torch.device("cpu"))
PROMPTS = [f"the digit {number % 10} number {number}" for number in range(150)]


def of(teacher: Path) -> RunConfig:
    return run_config(f"teacher={teacher}", "recipe=digits")


def place(teacher: Path, root: Path) -> Path:
    return root / "cache" / "text" / text_identity(teacher)


def test_encodes_then_holds_no_encoder(digits_teacher_dir: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the store alone
        job = TextJob(Workspace(tmp_path), ALONE, StopFlag())
        teacher, store = load_with_encodings(
            of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job
        )
        assert teacher.pipeline.text_encoder is None
        assert teacher.pipeline.tokenizer is None
        assert store.missing(PROMPTS) == []
        assert len(store.uncond()) == 1
    assert store.folder == place(digits_teacher_dir, tmp_path)


def test_text_encoders_and_the_rest_are_never_loaded_together(
    family_teacher: PipelineTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what they encode alone is the same bits as beside the rest."""
    from diffusers import DiffusionPipeline

    real = DiffusionPipeline.from_pretrained.__func__
    loaded: list[set[str]] = []
    held: list[weakref.ref[torch.nn.Module]] = []

    def watched(cls, *arguments, **keywords):
        assert not [each for each in held if each() is not None]
        pipeline = real(cls, *arguments, **keywords)
        parts = pipeline.components.items()
        modules = {name: part for name, part in parts if isinstance(part, torch.nn.Module)}
        loaded.append(set(modules))
        held.extend(map(weakref.ref, modules.values()))
        return pipeline

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(watched))
    folder, job = family_teacher.folder, TextJob(Workspace(tmp_path), ALONE, StopFlag())
    config = run_config(f"teacher={folder}")
    teacher, store = load_with_encodings(config, folder, PROMPTS, job)
    texts = {n for n in teacher.family.text_components if n.startswith("text_encoder")}
    assert loaded == [texts, {"transformer", "vae"}]
    whole = TextStore(tmp_path / "whole")
    whole.encode(family_teacher, PROMPTS)
    whole.refresh()
    for alone, beside in (
        (store.rows(PROMPTS), whole.rows(PROMPTS)),
        (store.uncond(), whole.uncond()),
    ):
        assert alone.tensors.keys() == beside.tensors.keys()
        assert all(torch.equal(tensor, beside[name]) for name, tensor in alone.tensors.items())


def test_what_the_teacher_refuses_is_refused_before_prompts_are_encoded(
    digits_teacher_dir: Path, tmp_path: Path
) -> None:
    job = TextJob(Workspace(tmp_path), ALONE, StopFlag())
    asked = [f"teacher={digits_teacher_dir}", "recipe=digits"]
    for assignment, reason in (
        ("teacher_guidance=3", "takes no guidance as an input"),
        ("resolution=33", "need a multiple of"),
    ):
        config = run_config(*asked, assignment)
        with pytest.raises(RequestError, match=reason):
            load_with_encodings(config, digits_teacher_dir, PROMPTS, job)
        assert not list(tmp_path.rglob("*.safetensors"))


def encode_on_ranks(teacher: str, root: Path) -> tuple[list[int], torch.Tensor]:
    """Runs on every rank: calls of the encoder on each, and rank 0's table."""
    from transformers import Gemma2Model

    calls: list[int] = []
    original = Gemma2Model.forward

    def counting(self, input_ids=None, **keywords):
        calls.append(len(input_ids))
        return original(self, input_ids, **keywords)

    Gemma2Model.forward = counting
    with init_distributed() as ranks:
        job = TextJob(Workspace(root), ranks, StopFlag())
        _, store = load_with_encodings(of(Path(teacher)), Path(teacher), PROMPTS, job)
        return ranks.gather(sum(calls)), store.rows(PROMPTS)["embeds"]


def test_ranks_share_the_work_and_see_all_of_it(digits_teacher_dir: Path, tmp_path: Path) -> None:
    rows, two = launch(encode_on_ranks, 2, str(digits_teacher_dir), tmp_path / "two")
    assert rows == [128 + 1, 64 + 1]  # batches of 64, and the empty prompt, which each needs
    job = TextJob(Workspace(tmp_path / "one"), ALONE, StopFlag())
    _, store = load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)
    assert torch.equal(two, store.rows(PROMPTS)["embeds"])


def test_a_stop_is_obeyed(digits_teacher_dir: Path, tmp_path: Path) -> None:
    job = TextJob(Workspace(tmp_path), ALONE, StopFlag(requested=True))
    with pytest.raises(InterruptedRunError, match="the same command continues with the rest"):
        load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)


def test_waits_for_another_run_that_encodes_the_same(
    digits_teacher_dir: Path, tmp_path: Path
) -> None:
    """What the other run has encoded meanwhile is not encoded again."""
    teacher = load_pipeline_teacher("other", digits_teacher_dir)
    other = TextStore(place(digits_teacher_dir, tmp_path))
    said: list[str] = []
    locked = threading.Event()

    def another_run() -> None:
        with other.locked():
            locked.set()
            while not said:
                time.sleep(0.01)
            other.encode(teacher, PROMPTS)

    thread = threading.Thread(target=another_run)
    thread.start()
    locked.wait()
    job = TextJob(Workspace(tmp_path), ALONE, StopFlag(), said.append)
    _, store = load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)
    thread.join()
    assert said == ["Another process is encoding prompts with this encoder; waiting."]
    assert store.missing(PROMPTS) == []
    assert len(list(store.folder.glob("shard-*.safetensors"))) == 1


def test_a_stop_is_obeyed_while_waiting(digits_teacher_dir: Path, tmp_path: Path) -> None:
    stop = StopFlag()

    def say(line: str) -> None:
        stop.requested = True

    job = TextJob(Workspace(tmp_path), ALONE, stop, say)
    with (
        TextStore(place(digits_teacher_dir, tmp_path)).locked(),
        pytest.raises(InterruptedRunError),
    ):
        load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)


def test_damage_is_mended_and_told(digits_teacher_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    job = TextJob(Workspace(tmp_path), ALONE, StopFlag(), said.append)
    _, store = load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)
    before = store.rows(PROMPTS)["embeds"].clone()
    (shard,) = store.folder.glob("shard-*.safetensors")
    shard.unlink()  # mapped by this process: another file must take its place
    shard.write_bytes(b"not a shard")
    _, store = load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)
    assert said == ["Deleted 1 damaged files of encoded prompts; encoding them again."]
    assert torch.equal(store.rows(PROMPTS)["embeds"], before)


def test_a_long_encoding_tells_its_rate(
    digits_teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.students import text

    monkeypatch.setattr(text, "_LINE_SECONDS", 0.0)
    said: list[str] = []
    job = TextJob(Workspace(tmp_path), ALONE, StopFlag(), said.append)
    load_with_encodings(of(digits_teacher_dir), digits_teacher_dir, PROMPTS, job)
    assert [line.split(",")[0] for line in said] == [
        f"Encoding prompts: {done} of 150" for done in (64, 128, 150)
    ]
    assert all("/s, about " in line for line in said)
