"""Methods at equal cost, from groups of runs without a store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.made_groups import made_group, of_scores, table
from workbench.reports import Group
from workbench.reports.figures import methods
from workbench.reports.frames import collect_curves, level_frame

FLOOR = {**table("teacher", 4, 0.8, 1.0), **table("teacher", 50, 0.3, 1.0)}
PER_IMAGE = {"sid": 12, "dmd": 10, "dmd2": 39}


def counted(label: str, fids: tuple[float, ...], per_image: int | None) -> Group:
    group = made_group(label, fids, metrics=[FLOOR] * len(fids))
    if per_image is None:
        return group
    spent = tuple(float(nimg * per_image) for nimg in (0, 6400, 12800))
    runs = [replace(run, curve=replace(run.curve, evaluations=spent)) for run in group.runs]
    return replace(group, runs=tuple(runs))


@pytest.fixture
def groups() -> list[Group]:
    return [
        counted(name, fids, PER_IMAGE[name])
        for name, fids in (("sid", (0.5, 0.52)), ("dmd", (0.6, 0.62)), ("dmd2", (0.4, 0.42)))
    ]


def rows(groups: list[Group]) -> dict[str, dict[str, str]]:
    made = methods.compare_costs(collect_curves(groups), level_frame(groups))
    return {row[0]: dict(zip(made.columns, row, strict=True)) for row in made.rows}


def test_each_budget_is_what_all_methods_reached(groups: list[Group]) -> None:
    """dmd ends at 128,000 evaluations: there sid is at 10.7 kimg, and dmd2 is at 3.3."""
    found = rows(groups)
    assert list(found)[:3] == ["dmd", "sid", "dmd2"]
    heads = [head for head in found["sid"] if head.startswith("FID at")]
    assert heads == ["FID at 12.8 kimg", "FID at 0.128 M evaluations", "FID at 2 s"]
    # Halving between 6.4 and 12.8 kimg: 1.02 / 2^(2/3).
    assert [found["sid"][head][:5] for head in heads] == ["0.510", "0.643", "0.510"]
    assert [found["dmd"][head][:5] for head in heads] == ["0.610"] * 3
    assert [found["dmd2"][head][:5] for head in heads] == ["0.410", "1.266", "0.410"]
    assert found["dmd2"]["evaluations an image"] == "39.0"
    assert found["teacher, 4 steps"]["FID at 12.8 kimg"] == "0.800"


def test_a_longer_run_counts_at_the_shorter_ones_budget(groups: list[Group]) -> None:
    long = counted("scm", (0.7,), 5)
    (run,) = long.runs
    scores = {"fid": (2.0, 1.9, 0.7), "alignment": (0.8, 0.8, 0.9)}
    curve = replace(run.curve, nimg=(0, 12800, 38400), scores=scores, evaluations=(0, 64e3, 192e3))
    found = rows([*groups, replace(long, runs=(replace(run, curve=curve),))])
    assert found["scm"]["FID at 12.8 kimg"] == "1.900"
    assert found["scm"]["FID at 0.128 M evaluations"] == "1.153"  # half of the way, in logarithms
    assert (found["scm"]["last kimg"], found["scm"]["FID there"]) == ("38.4", "0.700")


def test_runs_that_did_not_count_are_compared_at_the_other_costs(groups: list[Group]) -> None:
    found = rows([*groups, counted("old", (0.9,), None)])
    assert [head for head in found["sid"] if head.startswith("FID at")] == [
        "FID at 12.8 kimg",
        "FID at 2 s",
    ]
    frame = collect_curves([counted("old", (0.9,), None)])
    assert "old" in methods.uncounted(frame)[0]


def test_a_panel_for_each_cost(groups: list[Group]) -> None:
    figure = methods.plot(collect_curves(groups), level_frame(groups))
    panels = figure.axes
    assert [axes.get_xlabel().split(" (")[0] for axes in panels] == [
        "generated images",
        "network evaluations",
        "seconds of training",
    ]
    lines = {line.get_gid(): line for line in panels[1].get_lines() if line.get_gid()}
    assert lines["mean-0"].get_xdata() == pytest.approx([0.0768, 0.1536])
    assert lines["mean-0"].get_ydata() == pytest.approx([1.02, 0.51])


def test_runs_without_fid_are_held_by_the_distance_that_they_have(groups: list[Group]) -> None:
    usual = rows(groups)
    other = rows(of_scores(groups, {"fid": "sliced_w2", "alignment": "clip"}))
    assert other == {
        label: {head.replace("FID", "sliced W2"): cell for head, cell in row.items()}
        for label, row in usual.items()
    }
