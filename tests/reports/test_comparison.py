"""Numbers of a comparison, worked out by hand."""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reports.conftest import MakeRow
from workbench.errors import RequestError
from workbench.metrics import DRIFT_METRICS, METRICS
from workbench.reports import all_tables, compare, make_groups, write_csv
from workbench.reports.comparison import AT_KIMG, AT_SECONDS, BEST, BEST_FRESH, LAST
from workbench.reports.tables import drift_table, side_table
from workbench.tracking import Curve, RunRow, curve_tags


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
    # Both pairs of a seed differ by 0.6: so equal by chance that nothing follows.
    assert verdict.difference.mean == pytest.approx(0.6)
    assert verdict.words == "no spread between seeds: no verdict"


def test_runs_are_compared_by_training_seed(make_row: MakeRow) -> None:
    """Values that differ much between seeds and little within a pair are told apart."""
    pairs = {"a": (0.5, 0.9, 1.4), "b": (0.52, 0.93, 1.41)}
    rows = [make_row(v, s, [(1, x)]) for v, xs in pairs.items() for s, x in enumerate(xs)]
    (verdict,) = compare(make_groups(rows)).verdicts
    # Differences 0.02, 0.03, 0.01: mean 0.02, s 0.01; half = t(2) s / sqrt(3), t(2) = 4.3027.
    assert verdict.difference.mean == pytest.approx(0.02)
    assert verdict.difference.half == pytest.approx(4.30265273 * 0.01 / math.sqrt(3))
    assert verdict.difference.seeds == (0, 1, 2)
    assert verdict.p == verdict.difference.p  # one difference: nothing to correct
    assert verdict.words == "not told apart"


def test_runs_that_share_one_noise_get_no_verdict(make_row: MakeRow) -> None:
    rows = [
        make_row(variant, seed, [(1, level + 0.001 * seed)], params={"evaluation.seed": "0"})
        for variant, level in (("a", 0.5), ("b", 0.9))
        for seed in (0, 1, 2)
    ]
    found = compare(make_groups(rows))
    assert [verdict.words for verdict in found.verdicts] == ["one evaluation seed: no verdict"]
    assert any("--seed 0,1,2,3" in note for note in found.notes)
    assert all_tables(found)[0].rows[0][2] == "0.501"  # without an interval
    (spread,) = [table for table in all_tables(found) if table.title.startswith("Spread")]
    assert spread.rows[0] == ["a", "3", "0.0010", "1", "-"]


def test_verdicts_are_corrected_for_all_pairs_unless_one_is_named(make_row: MakeRow) -> None:
    chance = random.Random(0)
    rows = [
        make_row(variant, seed, [(1, level + chance.gauss(0, 0.01))])
        for variant, level in (("a", 0.5), ("b", 0.53), ("c", 0.56), ("d", 0.59))
        for seed in range(5)
    ]
    found = compare(make_groups(rows))
    assert {verdict.asked for verdict in found.verdicts} == {6}
    assert all(verdict.p >= verdict.difference.p for verdict in found.verdicts)
    assert "corrected for 6 differences" in " ".join(found.notes)
    named = compare(make_groups(rows), against="b")
    assert [(v.reference, v.asked) for v in named.verdicts] == [("b", 3)] * 3
    assert named.verdicts[0].words in ("better", "not told apart")
    with pytest.raises(RequestError, match=r"'bb'.*Did you mean 'b'"):
        compare(make_groups(rows), against="bb")


def test_the_last_and_the_best_weights_count_at_fresh_seeds_too(make_row: MakeRow) -> None:
    """The best evaluation looks better than its weights, which fresh noise shows."""
    fresh = {f"fresh/{w}_{i}_fid": v for w, i, v in FRESH} | {"eval/fid": 0.6, "best/fid": 0.4}
    rows = [make_row("a", seed, [(0, 2.0), (1, 0.4), (2, 0.6)], metrics=fresh) for seed in (0, 1)]
    (result,) = compare(make_groups(rows)).results
    assert result.get("fid", BEST).mean == pytest.approx(0.4)
    assert result.get("fid", BEST_FRESH).mean == pytest.approx(0.5)
    last = result.get("fid", LAST)
    assert last.mean == pytest.approx((0.6 + 0.63 + 0.66) / 3)
    assert last.evaluation_sd == pytest.approx(0.03)
    assert len({each.evaluation_seed for each in last.observations}) == 6
    assert result.get("fid", AT_KIMG) == last  # all runs ended there
    # Beside a run without them the fresh ones count for none: means would be of unlike noise.
    rows.append(make_row("b", 0, [(0, 2.0), (1, 0.4), (2, 0.7)]))
    beside = compare(make_groups(rows)).results
    assert [result.get("fid", AT_KIMG).mean for result in beside] == pytest.approx([0.6, 0.7])


