"""MLflow keeps infinity as the largest number; people see it as it was."""

from __future__ import annotations

import math
import sys

import pytest

from workbench.cli.experiments import _print_status
from workbench.registry.rows import PlanRow
from workbench.registry.status import plan_status, spread
from workbench.tracking import RunRow


def run(seed: int, **scores: float) -> RunRow:
    tags = {"variant": "a", "variant_hash": "h", "seed": str(seed), "outcome": "finished"}
    metrics = {name.replace("_", "/", 1): value for name, value in scores.items()}
    return RunRow(str(seed), f"a-seed{seed}", "e", "1", "FINISHED", 0, 1, {}, tags, metrics)


def test_an_infinite_score_is_shown_as_infinite(capsys: pytest.CaptureFixture[str]) -> None:
    most = sys.float_info.max
    rows = [run(0, eval_fid=most, best_fid=0.5, eval_alignment=-most), run(1, eval_fid=most)]
    rows.append(run(2, eval_fid=math.nan))
    plan = PlanRow("p", "e", "1", "plan", 1, (), (0, 1), "Which?", "None.", {"a": "h"})
    status = plan_status(plan, rows)
    first, second, third = status.cells
    assert (first.score, first.best, first.scores["alignment"]) == (math.inf, 0.5, -math.inf)
    assert (second.score, second.best) == (math.inf, None)
    assert third.score is not None
    assert math.isnan(third.score)
    _print_status(plan_status(plan, rows[:2]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert [word for word in lines[0] if word[0].isalnum()][-3:] == ["0", "inf", "inf"]
    assert not any("1797" in word for line in lines for word in line)


def test_values_that_are_not_finite_have_a_mean_and_no_deviation() -> None:
    assert spread([math.inf, 1.0]) == (math.inf, None)
    assert spread([1.0]) == (1.0, None)
    assert spread([1.0, 3.0]) == pytest.approx((2.0, math.sqrt(2)))
