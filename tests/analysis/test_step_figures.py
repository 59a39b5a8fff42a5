"""Quality against steps taken, and against cost with the Pareto front."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tests.analysis.conftest import script_of
from tests.analysis.made_groups import at_home, made_group, of_scores, table
from tests.helpers import EMPTY, ExactOwnVelocity, SmallVelocity, labels
from workbench.errors import RequestError
from workbench.hashing import fingerprint
from workbench.plotting import save_figure
from workbench.reports import Group, estimate
from workbench.reports.figures import step_count
from workbench.reports.figures import steps_vs_quality as cost
from workbench.students.cost import evaluations_a_step
from workbench.teachers import sample_teacher
from workbench.workspace import Workspace, open_workspace

MADE = {"samples": 2000, "seed": 0, "versions": {"torch": "2"}}
"""What decides a score besides the sampler and its steps."""

CALL = {"cfg_scale": 1.0, "flow_shift": 1.0, "pipeline": "weights"}
"""What decides a teacher's images besides its steps."""


def trained(k: int, fids: dict[int, tuple[float, float]], **params: str) -> Group:
    """Two seeds of a student of K steps: steps taken -> FID of each."""
    teacher = table("teacher", 50, 0.3, 9.0) | table("teacher", 4, 0.8, 1.0)
    metrics = []
    for seed in (0, 1):
        own = [table("student", steps, both[seed], 0.25 * steps) for steps, both in fids.items()]
        metrics.append({key: value for part in (teacher, *own) for key, value in part.items()})
    settings = {"generator.steps": str(k), **params}
    return made_group(f"k{k}", fids[k], settings, metrics)


@pytest.fixture
def groups() -> list[Group]:
    return [
        trained(4, {4: (0.5, 0.6), 2: (0.7, 0.8), 1: (1.4, 1.5)}),
        trained(1, {1: (0.9, 1.0)}),
    ]


def line(axes: Axes, gid: str) -> Line2D:
    (found,) = [line for line in axes.get_lines() if line.get_gid() == gid]
    return found


def test_each_k_has_its_means_and_intervals(groups: list[Group]) -> None:
    frame = step_count.collect(groups)
    assert list(dict.fromkeys(frame["line"])) == ["k1", "k4", "teacher"]
    row = frame[(frame["line"] == "k4") & (frame["steps"] == 2)].iloc[0]
    found = estimate([0.7, 0.8])
    assert (row["fid"], row["fid_half"], row["n"]) == (
        pytest.approx(found.mean), pytest.approx(found.half), 2)  # fmt: skip
    teacher = frame[frame["line"] == "teacher"]
    assert teacher[["steps", "fid"]].values.tolist() == [[4, 0.8], [50, 0.3]]
    assert teacher["n"].tolist() == [2, 2]  # its repetitions are the noises of the two seeds


def test_the_teacher_has_an_interval_over_noises_and_none_of_one() -> None:
    own = trained(4, {4: (0.5, 0.6)})
    own.runs[1].row.metrics["table/teacher_4_fid"] = 0.9
    teacher = step_count.collect([own]).query("line == 'teacher' and steps == 4").iloc[0]
    assert teacher["fid_half"] == pytest.approx(estimate([0.8, 0.9]).half)
    shared = trained(4, {4: (0.5, 0.6)}, **{"evaluation.seed": "0"})
    frame = step_count.collect([shared])
    assert frame["fid_half"].isna().all()  # nor has the student, of two runs on one noise
    assert frame[frame["line"] == "teacher"]["n"].tolist() == [1, 1]


def test_a_seed_without_the_score_leaves_a_gap_not_another_mean() -> None:
    group = trained(2, {2: (0.5, 0.6), 1: (0.7, 0.8)})
    del group.runs[1].row.metrics["table/student_1_fid"]
    frame = step_count.collect([group])
    one = frame[(frame["line"] == "k2") & (frame["steps"] == 1)].iloc[0]
    assert math.isnan(one["fid"])
    assert one["alignment"] == pytest.approx(0.9)


def test_lines_stand_at_their_steps_and_k_is_filled(groups: list[Group]) -> None:
    frame = step_count.collect(groups)
    left, right = step_count.plot(frame, groups).axes
    own = frame[frame["line"] == "k4"]
    for axes, metric in ((left, "fid"), (right, "alignment")):
        drawn = line(axes, f"{metric}-1")
        assert [round(x) for x in drawn.get_xdata()] == [1, 2, 4]
        assert list(drawn.get_ydata()) == own[metric].tolist()
        filled = line(axes, f"{metric}-own-1")
        assert filled.get_ydata() == [own[own["steps"] == 4][metric].iloc[0]]
    assert "teacher, 50 steps" in [text.get_text() for text in left.texts]
    (legend,) = left.figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["student, K = 1", "student, K = 4", "teacher"]
    teacher = legend.get_lines()[-1]
    assert teacher.get_linestyle() == "None"  # dashes are the level's alone
    assert teacher.get_marker() == "x"


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_brute_force_finds(seed: int) -> None:
    chance = random.Random(seed)
    points = [(chance.randint(1, 6), chance.choice([0.1, 0.2, 0.3, 0.4])) for _ in range(12)]
    found = cost.front([float(c) for c, _ in points], [v for _, v in points])
    for (c, v), kept in zip(points, found, strict=True):
        no_better = not any((a <= c and b < v) or (a < c and b <= v) for a, b in points)
        assert kept == no_better
    assert cost.front([1.0, 2.0], [math.nan, 0.5]) == [False, True]