def test_a_longer_run_s_fresh_scores_are_not_those_of_equal_kimg(make_row: MakeRow) -> None:
    """Where one group went on, none counts its end's noise: else means would be of unlike noise."""
    fresh = {"fresh/last_1_fid": 9.0, "fresh/last_2_fid": 9.0}
    rows = [make_row("short", s, [(0, 2.0), (1, 0.5)], metrics=fresh) for s in (0, 1)]
    rows += [make_row("long", s, [(0, 2.0), (1, 0.6), (2, 0.4)], metrics=fresh) for s in (0, 1)]
    found = compare(make_groups(rows))
    means = {r.group.label: r.get("fid", AT_KIMG).mean for r in found.results}
    assert means == {"short": pytest.approx(0.5), "long": pytest.approx(0.6)}


def test_a_pair_of_fewer_seeds_than_the_means_is_said(make_row: MakeRow) -> None:
    """Means of all seeds may lie the other way round than the pairs that are tested."""
    rows = [make_row("a", s, [(1, x)]) for s, x in enumerate((0.5, 0.51, 0.52, 3.0))]
    rows += [make_row("b", s, [(1, x)]) for s, x in enumerate((0.6, 0.615, 0.61))]
    found = compare(make_groups(rows))
    (verdict,) = found.verdicts
    assert (verdict.label, verdict.words) == ("a", "better")
    assert any("a against b: of the training seeds in common, 0, 1, 2" in n for n in found.notes)


def test_groups_cannot_be_held_against_one_without_scores(make_row: MakeRow) -> None:
    rows = [make_row("a", s, [(0, 2.0), (1, 0.5)]) for s in (0, 1)]
    rows += [make_row("b", s, [(0, 2.0), (1, 0.6)]) for s in (0, 1)]
    rows += [make_row("begun", 0, [(0, 2.0)])]
    with pytest.raises(RequestError, match="Not every run of begun has FID at 1 kimg"):
        compare(make_groups(rows), against="begun")


FRESH = [("last", 1, 0.63), ("last", 2, 0.66), ("best", 1, 0.49), ("best", 2, 0.51)]


def test_alignment_is_better_higher(make_row: MakeRow) -> None:
    rows = [
        make_row(
            variant,
            seed,
            [(0, 2.0), (1, 1.0)],
            alignment=level + 0.001 * seed * (seed if level < 0.85 else 1),
        )
        for variant, level in (("low", 0.8), ("high", 0.9))
        for seed in (0, 1, 2)
    ]
    found = compare(make_groups(rows), "alignment")
    assert [result.group.label for result in found.results] == ["high", "low"]
    (verdict,) = found.verdicts
    assert verdict.difference.mean == pytest.approx(-0.298 / 3)
    assert verdict.words == "worse"
    assert found.results[0].get("alignment", BEST).values == pytest.approx((0.9, 0.901, 0.902))


def test_one_seed_has_no_interval_and_says_so(make_row: MakeRow) -> None:
    rows = [make_row("a", 0, [(1, 1.0)]), make_row("b", 0, [(1, 2.0)])]
    found = compare(make_groups(rows))
    assert found.verdicts[0].words == "one seed: no verdict"
    assert "One seed only, so no interval: a, b." in found.notes
    score, _, verdict, _ = all_tables(found)
    assert score.rows[0] == ["a", "1", "1.000", "1.000", "1.000", "1.000"]
    assert verdict.rows == [["b", "+1.000", "-", "-", "one seed: no verdict"]]


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
    assert all_tables(found)[0].columns == [
        "variant",
        "seeds",
        "at 1 kimg",
        "best evaluation",
        "last",
    ]


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
    assert plain["verdicts"][0]["told_apart"] is False
    assert [line["p_holm"] for line in lines] == ["", "1.0"]


