"""Files written aside in a folder that machines share."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

import workbench
from workbench.workspace import partial_path, write_json


def test_two_machines_with_one_process_id_write_aside_in_different_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 42)  # containers often have the same
    file = tmp_path / "x.json"
    names = {partial_path(file) for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == tmp_path and name.name.startswith(".x.json.") for name in names)


def test_no_file_is_named_by_a_process_id_alone() -> None:
    package = Path(str(workbench.__file__)).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("with_name"):
                assert "getpid" not in ast.unparse(node), path


def test_a_file_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power failure leaves an empty file under the name of the one before."""
    flushed: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((is_folder, (tmp_path / "x.json").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "x.json", 1)
    assert flushed == [(False, False), (True, True)]


def test_what_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()  # nothing can be renamed to it
    with pytest.raises(OSError, match=r"x\.json"):
        write_json(tmp_path / "x.json", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
