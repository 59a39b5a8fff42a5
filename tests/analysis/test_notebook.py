"""docs/figures.md keeps its promise: a script's numbers as a DataFrame, in a notebook."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.populate import populate
from workbench.tracking import default_uri
from workbench.training.config import (
    GeneratorConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from workbench.workspace import open_workspace

DOCS = Path(__file__).parents[2] / "docs" / "figures.md"


def test_the_example_gives_the_frame(
    tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace(tmp_path / "w")
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    made = [
        RunConfig(
            experiment="step_count",
            variant=f"k{steps}",
            training=TrainingConfig(kimg=6.4),
            schedule=ScheduleConfig(evaluate_kimg=6.4),
            generator=GeneratorConfig(steps=steps),
        )
        for steps in (2, 4)
    ]
    populate(default_uri(workspace.root), workspace, made)
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(workspace.root))
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    frame = names["frame"]
    assert isinstance(frame, pd.DataFrame)
    assert set(frame["line"]) == {"teacher", "k2", "k4"}
    assert frame.attrs["notes"] == ()
