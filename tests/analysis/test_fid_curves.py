from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.analysis.conftest import script_of
from tests.populate import Shape, populate
from workbench.errors import RequestError
from workbench.plotting import fid_curves, save_figure
from workbench.plotting.curves import curve_frame, find_instabilities, mean_curve
from workbench.runs.figures import collect_points, draw_curve, levels_of_results, read_runs
from workbench.tracking import default_uri
from workbench.tracking.outbox import Outbox, Point
from workbench.training.config import RunConfig, ScheduleConfig, TrainingConfig
from workbench.training.evaluation_config import EvaluationConfig
from workbench.workspace import open_workspace

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


def made(curves, label="a", kimg=KIMG, alignment=ALIGNMENT):
    """A frame of runs of one label: run -> FID at each kimg."""
    rows = [
        {
            "label": label,
            "run": run,
            "seed": seed,
            "kimg": k,
            "seconds": k,
            "fid": f,
            "alignment": a,
        }
        for seed, (run, fid) in enumerate(curves.items())
        for k, f, a in zip(kimg, fid, alignment, strict=True)
    ]
    return curve_frame(rows)


def write_run(folder, scale=1.0, table=TABLE):
    spool = Outbox(folder)
    for kimg, fid, alignment in zip(KIMG, FID, ALIGNMENT, strict=True):
        values = {"eval/fid": scale * fid, "eval/alignment": alignment, "perf/images_per_s": 9.0}
        spool.metrics(values, step=round(1000 * kimg))
    spool.journal.close()
    if table is not None:
        (folder / "results.json").write_text(json.dumps({"table": table}))
    return folder


@pytest.fixture
def curves(tmp_path):
    return read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", scale=1.3)])


def curve(axes, gid):
    (line,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return line


def test_reads_what_the_run_logged(tmp_path):
    frame, levels = read_runs([write_run(tmp_path / "a")], ["SiD"])
    assert list(frame.columns)[:4] == ["label", "run", "seed", "evaluation_seed"]
    assert frame["kimg"].tolist() == KIMG
    assert frame["fid"].tolist() == FID
    assert frame["alignment"].tolist() == ALIGNMENT
    assert set(frame["label"]) == {"SiD"}
    fid = levels[levels["metric"] == "fid"]
    assert fid[["steps", "value"]].values.tolist() == [[50, 4.5], [20, 5.0], [4, 18.9]]


def test_a_repeated_point_counts_once_as_in_the_store_and_gaps_stay():
    points = [
        Point("eval/fid", 6400, 10.0, 2),
        Point("eval/fid", 0, 40.0, 1),
        Point("eval/fid", 6400, 9.0, 5),
        Point("eval/alignment", 12800, 0.9, 4),
        Point("train/loss", 6400, 1.0, 3),
    ]
    frame = collect_points({"run": points})
    assert frame["kimg"].tolist() == [0, 6.4, 12.8]
    np.testing.assert_equal(frame["fid"].tolist(), [40.0, 10.0, math.nan])
    np.testing.assert_equal(frame["alignment"].tolist(), [math.nan, math.nan, 0.9])


def test_lines_are_the_frame_and_levels_are_the_teachers(curves):
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


def test_axes_are_logarithmic_with_zero_at_the_left_end(curves):
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


def test_alignment_is_paler_in_the_same_hue_on_its_own_axis(curves):
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


def test_text_is_legible_and_level_names_hide_nothing(curves):
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


def test_same_data_same_bytes(curves, tmp_path):
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
def test_young_runs_are_drawn_too(curves, tmp_path, length, first):
    frame = curves.frame[curves.frame["run"] == curves.frame["run"][0]][first : first + length]
    for levels in (None, curves.levels):
        save_figure(fid_curves.plot(frame, levels), tmp_path / "young", ("png",))
    without = frame.assign(alignment=math.nan)
    assert len(fid_curves.plot(without, curves.levels).axes) == 1


def test_levels_of_different_teachers_are_told_apart():
    results = {"x": {"table": TABLE}, "y": {"table": [{**TABLE[2], "fid": 12.0}, TABLE[0]]}}
    levels = levels_of_results(results, {"x": "one", "y": "two"})
    frame = made({"x": FID}, label="one")
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
        [sys.executable, str(SCRIPT), *arguments, "--format", "svg,pdf"],
        capture_output=True,
        text=True,
        check=True,
    )
    tables = ["fid.v1.csv", "fid.v1_teacher.csv", "fid.v1_instabilities.csv"]
    names = ["fid.v1.svg", "fid.v1.pdf", *tables]
    assert done.stdout.split() == [str(out.parent / name) for name in names]
    frame = pd.read_csv(out.parent / "fid.v1.csv")
    assert frame["fid"].tolist() == [*FID, *(1.2 * fid for fid in FID)]
    assert frame["label"].tolist() == ["SiD"] * 5 + ["other"] * 5
    assert (pd.read_csv(out.parent / "fid.v1_teacher.csv")["metric"] == "fid").sum() == 3


