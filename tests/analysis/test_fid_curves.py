from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.errors import RequestError
from workbench.plotting import save_figure
from workbench.tracking.spool import Point, Spool

SCRIPT = Path(__file__).parents[2] / "analysis" / "fid_curves.py"
KIMG = [0, 6.4, 12.8, 19.2, 25.6]
FID = [43.5, 17.9, 10.3, 8.1, 7.4]
ALIGNMENT = [0.62, 0.83, 0.90, 0.93, 0.95]
TABLE = [
    {"model": "teacher", "steps": 50, "nfe": 50, "fid": 4.5, "alignment": 0.97, "ms_per_image": 9},
    {"model": "teacher", "steps": 20, "nfe": 20, "fid": 5.0, "alignment": 0.96, "ms_per_image": 4},
    {"model": "teacher", "steps": 4, "nfe": 4, "fid": 18.9, "alignment": 0.85, "ms_per_image": 1},
    {"model": "student", "steps": 4, "nfe": 4, "fid": 7.4, "alignment": 0.95, "ms_per_image": 1},
]


def write_run(folder, scale=1.0, table=TABLE):
    spool = Spool(folder)
    for kimg, fid, alignment in zip(KIMG, FID, ALIGNMENT, strict=True):
        values = {"eval/fid": scale * fid, "eval/alignment": alignment, "perf/images_per_s": 9.0}
        spool.metrics(values, step=round(1000 * kimg))
    spool.journal.close()
    if table is not None:
        (folder / "results.json").write_text(json.dumps({"table": table}))
    return folder


@pytest.fixture
def curves(fid_curves, tmp_path):
    return fid_curves.read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", scale=1.3)])


def curve(axes, gid):
    (line,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return line


def test_reads_what_the_run_logged(fid_curves, tmp_path):
    frame, levels = fid_curves.read_runs([write_run(tmp_path / "a")], ["SiD"])
    assert list(frame.columns) == ["run", "label", "kimg", "fid", "alignment"]
    assert frame["kimg"].tolist() == KIMG
    assert frame["fid"].tolist() == FID
    assert frame["alignment"].tolist() == ALIGNMENT
    assert set(frame["label"]) == {"SiD"}
    assert levels[["steps", "fid"]].values.tolist() == [[50, 4.5], [20, 5.0], [4, 18.9]]


def test_collect_counts_a_repeated_point_once_and_keeps_gaps(fid_curves):
    points = [
        Point("eval/fid", 6400, 10.0, 2),
        Point("eval/fid", 0, 40.0, 1),
        Point("eval/fid", 6400, 9.0, 5),
        Point("eval/alignment", 12800, 0.9, 4),
        Point("train/loss", 6400, 1.0, 3),
    ]
    frame = fid_curves.collect({"run": points})
    assert frame["kimg"].tolist() == [0, 6.4, 12.8]
    np.testing.assert_equal(frame["fid"].tolist(), [40.0, 9.0, math.nan])
    np.testing.assert_equal(frame["alignment"].tolist(), [math.nan, math.nan, 0.9])


def test_lines_are_the_frame_and_levels_are_the_teachers(fid_curves, curves):
    figure = fid_curves.plot(*curves)
    left, right = figure.axes
    for index, (_, rows) in enumerate(curves.frame.groupby("run", sort=False)):
        fid, alignment = curve(left, f"fid-{index}"), curve(right, f"alignment-{index}")
        np.testing.assert_array_equal(fid.get_xdata(), rows["kimg"])
        np.testing.assert_array_equal(fid.get_ydata(), rows["fid"])
        np.testing.assert_array_equal(alignment.get_xdata(), rows["kimg"])
        np.testing.assert_array_equal(alignment.get_ydata(), rows["alignment"])
    dashed = [line for line in left.get_lines() if line.is_dashed()]
    assert sorted(line.get_ydata()[0] for line in dashed) == [4.5, 5.0, 18.9]
    named = {text.get_text(): text.get_position()[1] for text in left.texts}
    assert named == {"teacher, 50 steps": 4.5, "teacher, 20 steps": 5.0, "teacher, 4 steps": 18.9}
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "b"]


def test_axes_are_logarithmic_with_zero_at_the_left_end(fid_curves, curves):
    left = fid_curves.plot(*curves).axes[0]
    assert left.get_yscale() == "log"
    place = dict(zip([0, 6.4, 12.8, 25.6], left.transData.transform(
        [(kimg, 10.0) for kimg in (0, 6.4, 12.8, 25.6)])[:, 0], strict=True))  # fmt: skip
    assert place[0] == pytest.approx(left.get_window_extent().x0)
    assert place[25.6] - place[12.8] == pytest.approx(place[12.8] - place[6.4])
    assert place[6.4] > place[0] + 20
    assert 0.0 in left.get_xticks()
    later = curves.frame[curves.frame["kimg"] > 0]
    assert fid_curves.plot(later).axes[0].get_xscale() == "log"
    assert 0.0 not in fid_curves.plot(later).axes[0].get_xticks()


