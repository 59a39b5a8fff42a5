"""The figure of an experiment's variants, drawn from groups of runs without a store."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tests.analysis.conftest import script_of
from workbench.errors import RequestError
from workbench.plotting import save_figure
from workbench.reports import Group, SeedRun, Selection, compare, estimate
from workbench.reports.comparison import AT_KIMG
from workbench.reports.figures import variants
from workbench.reports.frames import collect_curves
from workbench.runs.state import RunState
from workbench.tracking import Curve, RunRow

KIMG = (0, 6.4, 12.8, 25.6)
NAMES = ("full", "low", "high", "no-ends", "no-start", "no-end", "middle", "narrow", "edges")


def run(variant: str, seed: int, fid: tuple[float, ...], teacher_fid: float = 0.29) -> SeedRun:
    nimg = tuple(round(1000 * kimg) for kimg in KIMG[: len(fid)])
    scores = {"fid": fid, "alignment": tuple(1 - value / 10 for value in fid)}
    row = RunRow(
        run_id=f"{variant}{seed}",
        name=f"{variant}-seed{seed}",
        experiment="e",
        experiment_id="1",
        status="FINISHED",
        start_time=0,
        end_time=None,
        params={},
        tags={"seed": str(seed)},
        metrics={"table/teacher_50_fid": teacher_fid, "table/teacher_4_fid": 0.9},
    )
    return SeedRun(row, Curve(nimg, tuple(n / 100 for n in nimg), scores), RunState.FINISHED)


def group(variant: str, *curves: tuple[float, ...], teacher: str = "t") -> Group:
    runs = tuple(run(variant, seed, fid) for seed, fid in enumerate(curves))
    return Group(variant, "e", variant, teacher, variant, runs)


@pytest.fixture
def nine() -> list[Group]:
    return [
        group(
            name, *[(2.0, 1.0, 0.5 + 0.1 * place, 0.4 + 0.1 * place + 0.01 * s) for s in (0, 1, 2)]
        )
        for place, name in enumerate(NAMES)
    ]


def line(axes: Axes, gid: str) -> Line2D:
    (found,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return found


def test_one_row_for_each_run_and_evaluation(nine: list[Group]) -> None:
    frame = collect_curves(nine)
    assert {"label", "run", "seed", "kimg", "seconds", "fid", "alignment"} <= set(frame.columns)
    assert len(frame) == 9 * 3 * 4
    last = frame[(frame["label"] == "low") & (frame["seed"] == 2)].iloc[-1]
    assert (last["kimg"], last["seconds"]) == (25.6, 256.0)
    assert last["fid"] == pytest.approx(0.52)


def test_lines_are_means_and_bands_reach_from_seed_to_seed(nine: list[Group]) -> None:
    left, right = variants.plot(nine).axes
    for place in range(9):
        mean = line(left, f"mean-{place}").get_ydata()
        assert mean[-1] == pytest.approx(0.41 + 0.1 * place)
        found = estimate([0.4 + 0.1 * place + 0.01 * seed for seed in (0, 1, 2)])
        assert line(right, f"interval-{place}").get_xdata() == pytest.approx(found.interval)
    lowest = min(np.min(band.get_paths()[0].vertices[:, 1]) for band in left.collections)
    assert lowest == pytest.approx(0.4)
    assert [text.get_text() for text in right.get_yticklabels()] == list(NAMES)


def test_nine_variants_have_nine_looks(nine: list[Group]) -> None:
    left, _ = variants.plot(nine).axes
    lines = [line(left, f"mean-{place}") for place in range(9)]
    assert len({found.get_marker() for found in lines}) == 9
    assert len({(found.get_color(), str(found.get_linestyle())) for found in lines}) == 9


def test_values_are_those_of_the_table() -> None:
    """At equal kimg, which a run that has only been evaluated at 0 neither holds back nor has."""
    groups = [
        group("a", (2.0, 1.0, 0.5, 0.4), (2.0, 0.9)),
        group("b", (2.0, 0.8, 0.7)),
        group("begun", (2.0,)),
    ]
    _, right = variants.plot(groups).axes
    assert [text.get_text() for text in right.get_yticklabels()] == ["b", "a"]
    assert "at 6.4 kimg" in right.get_xlabel()
    shown = compare(Selection(tuple(groups)), "fid").results[1].get("fid", AT_KIMG)
    assert shown.values == (1.0, 0.9)
    assert line(right, "interval-0").get_xdata() == pytest.approx(shown.interval)
    values = variants.final_values(compare(Selection(tuple(groups)), "alignment"))
    assert list(values) == ["b", "a"]


def test_the_teachers_level_is_drawn_if_it_is_one() -> None:
    one = [group("a", (2.0, 1.0)), group("b", (2.0, 1.0))]
    assert variants.teacher_levels(one, "fid") == {"teacher, 50 steps": 0.29}
    assert variants.teacher_levels([*one, group("c", (2.0, 1.0), teacher="other")], "fid") == {}
    assert variants.teacher_levels([], "fid") == {}
    left, _ = variants.plot(one, levels={"teacher, 50 steps": 0.29}).axes
    assert "teacher, 50 steps" in [text.get_text() for text in left.texts]


def test_equal_numbers_give_equal_files(nine: list[Group], tmp_path: Path) -> None:
    files = [
        save_figure(variants.plot(nine), tmp_path / name, ["svg", "png"]) for name in ("one", "two")
    ]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_diverged_runs_are_left_out_and_nothing_is_refused() -> None:
    _, right = variants.plot([group("a", (2.0, 1.0)), group("b", (2.0, math.inf))]).axes
    assert [text.get_text() for text in right.get_yticklabels()] == ["a"]
    with pytest.raises(RequestError, match="no finite FID"):
        variants.plot([group("b", (math.inf, math.inf))])


def test_a_wrong_name_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script_of("variants").main(["--workspace", str(tmp_path), "--experiment", "nothing"])
    assert ended.value.code == 2
    assert "Unknown experiment, variant or run 'nothing'" in capsys.readouterr().err
