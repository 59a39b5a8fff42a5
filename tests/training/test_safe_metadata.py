"""A checkpoint is read without running anything that is in it."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from workbench.training.checkpoint import (
    MANIFEST,
    CheckpointError,
    Stateful,
    load_checkpoint,
    load_modules,
    save_checkpoint,
)
from workbench.training.safe_metadata import read_table


def trained() -> tuple[nn.Linear, torch.optim.Adam]:
    layer = nn.Linear(3, 3).bfloat16()
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    return layer, optimizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    layer, optimizer = trained()
    stateful = Stateful({"generator": layer}, {"generator": optimizer})
    return save_checkpoint(tmp_path, stateful.state(), {"nimg": 7})


def replace_table(checkpoint: Path, table: Any) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(table))
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"][".metadata"] = (checkpoint / ".metadata").stat().st_size
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def test_weights_and_moments_survive_the_restricted_reader(checkpoint: Path) -> None:
    torch.manual_seed(1)
    layer, optimizer = trained()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    progress = load_checkpoint(checkpoint, Stateful({"generator": layer}, {"generator": optimizer}))
    assert progress == {"nimg": 7}
    assert not torch.equal(layer.weight, before["weight"])


def test_a_table_that_would_run_code_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "attacked"
    pickle.loads(pickle.dumps(Attack(made)))
    assert made.exists(), "the attack works where unpickling is not restricted"
    made.rmdir()
    replace_table(checkpoint, Attack(made))
    with pytest.raises(CheckpointError, match=r"it names posix\.mkdir"):
        load_modules(checkpoint, {"generator": trained()[0]})
    assert not made.exists()
    assert capfd.readouterr().err == ""


def test_an_entry_of_bytes_is_refused(checkpoint: Path) -> None:
    """torch would unpickle it: ``DefaultLoadPlanner.load_bytes`` has weights_only=False."""
    with (checkpoint / ".metadata").open("rb") as stream:
        table = read_table(stream)
    replace_table(
        checkpoint,
        Metadata(
            {**table.state_dict_metadata, "modules.generator.weight": BytesStorageMetadata()},
            table.planner_data,
            table.storage_data,
        ),
    )
    with pytest.raises(CheckpointError, match="BytesStorageMetadata"):
        load_modules(checkpoint, {"generator": trained()[0]})


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"nonsense"])
def test_a_damaged_table_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="refused"):
        read_table(io.BytesIO(content))
