"""Guidance's trade-off, drawn from groups of runs without a store."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tests.analysis.conftest import script_of
from tests.analysis.made_groups import of_scores
from workbench.errors import RequestError
from workbench.reports import Group, SeedRun, estimate
from workbench.reports.figures import guidance
from workbench.runs.state import RunState
from workbench.tracking import Curve, RunRow

MEASURED = {
    "off": [(0.37, 0.93), (0.39, 0.935), (0.36, 0.928)],
    "long-short-1.5": [(0.61, 0.972), (0.66, 0.97), (0.63, 0.975)],
    "long-short-4.5": [(2.9, 0.989), (3.3, 0.985), (2.7, 0.991)],
    "zero-cfg": [(0.62, 0.968), (0.64, 0.969), (0.66, 0.962)],
    "anti-cfg": [(1.3, 0.981)],
}


def run(label: str, seed: int, fid: float, alignment: float) -> SeedRun:
    table = {
        "student_4": (fid, alignment),
        "student_1": (99.0, 0.1),
        "teacher_50": (0.294, 0.924),
        "teacher_4": (0.877, 0.966),
    }
    row = RunRow(
        run_id=f"{label}{seed}",
        name=f"{label}-seed{seed}",
        experiment="guidance",
        experiment_id="1",
        status="FINISHED",
        start_time=0,
        end_time=None,
        params={"generator.steps": "4"},
        tags={"seed": str(seed)},
        metrics={
            f"table/{model}_{name}": value
            for model, values in table.items()
            for name, value in zip(("fid", "alignment"), values, strict=True)
        },
    )
    return SeedRun(row, Curve((0,), (0.0,), {"fid": (fid,)}), RunState.FINISHED)


def group(label: str, *scores: tuple[float, float], teacher: str = "t") -> Group:
    runs = tuple(run(label, seed, *values) for seed, values in enumerate(scores))
    return Group(label, "guidance", label, teacher, label, runs)


def five() -> list[Group]:
    return [group(label, *scores) for label, scores in MEASURED.items()]


def line(axes: Axes, gid: str) -> Line2D:
    (found,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return found


def test_points_are_means_of_the_students_at_k() -> None:
    frame = guidance.collect(five())
    means = guidance.summarize(frame).set_index("label")
    assert list(means.index) == list(MEASURED)
    (axes,) = guidance.plot(frame).axes
    for place, (label, scores) in enumerate(MEASURED.items()):
        for column, name in enumerate(("fid", "alignment")):
            own = estimate([values[column] for values in scores])
            drawn = line(axes, f"mean-{place}").get_xydata()[0][column]
            assert drawn == pytest.approx(own.mean) == means.loc[label, name]
            if own.half is None:
                assert math.isnan(means.loc[label, f"{name}_half"])
            else:
                assert means.loc[label, f"{name}_half"] == pytest.approx(own.half)
    levels = line(axes, "teacher").get_xydata()
    assert levels == pytest.approx(np.array([[0.877, 0.966], [0.294, 0.924]]))


def test_every_setting_has_its_name_and_its_looks() -> None:
    figure = guidance.plot(guidance.collect(five()))
    (axes,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*MEASURED, "teacher, by steps"]
    assert {text.get_text() for text in axes.texts} == {"4", "50", "better"}
    looks = [line(axes, f"mean-{place}") for place in range(len(MEASURED))]
    assert len({(each.get_color(), each.get_marker()) for each in looks}) == len(MEASURED)
    figure.draw_without_rendering()
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_what_cannot_be_drawn_is_left_out() -> None:
    groups = [group("a", (0.5, 0.9)), group("b", (math.inf, 0.9), (0.4, 0.8), teacher="other")]
    frame = guidance.collect(groups)
    assert list(frame["label"]) == ["a", "b"]  # and no teacher's level, where there are several
    guidance.plot(frame)
    with pytest.raises(RequestError, match="No finished run here has a finite FID"):
        guidance.collect([group("b", (math.nan, 0.9))])


def test_a_wrong_name_is_one_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script_of("guidance").main(["--workspace", str(tmp_path), "--experiment", "nothing"])
    assert ended.value.code == 2
    assert "Unknown experiment, variant or run 'nothing'" in capsys.readouterr().err


def test_the_axes_are_the_distance_and_the_score_that_the_runs_have() -> None:
    by_clip = of_scores(five(), {"fid": "fid_dinov2", "alignment": "clip"})
    (axes,) = guidance.plot(guidance.collect(by_clip)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("FID (DINOv2)", "CLIP score")
    (usual,) = guidance.plot(guidance.collect(five())).axes
    for gid in ("mean-0", "teacher"):
        assert line(axes, gid).get_xydata().tolist() == line(usual, gid).get_xydata().tolist()
    with pytest.raises(RequestError, match="the finished runs have: KID, alignment"):
        guidance.collect(of_scores(five(), {"fid": "kid"}))