def test_alignment_is_paler_in_the_same_hue_on_its_own_axis(fid_curves, curves):
    from colorsys import rgb_to_hls

    from matplotlib.colors import to_rgb

    left, right = fid_curves.plot(*curves).axes
    for index in (0, 1):
        hue, light, _ = rgb_to_hls(*to_rgb(curve(left, f"fid-{index}").get_color()))
        pale_hue, pale_light, _ = rgb_to_hls(
            *to_rgb(curve(right, f"alignment-{index}").get_color())
        )
        assert pale_hue == pytest.approx(hue, abs=0.01)
        assert pale_light > light + 0.2
    assert curve(left, "fid-0").get_color() != curve(left, "fid-1").get_color()
    assert right.yaxis.get_ticks_position() == "right"


def test_text_is_legible_and_level_names_hide_nothing(fid_curves, curves):
    figure = fid_curves.plot(*curves)
    assert figure.get_size_inches()[0] == 3.4
    figure.draw_without_rendering()
    left, right = figure.axes
    shown = [text for text in figure.findobj(lambda part: hasattr(part, "get_fontsize"))
             if text.get_text()]  # fmt: skip
    assert min(text.get_fontsize() for text in shown) >= 7
    boxes = [text.get_window_extent() for text in left.texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place])
        assert left.get_window_extent().contains(box.x0, box.y0)
    for axes, gid in ((left, "fid-0"), (left, "fid-1"), (right, "alignment-0")):
        line = curve(axes, gid)
        path = line.get_transform().transform_path(line.get_path()).interpolated(100)
        assert not any(box.contains(*point) for box in boxes for point in path.vertices)


def test_same_data_same_bytes(fid_curves, curves, tmp_path):
    formats = ("png", "svg", "pdf")
    one = save_figure(fid_curves.plot(*curves), tmp_path / "one", formats)
    two = save_figure(fid_curves.plot(*curves), tmp_path / "two", formats)
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
    other = curves.frame.assign(fid=curves.frame["fid"] * 1.01)
    (changed,) = save_figure(fid_curves.plot(other, curves.levels), tmp_path / "c", ("png",))
    assert changed.read_bytes() != one[0].read_bytes()


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_young_runs_are_drawn_too(fid_curves, curves, tmp_path, length, first):
    frame = curves.frame[curves.frame["run"] == curves.frame["run"][0]][first : first + length]
    for levels in (None, curves.levels):
        save_figure(fid_curves.plot(frame, levels), tmp_path / "young", ("png",))
    without = frame.assign(alignment=math.nan)
    assert len(fid_curves.plot(without, curves.levels).axes) == 1


def test_levels_of_different_teachers_are_told_apart(fid_curves):
    results = {"x": {"table": TABLE}, "y": {"table": [{**TABLE[2], "fid": 12.0}, TABLE[0]]}}
    levels = fid_curves.teacher_levels(results, {"x": "one", "y": "two"})
    frame = pd.DataFrame(
        {"run": "x", "label": "one", "kimg": KIMG, "fid": FID, "alignment": ALIGNMENT}
    )
    left = fid_curves.plot(frame, levels).axes[0]
    assert {text.get_text(): text.get_position()[1] for text in left.texts} == {
        "teacher, 50 steps": 4.5,
        "teacher, 20 steps": 5.0,
        "teacher, 4 steps (two)": 12.0,
        "teacher, 4 steps (one)": 18.9,
    }


def test_the_command_writes_figure_and_numbers(tmp_path):
    runs = [str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b", 1.2, table=None))]
    out = tmp_path / "figures" / "fid.v1"
    arguments = ["--run-dir", *runs, "--label", "SiD", "other", "--out", str(out), "--csv"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--format", "png,svg,pdf"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = ["fid.v1.png", "fid.v1.svg", "fid.v1.pdf", "fid.v1.csv", "fid.v1_teacher.csv"]
    assert done.stdout.split() == [str(out.parent / name) for name in names]
    frame = pd.read_csv(out.parent / "fid.v1.csv")
    assert frame["fid"].tolist() == [*FID, *(1.2 * fid for fid in FID)]
    assert frame["label"].tolist() == ["SiD"] * 5 + ["other"] * 5
    assert len(pd.read_csv(out.parent / "fid.v1_teacher.csv")) == 3


def test_bad_requests_are_one_clear_line(fid_curves, tmp_path, capsys):
    run = write_run(tmp_path / "a")
    with pytest.raises(RequestError, match="holds no evaluation yet"):
        fid_curves.read_runs([tmp_path / "nothing"])
    with pytest.raises(RequestError, match="1 runs have 2 labels"):
        fid_curves.read_runs([run], ["x", "y"])
    (run / "results.json").write_text('{"table": ')
    with pytest.raises(RequestError, match="is not a run's results"):
        fid_curves.read_runs([run])
    with pytest.raises(SystemExit) as stopped:
        fid_curves.main(["--run-dir", str(tmp_path / "nothing"), "--out", str(tmp_path / "x")])
    assert stopped.value.code == 2
    assert "holds no evaluation yet" in capsys.readouterr().err
    frame = fid_curves.collect({"run": [Point("eval/fid", 0, math.nan, 1)]})
    with pytest.raises(RequestError, match="no finite FID"):
        fid_curves.plot(frame)
