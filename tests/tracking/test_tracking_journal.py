"""The journal and the spool on their own: no MLflow here."""

from __future__ import annotations

import errno
import math
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import pytest

import workbench.tracking.journal as journal_module
from workbench.errors import RequestError
from workbench.tracking import InputData, Tracker, last_status, read_points
from workbench.tracking.journal import Journal, read_backwards, read_operations
from workbench.tracking.outbox import Outbox, journal_path


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size``: writing fails inside a line, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("torn", [b'{"kind":"metrics","ti', b"\0" * 200_000, b"x" * 65_536])
def test_a_torn_last_line_is_dropped_and_writing_goes_on(tmp_path: Path, torn: bytes) -> None:
    spool = Outbox(tmp_path)
    spool.metrics({"loss": 1.0}, 0)
    spool.metrics({"loss": 2.0}, 128)
    spool.journal.close()
    with journal_path(tmp_path).open("ab") as file:
        file.write(torn)
    assert [p.step for p in read_points(tmp_path)] == [0, 128]

    again = Outbox(tmp_path)
    again.metrics({"loss": 3.0}, 256)
    assert [(p.step, p.value) for p in read_points(tmp_path)] == [(0, 1.0), (128, 2.0), (256, 3.0)]


def test_a_journal_that_is_torn_from_its_first_byte_is_new(tmp_path: Path) -> None:
    journal_path(tmp_path).parent.mkdir()
    journal_path(tmp_path).write_bytes(b'{"kind":"par')
    assert Outbox(tmp_path).is_new()


def test_reading_does_not_repair_what_another_process_is_writing(tmp_path: Path) -> None:
    spool = Outbox(tmp_path)
    spool.metrics({"loss": 1.0}, 0)
    with journal_path(tmp_path).open("ab") as file:
        file.write(b'{"kind"')
    size = journal_path(tmp_path).stat().st_size
    assert len(read_points(tmp_path)) == 1
    assert journal_path(tmp_path).stat().st_size == size


def test_a_damaged_line_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Outbox(tmp_path)
    spool.metrics({"loss": 1.0}, 0)
    with journal_path(tmp_path).open("ab") as file:
        file.write(b"\0\0garbage\n[1]\n")
    spool.metrics({"loss": 2.0}, 1)
    assert [p.value for p in read_points(tmp_path)] == [1.0, 2.0]
    assert "unreadable" in caplog.text


def test_offsets_lead_to_exactly_the_later_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for index in range(20):
        journal.append("tags", index, {"values": {"ä" * index: "ü"}})
    operations = list(read_operations(journal.path))
    for index, operation in enumerate(operations):
        rest = [later.time for later in read_operations(journal.path, operation.end)]
        assert rest == list(range(index + 1, 20))


def test_a_full_disk_loses_no_point(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Outbox(tmp_path)
    with full_disk(1000):
        for step in range(40):
            spool.metrics({"loss": float(step)}, step)
        stuck = len(read_points(tmp_path))
        complete = spool.journal.secure()
    assert 0 < stuck < 40
    assert not complete
    assert caplog.text.count("Cannot write") == 1

    spool.metrics({"loss": 40.0}, 40)
    assert spool.journal.secure()
    assert [(p.step, p.value) for p in read_points(tmp_path)] == [(s, float(s)) for s in range(41)]


def test_a_failed_fsync_is_said_once_tried_again_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("tags", 0, {"values": {}})
    secured = []

    def fsync(file: int, real: Callable[[int], None] = os.fsync) -> None:
        if len(secured) < 2:
            secured.append(file)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert not journal.secure()
    assert not journal.secure()
    assert caplog.text.count("No space left on device. It is tried again.") == 1
    assert journal.secure()
    secured.clear()
    assert journal.close() == 0
    assert len(secured) == 1
    assert len(list(read_operations(journal.path))) == 1


def test_lines_that_never_found_room_are_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("tags", 0, {"values": {"a": "kept"}})
    with full_disk(journal.path.stat().st_size + 10):
        for _ in range(3):
            journal.append("tags", 1, {"values": {"a": "x" * 100}})
        assert not journal.secure()
        assert journal.close() == 3
    assert [op.time for op in read_operations(journal.path)] == [0]


def test_every_point_is_kept_once_with_its_first_value(tmp_path: Path) -> None:
    spool = Outbox(tmp_path)
    spool.metrics({"loss": 1.0, "speed": 350.0}, 128)
    spool.metrics({"loss": 9.0}, 128)
    again = Outbox(tmp_path)
    again.metrics({"loss": 9.0, "speed": 9.0, "eval/fid": 5.0}, 128)
    kept = {(p.key, p.step): p.value for p in read_points(tmp_path)}
    assert len(read_points(tmp_path)) == 3
    assert kept == {("loss", 128): 1.0, ("speed", 128): 350.0, ("eval/fid", 128): 5.0}
    assert [p.key for p in read_points(tmp_path, ["eval/fid"])] == ["eval/fid"]


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan]
    spool = Outbox(tmp_path)
    for step, value in enumerate(values):
        spool.metrics({"x": value}, step)
    read = [p.value for p in read_points(tmp_path)]
    assert [value.hex() for value in read] == [value.hex() for value in values]