def keep(
    workspace: Workspace,
    steps: int,
    fid: float,
    *,
    name: str = "t",
    kind: str = "teacher",
    ms: float = 3.0,
    by: dict[str, Any] | None = None,
    **made: Any,
) -> Path:
    folder = workspace.root / "evaluations" / name.replace("/", "-")
    file = folder / f"digits-{steps}steps-{fid}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "model": kind,
        "name": name,
        "steps": steps,
        "nfe": steps,
        "ms_per_image": ms,
        "fid": fid,
        "reference": "digits",
        "scores": {
            "fid": {"fingerprint": {"protocol": "0" * 16, "sampler": {**CALL, **(by or {})}}}
        },
        "fingerprint": {**MADE, **made, "steps": steps, "id": "x"},
    }
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "w")


def protocol_of(groups: list[Group], protocol: str) -> list[Group]:
    for group in groups:
        for run in group.runs:
            run.row.tags["evaluation"] = protocol
    return groups


def test_a_teacher_drawn_otherwise_or_rebuilt_is_no_point_of_its_line(
    groups: list[Group], workspace: Workspace
) -> None:
    protocol_of(at_home(groups, workspace), fingerprint(MADE))
    keep(workspace, 16, 0.4)
    keep(workspace, 16, 0.1, by={"cfg_scale": 4.5})  # newer than the runs' own way, of equal steps
    keep(workspace, 8, 0.2, by={"flow_shift": 3.0})
    keep(workspace, 7, 0.3, by={"pipeline": "rebuilt"})
    frame = cost.collect(groups, workspace)
    teacher = frame[frame["line"] == "teacher"]
    assert teacher[["steps", "fid"]].values.tolist() == [[4, 0.8], [16, 0.4], [50, 0.3]]
    assert frame.attrs["notes"][0].startswith("3 kept evaluations were not made by")
    # Of other files' teacher, or of a call that evaluate does not make, none is a point.
    for run in (run for group in groups for run in group.runs):
        run.row.params["resolution"] = "512"
    assert cost.collect(groups, workspace).attrs["notes"][0].startswith("4 kept evaluations")


def test_runs_whose_folder_is_another_runs_now_say_nothing_of_the_teacher(
    groups: list[Group], workspace: Workspace
) -> None:
    protocol_of(at_home(groups[:1], workspace), fingerprint(MADE))
    keep(workspace, 16, 0.4)
    assert cost.collect(groups[:1], workspace).attrs["notes"] == ()
    for run in groups[0].runs:
        object.__setattr__(run.row, "run_id", f"fresh-{run.row.run_id}")
    assert cost.collect(groups[:1], workspace).attrs["notes"][0].startswith("1 kept")


def test_kept_evaluations_of_the_same_protocol_count(
    groups: list[Group], workspace: Workspace
) -> None:
    protocol_of(at_home(groups, workspace), fingerprint(MADE))
    old = keep(workspace, 16, 0.5)
    os.utime(old, (1, 1))
    keep(workspace, 16, 0.4)  # measured again: the newer one
    keep(workspace, 50, 0.31)  # instead of the run's own
    keep(workspace, 8, 0.6, samples=100)  # another protocol
    keep(workspace, 7, 0.6, name="another")
    (workspace.root / "evaluations" / "t" / "cut.json").write_text("{")
    frame = cost.collect(groups, workspace)
    teacher = frame[frame["line"] == "teacher"]
    assert teacher[["steps", "fid"]].values.tolist() == [[4, 0.8], [16, 0.4], [50, 0.31]]
    (note,) = frame.attrs["notes"]
    assert note.startswith("1 kept evaluations were not made by the protocol")


def test_kept_times_replace_the_runs_own(groups: list[Group], workspace: Workspace) -> None:
    protocol_of(groups, fingerprint(MADE))
    for seed, run in enumerate(groups[0].runs):
        run.row.tags["folder"] = f"/elsewhere/runs/e/k4-seed{seed}-abc"
        keep(workspace, 2, 9.9, name=f"e/k4-seed{seed}-abc", kind="student", ms=7.0 + seed)
    keep(workspace, 1, 9.9, name="e/k4-seed0-abc", kind="student", ms=99, samples=100)
    frame = cost.collect(groups, workspace)
    rows = frame[frame["line"] == "k4"].set_index("steps")
    assert rows["ms_per_image"].to_dict() == {1: 0.25, 2: 7.5, 4: 1.0}
    assert rows.loc[2, "fid"] == pytest.approx(0.75)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.5])