def test_markdown_is_a_table(make_row: MakeRow) -> None:
    rows = [make_row(v, 0, [(1, fid)]) for v, fid in (("a", 1.0), ("b", 2.0))]
    lines = all_tables(compare(make_groups(rows)))[0].markdown().splitlines()
    assert lines[2:] == [
        "| variant | seeds | at 1 kimg | at 100 s | best evaluation | last |",
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
    _, _, verdicts, beside = all_tables(compare(make_groups(rows)))
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


def test_the_tables_of_fid_and_alignment(make_row: MakeRow) -> None:
    rows = [
        make_row("wide", seed, [(0, 2.0), (1, 0.5 + 0.01 * seed)], alignment=0.9) for seed in (0, 1)
    ]
    rows += [make_row("narrow", 0, [(0, 2.0), (1, 0.9)], alignment=0.95)]
    text = "\n".join(table.markdown() for table in all_tables(compare(make_groups(rows))))
    assert text == (
        "**FID, mean over training seeds ± 95 % interval**\n\n"
        "| variant | seeds | at 1 kimg | at 100 s | best evaluation | last |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| wide | 2 | 0.505±0.064 | 0.505±0.064 | 0.505±0.064 | 0.505±0.064 |\n"
        "| narrow | 1 | 0.900 | 0.900 | 0.900 | 0.900 |\n\n"
        "**Spread of FID at 1 kimg**\n\n"
        "| variant | training seeds | sd over them | evaluation seeds | sd over them |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| wide | 2 | - | 2 | - |\n| narrow | 1 | - | 1 | - |\n\n"
        "**FID at 1 kimg, against wide**\n\n"
        "| variant | difference | 95 % interval | p (Holm) | verdict |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| narrow | +0.395 | - | - | one seed: no verdict |\n\n"
        "**Beside it**\n\n"
        "| variant | alignment at 1 kimg | ms/image | NFE |\n| --- | --- | --- | --- |\n"
        "| wide | 0.900±0.000 | 1.000±6.353 | 4 |\n"
        "| narrow | 0.950 | 0.500 | 4 |\n"
    )


def of_score(make_row: MakeRow, name: str, ends: dict[str, tuple[float, ...]]) -> list[RunRow]:
    """Runs that end at such values of a score, which is 1 at the start."""
    return [
        make_row(variant, seed, [(0, 2.0), (1, 1.0)], scores={name: (1.0, end)})
        for variant, values in ends.items()
        for seed, end in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("clip", (0.31, 0.311, 0.312), (0.28, 0.282, 0.281)),
        ("kid", (-0.002, -0.001, 0.0), (0.1, 0.102, 0.101)),
        ("saturation", (0.98, 0.985, 0.99), (0.8, 0.801, 0.802)),
        ("saturation", (0.98, 0.985, 0.99), (1.3, 1.301, 1.302)),
        ("saturation", (1.1, 1.101, 1.102), (0.8, 0.801, 0.802)),
    ],
)
def test_any_score_that_was_measured_judges_in_its_own_direction(
    make_row: MakeRow, name: str, better: tuple[float, ...], worse: tuple[float, ...]
) -> None:
    found = compare(make_groups(of_score(make_row, name, {"b": worse, "a": better})), name)
    assert [group.label for group in found.groups] == ["a", "b"]
    assert [(v.reference, v.words) for v in found.verdicts] == [("a", "worse")]
    best = [run for result in found.results for run in result.get(name, BEST).values]
    reached = [1.0] * 6 if name != "kid" else [*better, *worse]  # all but KID are best at 1
    assert best == pytest.approx(reached)


def test_on_either_side_of_a_target_groups_may_be_equally_good(make_row: MakeRow) -> None:
    """0.8 and 1.25 differ by much more than their spread, and are as far from 1."""
    above, below = (1.25, 1.251, 1.2495), (0.8, 0.8005, 0.7995)
    found = compare(
        make_groups(of_score(make_row, "saturation", {"a": above, "b": below})), "saturation"
    )
    (verdict,) = found.verdicts
    assert verdict.words == "not told apart"
    assert abs(verdict.difference.mean) < 0.001
    titles = [table.title for table in all_tables(found)]
    assert titles[2].startswith("|log(saturation / 1)| at 1 kimg, against ")
    # Seeds on both sides are off by as much as each of them, although their mean is on target.
    apart = {"even": (0.8, 1.2), "near": (0.95, 0.96)}
    found = compare(make_groups(of_score(make_row, "saturation", apart)), "saturation")
    assert [group.label for group in found.groups] == ["near", "even"]


