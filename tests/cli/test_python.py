"""``workbench.run`` and ``workbench.evaluate``: the commands' way, from Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import workbench as wb
from tests.cli.conftest import ONLY_RUNS, InsideWorkbench
from workbench.errors import RequestError
from workbench.tracking import default_uri, list_runs
from workbench.training.events import Listener

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


class Points(Listener):
    """Counts iterations of all runs."""

    seen = 0

    def on_iteration(self, progress: object) -> None:
        Points.seen += 1


def test_the_page_runs_evaluates_and_goes_on(prepared: InsideWorkbench) -> None:
    """Its example on the tests' teacher; afterwards command and function load the same run."""
    prepared.monkeypatch.setenv("WORKBENCH_WORKSPACE", str(prepared.workspace))
    prepared.monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (code,) = re.findall(r"```python train\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"digits-sana"', repr(str(prepared.teacher))), names)
    (run,), frame = names["runs"], names["frame"]
    assert [run.config.training.kimg, run.config.evaluation.teacher_steps] == [0.32, (4,)]
    assert frame[["steps", "metric"]].values.tolist() == [
        [steps, metric] for steps in (4, 1) for metric in ("fid", "alignment")
    ]
    assert (frame["low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["high"]).all()
    logged = run.scores()
    logged = logged[logged["source"] == "evaluate"].set_index("key").loc[frame["key"]]
    own = frame.set_index("key")
    del own["label"], logged["label"]  # a selection's groups have longer ones
    pd.testing.assert_frame_equal(own, logged, check_like=True)

    settings = ["training.kimg=0.32", "training.batch_size=32", "evaluation.teacher_steps=[4]"]
    which = {"teacher": str(prepared.teacher), "recipe": "digits", "set": settings}
    (again,) = wb.run("quickstart", **which, listener=Points)
    assert (again.name, Points.seen) == (run.name, 0)
    told = prepared(
        *("run", "quickstart", "--teacher", which["teacher"], "--recipe", "digits"),
        *(part for text in settings for part in ("--set", text)),
    )
    assert "finished before" in told.stderr
    assert len(list_runs(default_uri(prepared.workspace), "quickstart", where=ONLY_RUNS)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": [-1]}, "Seeds are whole numbers from 0"),
        ({"seeds": []}, "Seeds are whole numbers from 0"),
        ({"set": "training.kimg=1"}, r'expected {"KEY": VALUE} or \["KEY=VALUE"\]'),
        ({"set": {"teacher": "a"}, "teacher": "b"}, "Two sources for one value: teacher='b'"),
        ({"set": {"training.kimgs": 1}}, "Did you mean 'training.kimg'"),
        ({"variants": ["x"]}, "Unknown variant of quickstart 'x'"),
        ({"parallel": 2, "listener": Listener}, "A listener hears runs of this process"),
        ({"parallel": 0}, "expected at least 1"),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        wb.run("quickstart", workspace=tmp_path / "w", **arguments)
    assert not list((tmp_path / "w").glob("plans/*/*"))


def test_a_wrong_evaluation_is_one_clear_line(tmp_path: Path) -> None:
    for arguments, message in [
        ({"steps": [0]}, "expected numbers from 1"),
        ({"samples": 1}, "expected numbers from 2"),
        ({"metrics": ["fidd"]}, "Did you mean 'fid'"),
    ]:
        with pytest.raises(RequestError, match=message):
            wb.evaluate("quickstart", workspace=tmp_path / "w", **arguments)
