"""Encoded once, kept for ever: against the encoder itself, killed, sharded, damaged, freed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from tests.helpers import in_precision, without_padding
from workbench.errors import RequestError, WorkbenchError
from workbench.teachers import Conditioning, PipelineTeacher, load_pipeline_teacher
from workbench.teachers.folder import TeacherNotes
from workbench.teachers.text_store import ENCODE_BATCH, TextStore, text_identity

SMALL = 1
"""Shard bytes with which each file holds one batch."""

Folders = Callable[[str], Path]


def wordings(count: int) -> list[str]:
    return [f"the digit {number % 10} number {number}" for number in range(count)]


def filled(folder: Path, teacher: PipelineTeacher, prompts: list[str], **sizes: int) -> TextStore:
    store = TextStore(folder, **sizes)
    store.encode(teacher, store.missing(prompts))
    store.refresh()
    return store


def same(left: Conditioning, right: Conditioning) -> bool:
    assert left.tensors.keys() == right.tensors.keys()
    return all(torch.equal(tensor, right[name]) for name, tensor in left.tensors.items())


@contextmanager
def encoded_rows(teacher: PipelineTeacher) -> Iterator[list[int]]:
    """Rows of each call of the real text encoder."""
    calls: list[int] = []

    def count(module, arguments, keywords, output) -> None:
        ids = arguments[0] if arguments else keywords["input_ids"]
        calls.append(len(ids))

    hook = teacher.pipeline.text_encoder.register_forward_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def test_every_family_s_encodings_are_the_teacher_s(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    prompts = wordings(70)
    store = filled(tmp_path, family_teacher, prompts)
    expected = without_padding(family_teacher.encode(prompts), family_teacher)
    found = store.rows(prompts)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
    assert same(store.uncond(), family_teacher.uncond())
    assert not same(store.uncond(), store.rows(prompts[:1]))


def test_padding_is_not_stored_and_not_missed(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    """The network answers the same bits, whether padding is what the encoder says or zeros."""
    prompts = ["7", "the digit 7", "a handwritten two number 12345"]
    store = filled(tmp_path, family_teacher, prompts)
    stored, encoded = store.rows(prompts), family_teacher.encode([*prompts, *["7"] * 61])
    encoded = encoded.select(slice(3))  # in the shape that the store encodes in: the same bits
    x_t, t = torch.randn(3, *family_teacher.latent_shape), torch.tensor([0.9, 0.5, 0.1])
    found = family_teacher.velocity(x_t, t, stored)
    assert torch.equal(found, family_teacher.velocity(x_t, t, encoded))
    assert not torch.equal(found, family_teacher.velocity(x_t, t, store.uncond().expand(3)))
    mask = family_teacher.family.token_mask
    assert same(stored, encoded) == (mask is None)
    (shard,) = tmp_path.glob("shard-*.safetensors")
    whole = sum(tensor.nbytes for tensor in encoded.tensors.values())
    rows = int(encoded[mask].sum()) / encoded[mask].numel() if mask else 1
    assert shard.stat().st_size == pytest.approx(whole * rows, abs=1200)  # hashes and a header


def test_rows_come_in_the_order_asked_for(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    prompts = wordings(150)
    store = filled(tmp_path, digits_teacher, prompts, shard_bytes=SMALL)
    assert len(list(tmp_path.glob("shard-*.safetensors"))) == 3
    whole = store.rows(prompts)
    asked = [prompts[140], prompts[3], prompts[70], prompts[3]]
    assert same(store.rows(asked), whole.select(torch.tensor([140, 3, 70, 3])))
    view = store.view(prompts[::-1])
    assert len(view) == 150
    assert same(view.select(torch.tensor([0, 149])), whole.select(torch.tensor([149, 0])))


def test_a_prompt_s_bits_do_not_depend_on_its_company(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    prompts = wordings(100)
    together = filled(tmp_path / "together", family_teacher, prompts)
    alone = filled(tmp_path / "alone", family_teacher, [prompts[77]])
    assert same(alone.rows([prompts[77]]), together.rows([prompts[77]]))


def test_only_new_prompts_are_encoded(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    prompts = wordings(100)
    filled(tmp_path, digits_teacher, prompts)
    store = TextStore(tmp_path)
    more = ["a handwritten two", *prompts, "zero written by hand", "a handwritten two"]
    assert store.missing(more) == ["a handwritten two", "zero written by hand"]
    with encoded_rows(digits_teacher) as calls:
        store.encode(digits_teacher, store.missing(more))
    assert calls == [ENCODE_BATCH]
    store.refresh()
    assert store.missing(more) == []
    expected = without_padding(digits_teacher.encode(more), digits_teacher)
    torch.testing.assert_close(store.rows(more)["embeds"], expected["embeds"])


KILLED = """
import sys, time
from pathlib import Path
from workbench.teachers import load_pipeline_teacher
from workbench.teachers.text_store import TextStore
from tests.teachers.test_text_store import wordings
teacher = load_pipeline_teacher("killed", Path(sys.argv[1]))
store = TextStore(Path(sys.argv[2]), shard_bytes=128 * 3_000)
store.encode(teacher, wordings(1000), show=lambda *progress: time.sleep(0.05))
"""


def test_a_killed_encoding_goes_on_after_its_last_whole_shard(
    digits_teacher: PipelineTeacher, digits_teacher_dir: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(digits_teacher_dir), str(killed)])
    deadline = time.monotonic() + 100
    while len(list(killed.glob("shard-*.safetensors"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

    prompts = wordings(1000)
    store = TextStore(killed)
    missing = store.missing(prompts)
    assert 0 < len(missing) < 1000
    assert missing == prompts[1000 - len(missing) :]
    with encoded_rows(digits_teacher) as calls:
        store.encode(digits_teacher, missing)
    assert sum(calls) == -(-len(missing) // ENCODE_BATCH) * ENCODE_BATCH
    store.refresh()
    whole = filled(tmp_path / "whole", digits_teacher, prompts)
    assert same(store.rows(prompts), whole.rows(prompts))


def test_an_error_between_shards_keeps_the_whole_ones(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        assert total == 200
        if done > 128:
            raise KeyboardInterrupt

    store = TextStore(tmp_path, shard_bytes=SMALL)
    with pytest.raises(KeyboardInterrupt):
        store.encode(digits_teacher, wordings(200), show=stop)
    assert TextStore(tmp_path).missing(wordings(200)) == wordings(200)[128:]


def test_shares_of_two_ranks_make_the_table_of_one(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    prompts = wordings(430)
    one = filled(tmp_path / "one", digits_teacher, prompts, shard_bytes=SMALL)
    rows = []
    for rank in range(2):
        store = TextStore(tmp_path / "two", shard_bytes=SMALL)
        with encoded_rows(digits_teacher) as calls:
            store.encode(digits_teacher, prompts, rank, 2)
        rows.append(sum(calls))
        assert len(TextStore(tmp_path / "two").missing(prompts)) == (192, 0)[rank]
    assert rows == [256 + 1, 192]  # and one row for the empty prompt
    two = TextStore(tmp_path / "two")
    assert same(two.rows(prompts), one.rows(prompts))
    assert same(two.uncond(), one.uncond())


def test_a_shard_that_was_cut_off_is_encoded_again(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    prompts = wordings(192)
    before = filled(tmp_path, digits_teacher, prompts, shard_bytes=SMALL).rows(prompts)
    before = before.map(torch.clone)
    victim = sorted(tmp_path.glob("shard-*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:-40])
    store = TextStore(tmp_path)
    missing = store.missing(prompts)
    assert len(missing) == ENCODE_BATCH
    with pytest.raises(WorkbenchError, match="64 of 192 prompts are not encoded"):
        store.view(prompts)
    with store.locked() as alone:
        assert alone
        assert store.sweep() == 1
        assert not victim.exists()
        store.encode(digits_teacher, missing)
    store.refresh()
    assert same(store.rows(prompts), before)


def test_a_few_rows_read_a_few_pages(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    prompts = wordings(4096)
    filled(tmp_path, digits_teacher, prompts)
    view = TextStore(tmp_path).view(prompts)
    (file,) = tmp_path.glob("shard-*.safetensors")
    rows = view.select(torch.tensor([5, 4000]))
    mapped = [m for m in psutil.Process().memory_maps(grouped=False) if m.path == str(file)]
    assert sum(m.size for m in mapped) >= file.stat().st_size > 2**22
    # Two stores: the one that wrote it has opened it too. Hashes of all, and a window a row.
    assert sum(m.rss for m in mapped) < file.stat().st_size / 4
    assert rows["embeds"].untyped_storage().nbytes() == rows["embeds"].nbytes
    rows["embeds"].zero_()
    assert view.select(torch.tensor([5]))["embeds"].abs().max() > 0


def test_released_encoders_are_gone(digits_teacher_dir: Path) -> None:
    teacher = load_pipeline_teacher("x", digits_teacher_dir)
    x_t, t = torch.randn(1, *teacher.latent_shape), torch.tensor([0.5])
    cond = teacher.encode(["the digit 7"])
    before = teacher.velocity(x_t, t, cond)
    encoder = weakref.ref(teacher.pipeline.text_encoder)
    tokenizer = weakref.ref(teacher.pipeline.tokenizer)
    assert encoder() is not None
    teacher.release_text_encoders()
    assert encoder() is None
    assert tokenizer() is None
    for attempt in (
        lambda: teacher.encode(["the digit 7"]),
        teacher.uncond,
        lambda: teacher.truncated_prompts(["x"]),
    ):
        with pytest.raises(WorkbenchError, match="text encoders of x are not loaded or have been"):
            attempt()
    assert torch.equal(teacher.velocity(x_t, t, cond), before)
    assert teacher.decode(x_t).shape == (1, 3, 32, 32)


def test_a_teacher_without_text_draws_the_same(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    bare = load_pipeline_teacher("bare", family_teacher.folder, text=False)
    for name in family_teacher.family.text_components:
        assert getattr(bare.pipeline, name) is None
        assert getattr(family_teacher.pipeline, name) is not None
    x_t, t = torch.randn(2, *bare.latent_shape), torch.tensor([0.5, 0.9])
    cond = filled(tmp_path, family_teacher, ["the digit 7", "a handwritten two"]).rows(
        ["the digit 7", "a handwritten two"]
    )
    assert torch.equal(bare.velocity(x_t, t, cond), family_teacher.velocity(x_t, t, cond))
    assert torch.equal(bare.decode(x_t), family_teacher.decode(x_t))
    assert bare.fingerprint == family_teacher.fingerprint
    with pytest.raises(WorkbenchError, match="load the teacher with text=True"):
        bare.encode(["the digit 7"])


def test_identity_is_the_encoders_not_the_transformer_s(
    digits_teacher_dir: Path, tmp_path: Path
) -> None:
    def changed(part: str) -> str:
        folder = tmp_path / part.replace("/", "-")
        shutil.copytree(digits_teacher_dir, folder)
        content = (folder / part).read_bytes()
        (folder / part).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return text_identity(folder)

    original = text_identity(digits_teacher_dir)
    half = in_precision(digits_teacher_dir, tmp_path / "half", {"text_encoder": torch.bfloat16})
    assert text_identity(half) != original
    assert changed("transformer/diffusion_pytorch_model.safetensors") == original
    assert changed("text_encoder/model.safetensors") != original
    assert changed("tokenizer/tokenizer.json") != original
    assert text_identity(digits_teacher_dir, call={"num_inference_steps": 3}) == original
    assert text_identity(digits_teacher_dir, call={"max_sequence_length": 7}) != original
    told = tmp_path / "told"
    shutil.copytree(digits_teacher_dir, told)
    notes = TeacherNotes.load(told)
    TeacherNotes({**notes.call, "complex_human_instruction": ["draw"]}).save(told)
    assert text_identity(told) != original


def test_cut_prompts_are_counted(family_teacher: PipelineTeacher, tmp_path: Path) -> None:
    fits, long = "the digit 7", " ".join(["seven"] * 300)
    assert family_teacher.truncated_prompts([fits, long, fits]) == [1]
    prompts = [*wordings(70), long, fits]
    store = filled(tmp_path, family_teacher, prompts, shard_bytes=SMALL)
    assert TextStore(tmp_path).view([long, fits, long]).cut() == [0, 2]
    assert store.view(prompts).cut() == [70]


def test_the_cut_begins_where_the_encoding_stops_changing(digits_teacher: PipelineTeacher) -> None:
    """The encoder's own view: a prompt is cut exactly if its last word makes no difference."""
    words = ["seven"] * 12
    for count in range(1, 12):
        shorter, longer = " ".join(words[:count]), " ".join([*words[:count], "zero"])
        ends = digits_teacher.encode([shorter + " one", longer.replace("zero", "two")])
        unseen = same(ends.select(slice(0, 1)), ends.select(slice(1, 2)))
        assert (digits_teacher.truncated_prompts([longer]) == [0]) == unseen, count


