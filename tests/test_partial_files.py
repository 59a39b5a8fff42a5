"""Files written aside in a folder that machines share."""

from __future__ import annotations

import ast
import os
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


def test_json_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power loss leaves an empty file under a good name."""
    file, sizes = tmp_path / "x.json", []

    def fsync(number: int) -> None:
        sizes.append((os.fstat(number).st_size, file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(file, {"a": 1})
    assert sizes == [(file.stat().st_size, False)]


def test_what_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()  # nothing can be renamed to it
    with pytest.raises(OSError, match=r"x\.json"):
        write_json(tmp_path / "x.json", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