def test_the_next_step_continues_over_a_resume(tmp_path: Path) -> None:
    spool = Outbox(tmp_path)
    assert spool.next_step("system/") == 0
    spool.metrics({"system/cpu": 1.0, "loss": 1.0}, 0)
    spool.metrics({"system/disk": 1.0}, 7)
    spool.metrics({"loss": 1.0}, 1000)
    assert Outbox(tmp_path).next_step("system/") == 8


def test_an_image_is_kept_once_and_an_artifact_as_it_was(tmp_path: Path) -> None:
    spool = Outbox(tmp_path)
    spool.image("grid/student", PIL.Image.new("RGB", (4, 4), "red"), 128)
    again = Outbox(tmp_path)
    again.image("grid/student", PIL.Image.new("RGB", (4, 4), "blue"), 128)
    [image] = (spool.root / "images").iterdir()
    with PIL.Image.open(image) as kept:
        assert kept.getpixel((0, 0)) == (255, 0, 0)

    figure = tmp_path / "fid.csv"
    for content in ("first", "first", "second", "first"):
        figure.write_text(content)
        again.artifact(figure, "figures")
    files = [op for op in read_operations(journal_path(tmp_path)) if op.kind == "artifact"]
    # Going back to an earlier content is a change too: the last one counts at the store.
    contents = [(spool.root / op.body["file"]).read_text() for op in files]
    assert contents == ["first", "second", "first"]


def test_what_mlflow_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    spool = Outbox(tmp_path)
    image = PIL.Image.new("RGB", (1, 1))
    for name in ("", "a@b", "a//b", "/a", "a/../b", "a/", "x" * 251):
        with pytest.raises(RequestError, match="name"):
            spool.metrics({name: 1.0}, 0)
        with pytest.raises(RequestError, match="name"):
            spool.tags({name: "x"})
        with pytest.raises(RequestError, match="name"):
            spool.image(name, image, 0)
    with pytest.raises(RequestError, match="negative"):
        spool.metrics({"loss": 1.0}, -1)
    with pytest.raises(RequestError, match="no such file"):
        spool.artifact(tmp_path / "absent.png", "")
    with pytest.raises(RequestError, match="inside"):
        spool.artifact(Path(__file__), "../elsewhere")
    assert spool.is_new()


def test_the_last_status_counts(tmp_path: Path) -> None:
    assert last_status(tmp_path) is None
    spool = Outbox(tmp_path)
    spool.status("FAILED")
    spool.status("RUNNING")
    assert last_status(tmp_path) == "RUNNING"


def test_digests_tell_contents_apart() -> None:
    import numpy

    images = numpy.zeros((4, 8, 8), numpy.uint8)
    data = InputData.of_images("digits", images, "code")
    assert data.rows == 4
    assert data.columns == {"image": "uint8[8, 8]"}
    others = (images + 1, images.reshape(4, 4, 16), images.astype(numpy.int8))
    assert data.digest not in {InputData.of_images("d", x, "code").digest for x in others}
    prompts = InputData.of_prompts("p", ["one", "two"], "code")
    assert prompts.digest != InputData.of_prompts("p", ["two", "one"], "code").digest
    assert prompts.digest == InputData.of_prompts("q", ["one", "two"], "other").digest


def test_the_base_tracker_does_nothing(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.log_metrics({"a@": 1.0}, -1)
    tracker.log_image("a", PIL.Image.new("RGB", (1, 1)), 0)
    tracker.log_artifact(tmp_path / "absent")
    tracker.log_inputs(InputData.of_prompts("p", ["x"], "code"))
    tracker.set_tags({"a": "b"})
    assert tracker.flush()
    assert tracker.finish("FINISHED") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [7, 64, 1 << 16])
def test_backwards_is_forwards_reversed(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_BLOCK", block)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for size in (0, 1, 63, 64, 65, 200, 3):
        journal.append("tags", size, {"values": {"text": "ä" * size}})
    journal.close()
    with path.open("ab") as file:
        file.write(b"no json\n")
        file.write(b'{"kind":"status","time":1,"status":"RUNNING"}\n{"kind":"torn')
    assert list(read_backwards(path)) == list(read_operations(path))[::-1]
    assert next(read_backwards(path)).kind == "status"
    assert list(read_backwards(tmp_path / "none.jsonl")) == []