def test_a_step_costs_what_the_network_is_called_with(scale: float) -> None:
    network = ExactOwnVelocity(SmallVelocity(seed=1).double())
    noise = torch.randn(3, 3, dtype=torch.float64)
    sample_teacher(network, labels(3), EMPTY, noise, steps=5, cfg_scale=scale)
    assert network.evaluations == 3 * 5 * evaluations_a_step(scale)


def test_guidance_costs_two_evaluations_a_step() -> None:
    group = trained(1, {1: (0.9, 1.0)}, **{"evaluation.cfg_scale": "4.5"})
    frame = cost.collect([group])
    rows = {(row.line, row.steps): row.nfe for row in frame.itertuples()}
    assert rows == {("teacher", 4): 8, ("teacher", 50): 100, ("k1", 1): 1}


def test_intervals_of_time_stay_on_the_axis_and_marks_are_named(groups: list[Group]) -> None:
    for seed, run in enumerate(groups[0].runs):
        run.row.metrics["table/student_1_ms_per_image"] = 0.25 + 0.03 * seed
    frame = cost.collect(groups)
    row = frame[(frame["line"] == "k4") & (frame["steps"] == 1)].iloc[0]
    low = row["ms_per_image"] - row["ms_per_image_half"]
    assert 0 < low < 0.25 / 1.25
    figure = cost.plot(frame)
    left, right = figure.axes[1].get_xlim()
    assert left < low
    assert right > 9.0
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[-3:] == ["all K steps", "Pareto front", "on the front"]


def test_the_front_is_marked_in_both_panels(groups: list[Group]) -> None:
    frame = cost.collect(groups)
    figure = cost.plot(frame)
    for axes, name in zip(figure.axes, ("nfe", "ms_per_image"), strict=True):
        best = frame[frame[f"front_{name}"]].sort_values(name)
        assert best["line"].tolist() == ["k1", "k4", "k4", "teacher"]
        assert list(line(axes, f"front-{name}").get_xdata()) == best[name].tolist()
        assert axes.get_xscale() == axes.get_yscale() == "log"
        drawn = line(axes, f"{name}-k4")
        assert list(drawn.get_xdata()) == frame[frame["line"] == "k4"][name].tolist()
    assert [text.get_text() for text in figure.axes[0].texts] == ["4", "50"]


def test_legible_and_the_same_bytes(groups: list[Group], tmp_path: Path) -> None:
    costs, steps = cost.collect(groups), step_count.collect(groups)
    for name, draw in {
        "cost": lambda: cost.plot(costs),
        "steps": lambda: step_count.plot(steps, groups),
    }.items():
        figure = draw()
        figure.draw_without_rendering()
        texts = figure.findobj(lambda part: hasattr(part, "get_fontsize"))
        assert min(text.get_fontsize() for text in texts if text.get_text()) >= 7
        one, two = (save_figure(f, tmp_path / n, ["svg"])[0] for n, f in
                    ((f"{name}1", figure), (f"{name}2", draw())))  # fmt: skip
        assert one.read_bytes() == two.read_bytes()


def test_runs_that_have_not_ended_are_refused() -> None:
    for script in (cost, step_count):
        with pytest.raises(RequestError, match="No run has ended"):
            script.collect([made_group("a", (0.5,))])


def test_a_store_without_the_experiment_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script_of("steps_vs_quality").main(["--workspace", str(tmp_path / "w")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_both_figures_show_what_the_runs_measured(groups: list[Group]) -> None:
    other = of_scores(groups, {"fid": "fid_clip", "alignment": "clip"})
    left, right = step_count.plot(step_count.collect(other), other).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("FID (CLIP)", "CLIP score")
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")
    frame = cost.collect(other)
    assert cost.plot(frame).axes[0].get_ylabel() == "FID (CLIP)"
    usual = cost.collect(groups)
    assert frame["fid_clip"].tolist() == usual["fid"].tolist()
    assert frame["front_nfe"].tolist() == usual["front_nfe"].tolist()
    without = of_scores(groups, {"fid": "kid"})
    for draw in (cost.collect, lambda found: step_count.plot(step_count.collect(found), found)):
        with pytest.raises(RequestError, match=r"no distance.*their scores: KID, alignment"):
            draw(without)
    alone = of_scores(groups, {"alignment": "cmmd"})
    assert len(step_count.plot(step_count.collect(alone), alone).axes) == 1
