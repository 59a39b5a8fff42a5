"""Figure 2: every curve against sampling, closed forms, and where there is no integral at all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest

from tests.analysis.conftest import script_of
from workbench.errors import RequestError
from workbench.flow import DENSITIES, WEIGHTINGS, LogitNormal, TimeWeighting
from workbench.flow.densities import Histogram
from workbench.plotting import use_style
from workbench.reports.figures import schedule_density as script
from workbench.reports.weighted_density import weighted_density

COLUMNS = ("sid", "trigflow", "sana", "ddpm", "edm_train", "edm_sid")
ROWS = ("1", "1/t", "1-t", "(1-t)^2", "(1-t)/t", "(1-t)^2/t^2")


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str], object]:
    return {(cell.density.name, cell.weighting.name): cell for cell in script.make_cells()}


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten afterwards."""
    kept = dict(DENSITIES), dict(WEIGHTINGS)
    yield
    for registry, before in zip((DENSITIES, WEIGHTINGS), kept, strict=True):
        registry.clear()
        registry.update(before)


def test_the_papers_cells_in_its_order(cells):
    assert list(cells) == [(column, row) for column in COLUMNS for row in ROWS]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("column", COLUMNS)
def test_samples_follow_the_curve(cells, column, row):
    """Kolmogorov-Smirnov: the density's own samples, resampled by w, against the curve's integral.

    The distribution function comes from the curve by Simpson's rule, not from the script's.
    """
    cell = cells[column, row]
    t, weights = cell.sample(1 << 17, seed=3)
    picked = np.random.default_rng(0).choice(t, size=2000, replace=True, p=weights)
    low, high = (float(end) for end in cell.kept.support)
    ends = np.clip([low, high], 1e-7, 1 - 1e-9)
    logits = np.linspace(*np.log(ends / (1 - ends)), 400_001)
    times = 1 / (1 + np.exp(-logits))
    heights = cell.pdf(times) * times * (1 - times)  # dt = t (1 - t) d logit
    parts = np.diff(logits) * (heights[1:] + heights[:-1]) / 2
    cdf = np.concatenate(([0.0], parts.cumsum()))
    assert cdf[-1] == pytest.approx(1, abs=2e-4)  # the end intervals of a support are halved
    assert kstest(picked, lambda x: np.interp(x, times, cdf)).pvalue > 1e-4


@pytest.mark.parametrize(("name", "m", "s"), [("sid", math.log(2), 1.6), ("edm_train", -1.2, 1.2)])
def test_normalisers_are_the_closed_forms(cells, name, m, s):
    """E[((1-t)/t)^k] = exp(-k m + k^2 s^2 / 2) for logit t ~ N(m, s^2)."""
    odds = math.exp(-m + s**2 / 2)
    expected = {"1": 1.0, "(1-t)/t": odds, "1/t": 1 + odds, "(1-t)^2/t^2": math.exp(2 * (s**2 - m))}
    for row, value in expected.items():
        assert cells[name, row].normalizer == pytest.approx(value, rel=1e-6)
    shifted = LogitNormal("shifted", m - 2 * s**2, s)
    t = np.geomspace(1e-5, 0.99, 50)
    expected = shifted.pdf(torch.from_numpy(t)).numpy()
    np.testing.assert_allclose(cells[name, "(1-t)^2/t^2"].pdf(t), expected, rtol=1e-6)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("column", COLUMNS)
def test_curves_integrate_to_one(cells, column, row):
    """By Gauss-Legendre within each step of a discretised density, else by adaptive quadrature."""
    cell = cells[column, row]
    low, high = (float(end) for end in cell.kept.support)
    if column in ("sana", "ddpm"):
        edges = getattr(cell.density, "edges", None)
        if edges is None:
            steps = cell.density.interpolant
            own = torch.linspace(*steps.time_range, round(cell.density.length) + 1)
            edges = steps.to_rectified(own.double())
        inside = edges.numpy()[(edges.numpy() > low) & (edges.numpy() < high)]
        edges = np.concatenate(([low], inside, [high]))
        nodes, weights = np.polynomial.legendre.leggauss(12)
        half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
        times = middle[:, None] + half[:, None] * nodes
        total = float(
            (half[:, None] * weights * cell.pdf(times.ravel()).reshape(times.shape)).sum()
        )
    else:

        def height(x: float) -> float:
            t = 1 / (1 + math.exp(-x))
            return float(cell.pdf(np.array([t]))[0]) * t * (1 - t)

        begin, end = (math.log(max(t, 1e-30) / max(1 - t, 1e-15)) for t in (low, high))
        points = np.linspace(max(begin, -40), min(end, 34), 12)[1:-1]
        total, _ = quad(
            height, max(begin, -40), min(end, 34), points=points, epsabs=1e-9, limit=400
        )
    assert total == pytest.approx(1, abs=1e-6)