def test_an_instruction_takes_none_of_a_prompt_s_room(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    TeacherNotes(
        {**digits_teacher.call_arguments, "complex_human_instruction": ["the number", "of a"]}
    ).save(tmp_path)
    instructed = PipelineTeacher("x", digits_teacher.pipeline, digits_teacher.family, tmp_path)
    assert instructed.truncated_prompts(["the digit 7", " ".join(["seven"] * 300)]) == [1]


def test_no_room_says_how_many_fit(
    digits_teacher: PipelineTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is kept of a prompt, not by the padding that is not."""
    alike = [f"the digit 7 number {number}" for number in range(10, 70)]
    kept = digits_teacher.encode(alike)["mask"].sum(1)
    assert len(kept.unique()) == 1
    whole = digits_teacher.uncond()
    row = sum(tensor.nbytes for tensor in whole.tensors.values()) * kept[0] // whole["mask"].numel()
    room = 50 * (int(row) + 8) + 2 * 8  # where each prompt begins, and its end and the width
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=room))
    store = TextStore(tmp_path)
    with pytest.raises(RequestError, match=r"Set prompts.limit to at most 50"):
        store.encode(digits_teacher, alike[:51])
    store.encode(digits_teacher, alike[:50])


def test_a_place_that_cannot_be_written_is_named(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkbenchError, match=r"Cannot write .*file"):
        TextStore(tmp_path / "file").encode(digits_teacher, wordings(3))


def test_one_writer_at_a_time(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    first, second = TextStore(tmp_path), TextStore(tmp_path)
    with first.locked() as alone, second.locked(timeout=0.05) as too:
        assert (alone, too) == (True, False)
        first.encode(digits_teacher, wordings(3))
    assert second.missing(wordings(3)) == wordings(3)  # sees what was there when it looked
    with second.locked() as alone:
        assert alone
        assert second.missing(wordings(3)) == []


def test_leftovers_of_the_killed_are_swept(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    store = filled(tmp_path, digits_teacher, wordings(3))
    (tmp_path / f".shard-x.safetensors.{os.getpid()}.partial").write_bytes(b"half")
    assert store.sweep() == 0
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))
    assert TextStore(tmp_path).missing(wordings(3)) == []
