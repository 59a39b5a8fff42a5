from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pandas as pd
import pytest

from workbench.errors import RequestError
from workbench.plotting import (
    PALETTE,
    Drawing,
    Script,
    color,
    new_figure,
    paler,
    paper_style,
    round_ticks,
    save_figure,
    save_frame,
    use_style,
)


def drawing():
    with paper_style():
        figure = new_figure()
        axes = figure.add_subplot()
        axes.plot([1, 2, 3], [2.0, 1.0, 3.0], label="line")
        axes.legend()
    return figure


def test_files_carry_no_date_and_no_version(tmp_path):
    for path in save_figure(drawing(), tmp_path / "figure", ("png", "svg", "pdf")):
        content = path.read_bytes()
        assert not any(word in content for word in (b"CreationDate", b"dc:date", b"Matplotlib"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "figure.pdf",
        "figure.png",
        "figure.svg",
    ]


def test_settings_of_the_process_do_not_reach_the_file_nor_the_style_the_process(tmp_path):
    import matplotlib as mpl

    (before,) = save_figure(drawing(), tmp_path / "one", ("svg",))
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": "other"}):
        (after,) = save_figure(drawing(), tmp_path / "two", ("svg",))
        assert mpl.rcParams["font.size"] == 20
    assert after.read_bytes() == before.read_bytes()


def test_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RequestError, match=r"figure format 'pgn'. Did you mean 'png'"):
        save_figure(drawing(), tmp_path / "figure", ("svg", "pgn"))
    assert list(tmp_path.iterdir()) == []


def test_frame_survives_the_file_exactly(tmp_path):
    frame = pd.DataFrame({"kimg": [0.1 + 0.2, 1 / 3], "label": ["a,b", 'c"d']})
    path = save_frame(frame, tmp_path / "deep" / "frame.csv")
    pd.testing.assert_frame_equal(pd.read_csv(path, float_precision="round_trip"), frame)


def test_paler_mixes_with_white():
    assert paler("#000000", 0.0) == "#ffffff"
    assert paler("#336699", 1.0) == "#336699"
    assert paler("#000000", 0.4) == "#999999"
    assert color(len(PALETTE)) == PALETTE[0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.75, 2.5, [0.8, 1.0, 2.0]),  # not 0.8, 0.9 and 1 on top of each other
        (0.28, 1.05, [0.3, 0.5, 0.7, 1.0]),
        (1.0, 100.0, [1.0, 10.0, 100.0]),
        (0.29, 6.0, [0.5, 1.0, 2.0, 5.0]),
        (0.4, 0.61, [0.4, 0.5, 0.6]),
    ],
)
def test_ticks_are_round_and_stand_apart(low, high, expected):
    ticks = round_ticks(low, high)
    assert ticks == pytest.approx(expected)
    apart = [math.log10(b / a) / math.log10(high / low) for a, b in pairwise(ticks)]
    assert min(apart) >= 0.12


def test_importing_costs_no_matplotlib_and_no_torch():
    code = "import sys, workbench.plotting; print([m for m in ('matplotlib','pandas','torch') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_screen_is_the_papers_picture_enlarged(tmp_path):
    paper = drawing()
    with use_style("screen"):
        screen = drawing()
    sizes = [figure.get_size_inches()[0] for figure in (paper, screen)]
    assert sizes[1] == pytest.approx(1.5 * sizes[0])
    for figure in (paper, screen):
        figure.draw_without_rendering()
    for one, two in zip(paper.axes[0].get_xticklabels(), screen.axes[0].get_xticklabels()):  # noqa: B905
        assert two.get_fontsize() == pytest.approx(1.5 * one.get_fontsize())
    boxes = [figure.axes[0].get_position().bounds for figure in (paper, screen)]
    assert boxes[1] == pytest.approx(boxes[0], abs=0.02)
    with pytest.raises(RequestError, match="Did you mean 'screen'"), use_style("screan"):
        pass


def test_a_script_fails_in_one_line_and_prints_its_files(tmp_path, capsys):
    def draw(options):
        if options.experiment == "bad":
            raise RequestError("no such thing")
        return Drawing(
            {"": drawing()}, {"": pd.DataFrame({"x": [1]})}, {".txt": "a"}, "table", ("n",)
        )

    script = Script("mine", "What it shows.", draw, experiment="good")
    out = tmp_path / "a.b"
    assert script.main(["--out", str(out), "--format", "svg", "--csv"]) == 0
    told = capsys.readouterr()
    assert told.out.split() == ["table", *(f"{out}{end}" for end in (".svg", ".txt", ".csv"))]
    assert told.err == "n\n"
    for arguments, message in (
        (["--experiment", "bad"], "no such thing"),
        (["--format", "pgn"], "Did you mean 'png'"),
        (["--out", str(out / "below" / "a")], "Cannot write"),
    ):
        (tmp_path / "a.b").write_text("a file, no folder")
        with pytest.raises(SystemExit) as ended:
            script.main(arguments)
        assert ended.value.code == 2
        told = capsys.readouterr()
        assert message in told.err
        assert told.err.count("\n") == 1