def test_only_what_has_no_integral_is_cut_and_says_so(cells):
    cut = {key for key, cell in cells.items() if cell.is_cut}
    assert cut == {("sana", row) for row in ("1/t", "(1-t)/t", "(1-t)^2/t^2")}
    cell = cells["sana", "1/t"]
    below = torch.tensor([cell.lower / 2, cell.lower], dtype=torch.float64)
    assert float(cell.density.cdf(below)[1]) == pytest.approx(1e-9, rel=1e-3)
    assert cell.pdf(below.numpy()[:1]) == 0
    notes = script.notes_of(script.summarize(list(cells.values())))
    assert len(notes) == 3
    assert all("over sana has no integral on (0, 1)" in note for note in notes)


def test_integrals_are_told_from_none_at_both_ends():
    flat = Histogram("flat", torch.linspace(0, 1, 5), torch.ones(4))

    def made(of_t):
        return weighted_density(flat, TimeWeighting("w", of_t))

    assert not made(lambda t: t**-0.5).is_cut
    assert made(lambda t: t**-0.5).normalizer == pytest.approx(2, rel=1e-4)
    assert made(lambda t: 1 / t).lower == pytest.approx(1e-9)
    assert made(lambda t: 1 / t).normalizer == pytest.approx(math.log(1e9), rel=1e-6)
    assert made(lambda t: 1 / (1 - t)).upper == pytest.approx(1 - 1e-9)
    assert made(lambda t: 1 / (1 - t)).lower == 0
    with pytest.raises(RequestError, match="negative"):
        _ = made(lambda t: t - 0.5).normalizer


def test_a_registered_density_and_weighting_get_a_column_and_a_row(registries, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from workbench.flow import LogitNormal, TimeWeighting, register_density\n"
        "from workbench.flow import register_weighting\n"
        "register_density(LogitNormal('mine', 0.0, 1.0))\n"
        "register_weighting(TimeWeighting('t', lambda t: t))\n"
    )
    out = tmp_path / "figure"
    arguments = ["--register", str(file), "--out", str(out), "--format", "svg", "--csv"]
    assert script_of("schedule_density").main(arguments) == 0
    frame = pd.read_csv(f"{out}.csv")
    assert frame["density"].unique().tolist() == [*COLUMNS, "mine"]
    assert frame["weighting"].unique().tolist() == [*ROWS, "t"]
    cells = pd.read_csv(f"{out}_cells.csv").set_index(["density", "weighting"])
    assert cells.loc[("mine", "t"), "normalizer"] == pytest.approx(0.5, rel=1e-6)
    assert (cells["lower"] > 0).sum() == 3
    assert {"1/t^2"} == {c.weighting.name for c in script.make_cells(everything=True)} - {
        *ROWS,
        "t",
    }


def test_a_file_that_registers_nothing_usable_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        script_of("schedule_density").main(["--register", str(tmp_path / "none.py")])
    assert ended.value.code == 2
    assert "none.py: FileNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["paper", "screen"])
def test_panels_share_t_and_text_is_legible(cells, style):
    chosen = list(cells.values())
    bins, summary = script.collect_bins(chosen, samples=1 << 12), script.summarize(chosen)
    frame = script.collect(chosen)
    scale = {"paper": 1.0, "screen": 1.5}[style]
    for width, blocks in ((7.0, 1), (3.4, 2)):
        with use_style(style):
            figure = script.plot(frame, bins, summary, width=width)
        figure.draw_without_rendering()
        assert figure.get_size_inches()[0] == pytest.approx(scale * width)
        assert len(figure.axes) == 36
        assert len(figure.subfigs) == blocks
        assert all(axes.get_xlim() == (0, 1) for axes in figure.axes)
        shown = list(figure.findobj(lambda part: hasattr(part, "get_fontsize")))
        assert min(text.get_fontsize() for text in shown if text.get_text()) >= 7 * scale
        boxes = [
            (text.get_text(), text.get_window_extent())
            for axes in figure.axes
            for text in (*axes.texts, axes.title)
            if text.get_text()
        ]
        for place, (name, box) in enumerate(boxes):
            hidden = [other for other, second in boxes[:place] if box.overlaps(second)]
            assert not hidden, f"{name!r} over {hidden} at {width} inches"


def test_a_panel_draws_its_curve_its_bars_and_its_median(cells):
    chosen = [cells["edm_train", "1-t"]]
    frame, bins = script.collect(chosen), script.collect_bins(chosen)
    (axes,) = script.plot(frame, bins, script.summarize(chosen)).axes
    lines = {line.get_gid(): line for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["curve"].get_ydata(), frame["pdf"])
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_array_equal(heights, bins["sampled"])
    np.testing.assert_allclose(bins["sampled"], bins["exact"], atol=0.02)
    assert float(bins["exact"].sum()) / len(bins) == pytest.approx(1, abs=1e-6)
    median = float(lines["median"].get_xdata()[0])
    assert chosen[0].cdf(np.array([median]))[0] == pytest.approx(0.5, abs=1e-6)
