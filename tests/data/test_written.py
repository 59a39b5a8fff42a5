"""Bundled data written as a folder is read back as the same pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.data.pairs import PairsConfig, read_pairs
from workbench.data.written import write_folder
from workbench.errors import RequestError


@pytest.mark.parametrize("name", ["digits", "scenes-val"])
def test_pairs_of_the_folder_are_those_of_the_bundled_data(name: str, tmp_path: Path) -> None:
    folder, told = tmp_path / "new", []
    written = write_folder(name, folder, 32, 120, lambda done, total: told.append((done, total)))
    assert written == 120
    assert told[-1] == (120, 120)
    ours = read_pairs(PairsConfig(source=str(folder)))
    bundled = read_pairs(PairsConfig(source=name, limit=120))
    assert ours.prompts == bundled.prompts
    assert not ours.skipped
    for index in range(120):
        one, other = (pairs.images.load(index, 32).pixels for pairs in (ours, bundled))
        assert (one - other).abs().max() <= 0.51 / 255  # bytes


def test_only_bundled_data_is_written_and_only_to_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(RequestError, match="is there already"):
        write_folder("digits", tmp_path, 32)
    with pytest.raises(RequestError, match="Did you mean 'digits'"):
        write_folder("digit", tmp_path / "new", 32)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
