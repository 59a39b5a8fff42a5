from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

from workbench.errors import RequestError
from workbench.plotting import (
    PALETTE,
    color,
    new_figure,
    paler,
    paper_style,
    save_figure,
    save_frame,
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


def test_importing_costs_no_matplotlib_and_no_torch():
    code = "import sys, workbench.plotting; print([m for m in ('matplotlib','pandas','torch') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
