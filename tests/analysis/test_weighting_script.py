"""FID at equal kimg per weighting, and the share of each weighted density at small t."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.analysis.conftest import script_of
from tests.analysis.made_groups import made_group
from workbench.errors import RequestError
from workbench.flow import get_density
from workbench.plotting import save_figure
from workbench.reports import Group, estimate
from workbench.reports.figures import weighting

FORMULAS = {"one": "1-t", "two": "(1-t)^2/t^2", "three": "sid"}


@pytest.fixture
def groups() -> list[Group]:
    finals = {"one": (0.5, 0.6, 0.4), "two": (1.1, 1.2, 1.0), "three": (0.45, 0.46, 0.47)}
    return [
        made_group(label, fids, {"method.weighting": FORMULAS[label]})
        for label, fids in finals.items()
    ]


def test_rows_are_best_first_with_intervals(groups: list[Group]) -> None:
    frame = weighting.collect(groups)
    assert frame["label"].tolist() == ["three", "one", "two"]
    assert frame["weighting"].tolist() == ["sid", "1-t", "(1-t)^2/t^2"]
    one = frame.set_index("label").loc["one"]
    found = estimate([0.5, 0.6, 0.4])
    assert (one["fid"], one["fid_half"]) == (pytest.approx(found.mean), pytest.approx(found.half))
    assert (one["seeds"], one["kimg"]) == (3, 12.8)
    assert one["alignment"] == pytest.approx(0.95)


@pytest.mark.parametrize("t_range", ["[0.0, 1.0]", "[0.1, 0.8]"])
def test_shares_agree_with_sampling(t_range: str) -> None:
    """A second computation: t drawn from the density, weighted by hand."""
    import torch

    low, high = eval(t_range)
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = get_density("sid", (low, high)).quantile(u).numpy()
    for name, w in {"1-t": 1 - t, "1/t": 1 / t, "(1-t)^2/t^2": (1 - t) ** 2 / t**2}.items():
        group = made_group("g", (1.0,), {"method.weighting": name, "method.t_range": t_range})
        share = weighting.share_below(group, 0.25)
        assert share == pytest.approx(np.sum(w * (t < 0.25)) / np.sum(w), abs=0.01), name
    by_sample = made_group("g", (1.0,), {"method.weighting": "sid"})
    assert weighting.share_below(by_sample, 0.25) is None


def bars(figure: Figure) -> dict[str, float]:
    return {bar.get_gid(): bar.get_width() for bar in figure.axes[2].patches}


def test_panels_show_the_frame(groups: list[Group]) -> None:
    figure = weighting.plot(groups)
    _, middle, right = figure.axes
    names = [text.get_text() for text in middle.get_yticklabels()]
    assert names == ["sid", "1−t", "(1−t)²/t²"]
    shares = weighting.collect(groups).set_index("label")["share_below"]
    assert bars(figure) == {"share-0": shares["one"], "share-1": shares["two"]}
    told = [text.get_text() for text in right.texts]
    assert told == ["by sample", f"{100 * shares['one']:.0f} %", f"{100 * shares['two']:.0f} %"]
    narrower = weighting.plot(groups, below=0.1)
    assert all(bars(narrower)[gid] < share for gid, share in bars(figure).items())


def test_the_axis_says_what_judges_and_no_interval_of_one_seed(groups: list[Group]) -> None:
    one = [made_group(label, (0.5,), {"method.weighting": "1-t"}) for label in ("a", "b")]
    assert weighting.plot(groups).axes[1].get_xlabel() == "FID at 12.8 kimg\n(95 % interval)"
    assert weighting.plot(one).axes[1].get_xlabel() == "FID at 12.8 kimg"


def test_groups_of_one_weighting_are_told_apart() -> None:
    groups = [made_group("a", (1.0,)), made_group("b", (1.0,))]
    assert weighting.names_of(groups) == {"a": "1−t (a)", "b": "1−t (b)"}


def test_text_is_legible_and_bytes_repeat(groups: list[Group], tmp_path: Path) -> None:
    figures = [weighting.plot(groups, {"teacher, 50 steps": 0.3}) for _ in range(2)]
    figures[0].draw_without_rendering()
    texts = figures[0].findobj(lambda part: hasattr(part, "get_fontsize"))
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 7
    one, two = (save_figure(f, tmp_path / str(i), ["png"]) for i, f in enumerate(figures))
    assert one[0].read_bytes() == two[0].read_bytes()


def test_wrong_requests_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["--below", "2"], "between 0 and 1"), ([], "'weighting'")):
        with pytest.raises(SystemExit) as ended:
            script_of("weighting").main(["--workspace", str(tmp_path), *arguments])
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    with pytest.raises(RequestError, match="no finite FID"):
        weighting.plot([made_group("a", (float("inf"),))])