def test_bad_requests_are_one_clear_line(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    with pytest.raises(RequestError, match="holds no evaluation yet"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(RequestError, match="1 runs have 2 labels"):
        read_runs([run], ["x", "y"])
    (run / "results.json").write_text('{"table": ')
    with pytest.raises(RequestError, match="is not a run's results"):
        read_runs([run])
    with pytest.raises(SystemExit) as stopped:
        script_of("fid_curves").main(
            ["--run-dir", str(tmp_path / "nothing"), "--out", str(tmp_path / "x")]
        )
    assert stopped.value.code == 2
    assert "holds no evaluation yet" in capsys.readouterr().err
    frame = collect_points({"run": [Point("eval/fid", 0, math.nan, 1)]})
    with pytest.raises(RequestError, match="no distance, such as FID, to draw; their scores: none"):
        fid_curves.plot(frame)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--label", "a"], "--label names the curves of --run-dir"),
        (["--run-dir", "{run}", "--experiment", "nine_teachers"], "--experiment is of tracked"),
        (["--run-dir", "{run}", "--tracking-uri", "sqlite:///x.db"], "--tracking-uri is of"),
        (["--run-dir", "{run}", "--workspace", "{run}"], "--workspace is of tracked"),
    ],
)
def test_options_of_the_other_source_are_refused(tmp_path, capsys, monkeypatch, arguments, told):
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(tmp_path / "w"))
    run = write_run(tmp_path / "a")
    given = [text.format(run=run) for text in arguments]
    with pytest.raises(SystemExit) as stopped:
        script_of("fid_curves").main([*given, "--out", str(tmp_path / "x")])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))


