"""What may be averaged, and what stays apart."""

from __future__ import annotations

from tests.reports.conftest import MakeRow
from workbench.reports import Selection, make_groups
from workbench.reports.groups import is_distillation, tell_apart

CURVE = [(0, 2.0), (1, 1.0)]


def contents(selection: Selection) -> dict[str, list[str]]:
    """Label -> MLflow ids' last digits."""
    return {g.label: [run.row.run_id[-1] for run in g.runs] for g in selection.groups}


def test_seeds_of_a_variant_are_one_group(make_row: MakeRow) -> None:
    rows = [make_row(v, s, CURVE) for s in (1, 0) for v in ("a", "b")]
    assert contents(make_groups(rows)) == {"a": ["3", "1"], "b": ["4", "2"]}
    assert make_groups(rows).groups[0].seeds == (0, 1)


def test_older_settings_stand_apart_and_say_what_they_were(make_row: MakeRow) -> None:
    old = {"method.sid_alpha": "1.0", "training.kimg": "64"}
    rows = [
        make_row("a", 0, CURVE, tags={"variant_hash": "old"}, params=old),
        make_row("a", 1, CURVE, tags={"variant_hash": "old"}, params=old),
        make_row("a", 0, CURVE, tags={"variant_hash": "new"}, params={**old, "training.kimg": "6"}),
    ]
    assert contents(make_groups(rows)) == {"a (older: training.kimg=64)": ["1", "2"], "a": ["3"]}


def test_runs_set_aside_are_not_averaged_with_the_fresh_ones(make_row: MakeRow) -> None:
    rows = [make_row("a", seed, CURVE) for seed in (0, 1, 0, 0)]
    assert contents(make_groups(rows)) == {
        "a": ["4", "2"],
        "a (set aside)": ["3"],
        "a (set aside 2)": ["1"],
    }
    # A fresh run that is still going on does not take the place of a finished one.
    rows.append(make_row("a", 1, CURVE, tags={"outcome": "running"}))
    assert contents(make_groups(rows))["a"] == ["4", "2"]
    assert contents(make_groups(rows, finished=True))["a (set aside)"] == ["3"]


def test_what_cannot_be_compared_is_said(make_row: MakeRow) -> None:
    rows = [make_row("a", 0, CURVE), make_row("b", 0, CURVE, tags={"curve": None})]
    selection = make_groups(rows)
    assert list(contents(selection)) == ["a"]
    assert selection.notes == ("e/b-seed0 (finished) has no evaluation; left out.",)


def test_teachers_are_named_where_they_differ(make_row: MakeRow) -> None:
    rows = [
        make_row("a", 0, CURVE),
        make_row("a", 0, CURVE, tags={"teacher": "digits-sd3", "variant_hash": "sd3"}),
        make_row("b", 0, CURVE),
    ]
    labels = [group.label for group in tell_apart(make_groups(rows).groups)]
    assert labels == ["a on digits-sana", "a on digits-sd3", "b"]


def test_plans_and_studies_are_no_variants_runs(make_row: MakeRow) -> None:
    assert is_distillation(make_row("a", 0, CURVE))
    assert not is_distillation(make_row("a", 0, CURVE, tags={"variant": None}))
    assert not is_distillation(make_row("a", 0, CURVE, tags={"seed": None}))