def test_a_score_without_a_better_side_ranks_nothing(make_row: MakeRow) -> None:
    ends = {"b": (0.3, 0.301, 0.302), "a": (0.1, 0.102, 0.101)}
    found = compare(make_groups(of_score(make_row, "mode_std", ends)), "mode_std")
    assert [group.label for group in found.groups] == ["b", "a"]
    assert [verdict.words for verdict in found.verdicts] == ["told apart"]
    assert found.results[0].get("mode_std", BEST) is None


def test_what_judged_the_runs_judges_the_comparison(make_row: MakeRow) -> None:
    def row(variant: str, clip: float) -> RunRow:
        scores, metrics = {"clip": (0.2, clip)}, {"eval/fid": 1.0, "best/clip": clip}
        return make_row(variant, 0, [(0, 2.0), (1, clip)], scores=scores, metrics=metrics)

    found = compare(make_groups([row("low", 0.25), row("high", 0.3)]))
    assert found.metric == "clip"
    assert [group.label for group in found.groups] == ["high", "low"]


def test_the_drift_has_a_table_of_its_own(make_row: MakeRow) -> None:
    drift = {name: (1.0, 0.9 + 0.01 * place) for place, name in enumerate(DRIFT_METRICS)}
    rows = [
        make_row("a", seed, [(0, 2.0), (1, 1.0)], scores={**drift, "contrast": (1.0, 0.5 + seed)})
        for seed in (0, 1)
    ]
    rows.append(make_row("b", 0, [(0, 2.0), (1, 1.5)]))
    found = compare(make_groups(rows))
    whole = drift_table(found)
    assert whole.columns == ["variant", *(METRICS[name].title for name in DRIFT_METRICS)]
    assert whole.rows[0][:3] == ["a", "0.900±0.000", "1.000±6.353"]
    assert whole.rows[1][1:] == ["-"] * 8
    tables = all_tables(found)
    assert [len(table.columns) for table in tables[-2:]] == [5, 5]
    assert tables[3].columns == ["variant", "alignment at 1 kimg", "ms/image", "NFE"]
    # Nothing of it where nothing of it was measured.
    assert len(all_tables(compare(make_groups(rows[2:])))) == 3


def test_scores_of_skills_and_of_spread_stand_beside_the_others(make_row: MakeRow) -> None:
    def row(variant: str, spread: float) -> RunRow:
        scores = {"composition": (0.2, 0.7), "composition_two": (0.1, 0.6), "spread": (0.9, spread)}
        return make_row(variant, 0, [(0, 2.0), (1, 1.0)], scores=scores)

    rows = [row("narrow", 0.5), row("wide", 1.6)]
    beside = side_table(compare(make_groups(rows)))
    names = ["alignment", "composition", "two objects", "spread"]
    assert beside.columns == ["variant", *(f"{n} at 1 kimg" for n in names), "ms/image", "NFE"]
    assert {line[0]: line[2:5] for line in beside.rows} == {
        "narrow": ["0.700", "0.600", "0.500"],
        "wide": ["0.700", "0.600", "1.600"],
    }
    # Half of the truth's spread is as far from it as twice: 1.6 is nearer than 0.5.
    found = compare(make_groups(rows), "spread")
    assert [result.group.label for result in found.results] == ["wide", "narrow"]


def test_runs_that_measured_drift_alone_are_compared_by_it(make_row: MakeRow) -> None:
    row = make_row("a", 0, [(0, 1.0)])
    tags = curve_tags(Curve((0, 100), (0.0, 1.0), {"contrast": (1.0, 0.9)}))
    found = compare(make_groups([replace(row, tags={**row.tags, **tags})]))
    assert found.metric == "contrast"
    nothing = {**row.tags, **curve_tags(Curve((0,), (0.0,), {}))}
    with pytest.raises(RequestError, match="measured no score"):
        compare(make_groups([replace(row, tags=nothing)]))
