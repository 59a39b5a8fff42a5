"""Numbers of a comparison, worked out by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from tests.reports.conftest import MakeRow
from workbench.errors import RequestError
from workbench.reports import all_tables, compare, make_groups, write_csv
from workbench.reports.comparison import AT_KIMG, AT_SECONDS, BEST, LAST


def test_statistics_at_equal_kimg_and_equal_seconds(make_row: MakeRow) -> None:
    rows = [
        make_row("quick", 0, [(0, 2.0), (1, 0.8), (2, 0.5), (3, 0.9)], pace=20.0),
        make_row("quick", 1, [(0, 2.0), (1, 1.0), (2, 0.7), (3, 0.6)], pace=20.0),
        make_row("slow", 0, [(0, 2.0), (1, 1.5), (2, 1.1)], pace=10.0),
        make_row("slow", 1, [(0, 2.0), (1, 1.3), (2, 1.3)], pace=10.0),
    ]
    found = compare(make_groups(rows))
    # The slow ones end at 2 kimg after 200 s; the quick ones at 3 kimg after 150 s.
    assert (found.kimg, found.seconds) == (2.0, 150.0)
    quick, slow = found.results
    values = {
        name: (quick.get("fid", name).values, slow.get("fid", name).values)
        for name in (AT_KIMG, AT_SECONDS, BEST, LAST)
    }
    assert values == {
        AT_KIMG: ((0.5, 0.7), (1.1, 1.3)),
        AT_SECONDS: ((0.9, 0.6), (pytest.approx((1.5 * 1.1) ** 0.5), pytest.approx(1.3))),
        BEST: ((0.5, 0.6), (1.1, 1.3)),
        LAST: ((0.9, 0.6), (1.1, 1.3)),
    }
    assert quick.nfe == 4
    assert quick.ms_per_image is not None
    assert quick.ms_per_image.values == (0.5, 1.5)
    (verdict,) = found.verdicts
    # Equal variances s^2 = 0.02, n = 2 each: half = t(2) sqrt(0.02), t(2) = 4.3027.
    assert verdict.difference.mean == pytest.approx(0.6)
    assert verdict.difference.half == pytest.approx(4.30265273 * math.sqrt(0.02))
    assert verdict.words == "not told apart"


def test_alignment_is_better_higher(make_row: MakeRow) -> None:
    rows = [
        make_row(variant, seed, [(0, 2.0), (1, 1.0)], alignment=level + 0.001 * seed)
        for variant, level in (("low", 0.8), ("high", 0.9))
        for seed in (0, 1, 2)
    ]
    found = compare(make_groups(rows), "alignment")
    assert [result.group.label for result in found.results] == ["high", "low"]
    (verdict,) = found.verdicts
    assert verdict.difference.mean == pytest.approx(-0.1)
    assert verdict.words == "worse"
    assert found.results[0].get("alignment", BEST).values == pytest.approx((0.9, 0.901, 0.902))


def test_one_seed_has_no_interval_and_says_so(make_row: MakeRow) -> None:
    rows = [make_row("a", 0, [(1, 1.0)]), make_row("b", 0, [(1, 2.0)])]
    found = compare(make_groups(rows))
    assert found.verdicts[0].words == "one seed: no interval"
    assert "One seed only, so no interval: a, b." in found.notes
    score, verdict, _ = all_tables(found)
    assert score.rows[0] == ["a", "1", "1.000", "1.000", "1.000", "1.000"]
    assert verdict.rows == [["b", "+1.000", "-", "one seed: no interval"]]


def test_an_unfinished_run_that_limits_the_others_is_named(make_row: MakeRow) -> None:
    rows = [
        make_row("a", 0, [(0, 2.0), (4, 1.0)]),
        make_row("b", 0, [(0, 2.0), (1, 1.0)], tags={"outcome": "failed", "host": "other"}),
    ]
    found = compare(make_groups(rows))
    assert found.kimg == 1.0
    text = " ".join(found.notes)
    assert "Equal kimg is 1 of up to 4, as far as b-seed0 (failed) got" in text
    assert "different machines: elsewhere/cpu, other/cpu" in text
    assert compare(make_groups(rows, finished=True)).kimg == 4.0


def test_runs_without_times_have_no_equal_seconds(make_row: MakeRow) -> None:
    rows = [make_row("a", 0, [(0, 2.0), (1, 1.0)], pace=math.nan), make_row("b", 0, [(1, 1.0)])]
    found = compare(make_groups(rows))
    assert found.seconds is None
    assert all_tables(found)[0].columns == ["variant", "seeds", "at 1 kimg", "best", "last"]


def test_an_unknown_metric_names_the_known(make_row: MakeRow) -> None:
    with pytest.raises(RequestError, match=r"'fdi'.*Did you mean 'fid'.*Known: alignment, fid"):
        compare(make_groups([make_row("a", 0, [(0, 1.0)])]), "fdi")


def test_files_hold_every_number_in_full(make_row: MakeRow, tmp_path: Path) -> None:
    third = 1 / 3
    rows = [make_row(v, s, [(0, 2.0), (1, third + s)]) for v in "ab" for s in (0, 1)]
    found = compare(make_groups(rows))
    write_csv(found, tmp_path / "new" / "numbers.csv")
    with (tmp_path / "new" / "numbers.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["group"] for line in lines] == ["a", "b"]
    shown = found.results[0].get("fid", AT_KIMG)
    assert float(lines[0]["fid_at_kimg_mean"]) == shown.mean
    assert float(lines[0]["fid_at_kimg_high"]) == shown.mean + shown.half
    assert lines[0]["difference"] == ""
    assert [line["difference_from"] for line in lines] == ["", "a"]
    assert float(lines[1]["difference"]) == 0.0
    with pytest.raises(RequestError, match="Cannot write"):
        write_csv(found, tmp_path)

    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["groups"][0]["scores"]["fid"]["at_kimg"]["mean"] == shown.mean
    assert plain["groups"][0]["runs"][1]["evaluation"] == "protocol-a"
    assert plain["verdicts"][0]["excludes_zero"] is False


def test_markdown_is_a_table(make_row: MakeRow) -> None:
    rows = [make_row(v, 0, [(1, fid)]) for v, fid in (("a", 1.0), ("b", 2.0))]
    lines = all_tables(compare(make_groups(rows)))[0].markdown().splitlines()
    assert lines[2:] == [
        "| variant | seeds | at 1 kimg | at 100 s | best | last |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 1 | 1.000 | 1.000 | 1.000 | 1.000 |",
        "| b | 1 | 2.000 | 2.000 | 2.000 | 2.000 |",
    ]


def test_tables_name_whom_the_others_are_held_against(make_row: MakeRow) -> None:
    """Not the best, if one seed alone vouches for it; and what else was measured stands beside."""
    rows = [
        make_row("lucky", 0, [(0, 2.0), (1, 0.5)], alignment=0.9),
        *(make_row("steady", seed, [(0, 2.0), (1, 0.6)], alignment=0.8) for seed in (0, 1)),
        *(make_row("worse", seed, [(0, 2.0), (1, 0.9)], alignment=0.7) for seed in (0, 1)),
    ]
    _, verdicts, beside = all_tables(compare(make_groups(rows)))
    assert "against steady" in verdicts.title
    assert [row[0] for row in verdicts.rows] == ["lucky", "worse"]
    assert beside.columns[1] == "alignment at 1 kimg"
    assert [row[1][:5] for row in beside.rows] == ["0.900", "0.800", "0.700"]


def test_a_run_that_has_only_begun_has_no_value_at_equal_kimg_and_is_named(
    make_row: MakeRow,
) -> None:
    rows = [make_row("a", 0, [(0, 2.0), (1, 1.0)]), make_row("begun", 0, [(0, 2.0)])]
    found = compare(make_groups(rows))
    assert found.kimg == 1.0
    begun = next(result for result in found.results if result.group.label == "begun")
    assert begun.get("fid", AT_KIMG) is None
    assert begun.get("fid", LAST).values == (2.0,)
    assert any("not at equal kimg: begun" in note for note in found.notes)