def test_a_store_named_by_the_environment_is_no_option(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    run = write_run(tmp_path / "a")
    arguments = ["--run-dir", str(run), "--out", str(tmp_path / "x"), "--format", "svg"]
    assert script_of("fid_curves").main(arguments) == 0


DESCENT = [100.0, 55.0, 34.0, 24.0, 19.0, 16.5, 15.0, 14.2, 13.7, 13.4, 13.2, 13.1]
TIMES = [50.0 * place for place in range(len(DESCENT))]


def jumps(fid):
    return find_instabilities(made({"r": fid}, kimg=TIMES, alignment=[0.3] * len(TIMES)))


def test_a_spike_is_found_with_its_place_and_height():
    fid = [*DESCENT[:6], 33.0, 25.0, *DESCENT[8:]]
    (found,) = jumps(fid).to_dict("records")
    assert (found["kimg"], found["value"], found["best"]) == (300.0, 33.0, 16.5)
    assert found["score"] == "fid"
    assert found["height"] == pytest.approx(2.0)
    assert found["recovered"]
    two = jumps([*DESCENT[:4], 60.0, *DESCENT[5:-1], 40.0])
    assert two[["kimg", "recovered"]].values.tolist() == [[200.0, True], [550.0, False]]
    assert jumps([*DESCENT[:6], math.inf, *DESCENT[7:]])["height"].tolist() == [math.inf]
    climb = [*DESCENT[:6], *(16.5 * 1.12**place for place in range(1, 7))]
    (slow,) = jumps(climb).to_dict("records")
    assert (slow["kimg"], slow["best"], slow["recovered"]) == (550.0, 16.5, False)


def test_a_smooth_or_noisy_curve_has_no_instability():
    assert jumps(DESCENT).empty
    assert jumps([2.0, math.nan, 1.0, *DESCENT[3:]][:3] + [math.nan] * 9).empty
    false = {0.03: 0, 0.1: 0}
    for noise in false:
        for seed in range(200):
            rng = np.random.default_rng(seed)
            noisy = np.array(DESCENT) * np.exp(noise * rng.standard_normal(len(DESCENT)))
            false[noise] += len(jumps(list(noisy))) > 0
    assert false[0.03] == 0
    assert false[0.1] <= 4
    stable = [14.0, 14.9, 13.3, 15.1, 13.0, 14.8, 13.2, 15.0, 13.1, 14.9, 13.0, 15.2]
    assert jumps(stable).empty
    assert len(jumps([*stable[:6], 60.0, *stable[7:]])) == 1


def test_means_and_bands_are_over_the_runs_that_are_there():
    frame = made({"x": FID, "y": [2 * fid for fid in FID], "z": [math.nan] * 5})
    curve = mean_curve(frame, "fid")
    np.testing.assert_allclose(curve["mean"], 1.5 * np.array(FID))
    np.testing.assert_allclose(curve["low"], FID)
    np.testing.assert_allclose(curve["high"], 2 * np.array(FID))
    assert set(curve["n"]) == {2}
    short = frame[(frame["run"] != "y") | (frame["kimg"] < 10)]
    assert mean_curve(short, "fid")["kimg"].tolist() == [0, 6.4]


def test_panels_show_mean_band_and_rings():
    spiked = [*FID[:3], 40.0, FID[4]]
    frame = pd.concat([made({"x": FID, "y": spiked}, "one"), made({"z": FID}, "two")])
    figure = fid_curves.plot_panels(frame)
    one, two = (axes for axes in figure.axes if axes.get_title())
    expected = (np.array(FID) + np.array(spiked)) / 2
    np.testing.assert_allclose(curve(one, "fid-0").get_ydata(), expected)
    assert len(one.collections) == 1
    assert not two.collections
    ring = curve(one, "instability")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (19.2, 40.0)
    assert [text.get_text() for text in one.texts] == ["×3.9"]
    assert "instability" not in [line.get_gid() for line in two.get_lines()]


def test_the_second_axis_is_what_the_runs_have():
    frame = made({"x": FID})
    assert fid_curves.second_metric(frame) == "alignment"
    with_clip = frame.assign(clip=[0.28, 0.3, 0.31, 0.32, 0.33])
    assert fid_curves.second_metric(with_clip) == "clip"
    right = fid_curves.plot(with_clip).axes[1]
    assert right.get_ylabel().startswith("CLIP score")
    assert right.get_ylim()[1] < 0.4
    with pytest.raises(RequestError, match=r"right axis 'clip'.* Known: alignment"):
        fid_curves.second_metric(frame, "clip")


def test_a_score_that_is_asked_for_stands_on_the_right():
    frame = made({"x": FID}).assign(saturation=[1.0, 0.97, 0.95, 0.94, 0.93])
    right = fid_curves.plot(frame, second="saturation").axes[1]
    assert curve(right, "saturation-0").get_ydata().tolist() == [1.0, 0.97, 0.95, 0.94, 0.93]
    with pytest.raises(RequestError, match="Did you mean 'saturation'"):
        fid_curves.plot(frame, second="saturatoin")


def test_runs_without_fid_are_drawn_by_another_distance_or_refused_in_a_line():
    frame = made({"x": FID})
    spiked = frame.assign(fid_dinov2=[43.5, 17.9, 10.3, 40.0, 7.4]).drop(columns="fid")
    left, _ = fid_curves.plot(spiked).axes
    assert (left.get_ylabel(), left.get_yscale()) == ("FID (DINOv2)", "log")
    assert curve(left, "instability").get_ydata().tolist() == [40.0]
    (found,) = find_instabilities(spiked).to_dict("records")
    assert (found["score"], found["value"]) == ("fid_dinov2", 40.0)
    (told,) = fid_curves.describe(find_instabilities(spiked))
    assert "FID (DINOv2) 40 at 19.2 kimg" in told
    without = frame.assign(clip=0.3).drop(columns="fid")
    assert find_instabilities(without).empty
    for draw in (fid_curves.plot, fid_curves.plot_panels):
        with pytest.raises(RequestError, match=r"no distance, such as FID, .*: CLIP score, align"):
            draw(without)


def test_runs_that_clip_judges_are_drawn_with_their_fid(tmp_path, fresh_store):
    """From a store and from the runs' own folders: FID on the left, CLIP score on the right."""
    workspace = open_workspace(tmp_path / "w")
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    evaluation = EvaluationConfig(reference="coco", metrics=("fid", "clip"), primary="clip")
    configs = [
        RunConfig(
            experiment="judged",
            variant=variant,
            evaluation=evaluation,
            training=TrainingConfig(kimg=25.6),
            schedule=ScheduleConfig(evaluate_kimg=6.4),
        )
        for variant in ("one", "two")
    ]
    drift = {name: Shape(drift={"saturation": 0.9}) for name in ("one", "two")}
    populate(default_uri(workspace.root), workspace, configs, drift)
    out = tmp_path / "figure"
    tracked = ["--workspace", str(workspace.root), "--experiment", "judged"]
    assert (
        script_of("fid_curves").main([*tracked, "--out", str(out), "--format", "svg", "--csv"]) == 0
    )
    frame = pd.read_csv(f"{out}.csv")
    scores = ["fid", "clip", "saturation"]
    assert list(frame.columns)[7:] == scores
    figure = fid_curves.plot_panels(frame)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["FID", "", "", "CLIP score (pale)"]
    for place, (_, rows) in enumerate(frame.groupby("label", sort=False)):
        for axes, score in ((figure.axes[place], "fid"), (figure.axes[2 + place], "clip")):
            assert curve(axes, f"{score}-0").get_ydata().tolist() == rows[score].tolist()
    folders = [str(path.parent) for path in sorted(workspace.runs.glob("judged/*/config.json"))]
    own = ["--run-dir", *folders, "--out", str(tmp_path / "own"), "--format", "svg", "--csv"]
    assert script_of("fid_curves").main([*own, "--second", "saturation"]) == 0
    again = pd.read_csv(tmp_path / "own.csv")
    pd.testing.assert_frame_equal(again[scores], frame[scores], rtol=1e-5)


def test_a_run_that_measures_no_distance_keeps_its_scores_as_numbers(tmp_path):
    spool = Outbox(tmp_path / "run")
    for nimg, clip in ((0, 0.25), (6400, 0.3)):
        spool.metrics({"eval/clip": clip, "best/clip": clip, "drift/contrast": 1.0}, nimg)
    spool.journal.close()
    (csv,) = draw_curve(tmp_path / "run", [], tmp_path / "figures")
    assert csv.name == "scores_against_kimg.csv"
    assert pd.read_csv(csv)["clip"].tolist() == [0.25, 0.3]
    usual = draw_curve(write_run(tmp_path / "usual"), TABLE, tmp_path / "figures")
    assert {path.name for path in usual} == {f"fid_against_kimg.{e}" for e in ("png", "svg", "csv")}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, fresh_store):
    """Two teachers, two seeds each, in a store of their own."""
    workspace = open_workspace(tmp_path_factory.mktemp("tracked"))
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    configs = [
        RunConfig(
            experiment="nine_teachers",
            variant=variant,
            teacher=teacher,
            seed=seed,
            training=TrainingConfig(kimg=25.6),
            schedule=ScheduleConfig(evaluate_kimg=6.4),
        )
        for variant, teacher in (("sd3-medium", "digits-sd3"), ("sana-0.6b", "digits-sana"))
        for seed in (0, 1)
    ]
    shapes = {"sd3-medium": Shape(floor=0.6), "sana-0.6b": Shape(reached=0.6)}
    populate(default_uri(workspace.root), workspace, configs, shapes)
    return workspace


def test_tracked_runs_become_panels_in_the_experiments_order(tracked, tmp_path, capsys):
    out = tmp_path / "nine"
    uri = default_uri(tracked.root)
    elsewhere = ["--workspace", str(tmp_path), "--tracking-uri", uri]
    assert (
        script_of("fid_curves").main([*elsewhere, "--out", str(out), "--format", "svg", "--csv"])
        == 0
    )
    frame = pd.read_csv(f"{out}.csv")
    assert list(dict.fromkeys(frame["label"])) == ["sana-0.6b", "sd3-medium"]
    assert frame.groupby("label")["seed"].unique().map(list).tolist() == [[0, 1], [0, 1]]
    levels = pd.read_csv(f"{out}_teacher.csv")
    assert set(levels["label"]) == {"sd3-medium"}  # the other one is not finished
    assert set(levels["n"]) == {2}
    told = capsys.readouterr()
    assert told.out.split()[0] == f"{out}.svg"
    assert told.err.strip() == "No instabilities."
