"""The fault drill, small: `make drill` is the full one."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.drill import Drill, Plan, check
from tests.services import Postgres
from workbench.workspace import open_workspace

SMALL = Plan(workers=3, trials=6, kills=1, grace_s=8, timeout=800.0)


def test_nothing_is_lost_or_done_twice(
    tmp_path: Path, digits_teacher_dir: Path, evaluation_cache: Path, postgres: Postgres
) -> None:
    workspace = open_workspace(tmp_path / "workspace")
    shutil.copytree(evaluation_cache, workspace.cache)
    drill = Drill(SMALL, postgres, workspace, digits_teacher_dir)
    try:
        drill.run()
    finally:
        drill.stop()
    check(drill)
