"""Figure 3: rows of images by range of t, with scores beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.analysis.conftest import script_of
from tests.analysis.made_groups import made_group, of_scores, table
from workbench.errors import NoRunsError
from workbench.evaluation.grids import to_pixels
from workbench.plotting import save_figure
from workbench.plotting.curves import distinct
from workbench.reports import Group, estimate
from workbench.reports.figures import t_range
from workbench.training import formats
from workbench.workspace import open_workspace

PROMPTS = ["the digit 1", "four written by hand"]


@pytest.fixture
def groups() -> list[Group]:
    metrics = [table("teacher", 50, 0.3, 9.0, alignment=0.93)] * 2
    ranges = {"late": "[0.5, 1.0]", "all": "[0.0, 1.0]", "early": "[0.0, 0.25]"}
    finals = {"late": (0.5, 0.6), "all": (0.4, 0.44), "early": (3.0, 3.2)}
    return [
        made_group(label, finals[label], {"method.t_range": limits}, metrics)
        for label, limits in ranges.items()
    ]


@pytest.fixture
def images() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {name: rng.random((2, 3, 8, 8), np.float32) for name in ("late", "all", "early")}


def test_rows_go_from_the_clean_end_to_the_noisy(groups: list[Group]) -> None:
    frame = t_range.collect(groups)
    assert frame["label"].tolist() == ["early", "all", "late"]
    assert frame[["low", "high"]].values.tolist() == [[0, 0.25], [0, 1], [0.5, 1]]
    assert frame["shown_run"].tolist() == ["early-seed0", "all-seed0", "late-seed0"]
    found = estimate([0.5, 0.6])
    late = frame.iloc[2]
    assert (late["fid"], late["fid_half"]) == (pytest.approx(found.mean), pytest.approx(found.half))


def test_figure_holds_images_ranges_and_scores(
    groups: list[Group], images: dict[str, NDArray[np.float32]]
) -> None:
    frame = t_range.collect(groups)
    teacher = {"teacher, 50 steps": (images["all"][::-1], {"fid": 0.3, "alignment": 0.93})}
    figure = t_range.plot(frame, images, PROMPTS, teacher)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    expected = [images["all"][::-1], *(images[label] for label in ("early", "all", "late"))]
    for one, other in zip(
        shown, np.concatenate([to_pixels(each) for each in expected]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    texts = [text.get_text() for text in figure.texts]
    told = [text.replace("\n", " ") for text in texts]
    for text in ("teacher, 50 steps", "0 < t < 0.25", "0.5 < t < 1", "0.300", "0.930", *PROMPTS):
        assert text in told
    half = estimate([3.0, 3.2]).half
    assert f"3.100\n± {half:.3f}" in texts
    bars = {line.get_gid(): line for line in figure.artists if line.get_gid()}
    whole = np.ptp(bars["range-0 < t < 1"].get_xdata())
    assert np.ptp(bars["range-0 < t < 0.25"].get_xdata()) == pytest.approx(whole / 4)
    late = bars["range-0.5 < t < 1"].get_xdata()
    assert late[1] == pytest.approx(bars["range-0 < t < 1"].get_xdata()[1])


def test_nothing_overlaps_and_text_is_legible(
    groups: list[Group], images: dict[str, NDArray[np.float32]], tmp_path: Path
) -> None:
    frame = t_range.collect(groups)
    figure = t_range.plot(frame, images, PROMPTS)
    figure.draw_without_rendering()
    assert min(text.get_fontsize() for text in figure.texts) >= 7
    boxes = [text.get_window_extent() for text in figure.texts]
    pictures = [axes.get_window_extent() for axes in figure.axes]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[:place], *pictures])
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
    again = t_range.plot(frame, images, PROMPTS)
    one, two = (save_figure(f, tmp_path / n, ["png"])[0] for n, f in (("a", figure), ("b", again)))
    assert one.read_bytes() == two.read_bytes()


def test_two_groups_of_one_range_are_told_apart() -> None:
    names = {"a": "0 < t < 1", "b": "0 < t < 1", "c": "0.5 < t < 1"}
    expected = {"a": "0 < t < 1, a", "b": "0 < t < 1, b", "c": "0.5 < t < 1"}
    assert distinct(names, "{name}, {label}") == expected


def test_columns_are_what_the_runs_show() -> None:
    shown = [f"prompt {place}" for place in range(9)]
    groups = [made_group("a", (1.0,), {"evaluation.shown": json.dumps(shown)})]
    assert t_range.default_prompts(groups) == tuple(shown[:6])
    before = [made_group("b", (1.0,), {"prompts.source": "digits"})]
    assert t_range.default_prompts(before) == tuple(formats.shown_in_format_1()[:6])


def test_runs_that_are_elsewhere_are_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(NoRunsError, match="The folder of x-seed0 is not on this machine"):
        t_range.draw_images(open_workspace(tmp_path), [made_group("x", (1.0,))], PROMPTS, 0)


def test_a_store_without_the_experiment_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script_of("t_range").main(["--workspace", str(tmp_path / "w")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_beside_the_rows_stand_the_scores_that_the_runs_have(
    groups: list[Group], images: dict[str, NDArray[np.float32]]
) -> None:
    other = of_scores(groups, {"fid": "fid_clip", "alignment": "clip"})
    texts = [t.get_text() for t in t_range.plot(t_range.collect(other), images, PROMPTS).texts]
    assert {"FID (CLIP)", "CLIP score"} <= set(texts)
    assert not {"FID", "alignment"} & set(texts)
    plain = t_range.plot(t_range.collect(groups), images, PROMPTS)
    assert [text.split("\n")[0] for text in texts if "±" in text] == [
        text.get_text().split("\n")[0] for text in plain.texts if "±" in text.get_text()
    ]
