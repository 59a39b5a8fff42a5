"""Scores that ``workbench evaluate`` logged: which are meant, which compare, and what they say."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from tests.reports.conftest import MakeRow
from workbench.errors import RequestError
from workbench.evaluation import Interval
from workbench.evaluation.evaluator import protocol_id
from workbench.hashing import fingerprint
from workbench.metrics import Goal
from workbench.reports import (
    ScoreComparison,
    ScoreFiles,
    ScoreQuery,
    all_tables,
    compare_scores,
    is_logged,
    make_groups,
    write_csv,
)
from workbench.scoring.kept_scores import ScoreName
from workbench.scoring.scored_rows import Score, ScoredRow, keep_row
from workbench.tracking import RunRow
from workbench.workspace import Workspace, open_workspace

PROTOCOL = {
    "features": "inception/aa after centre crop, pil-bicubic to 256",
    "reference": "bb",
    "samples": 2000,
    "prompts": "cc",
    "versions": {"torch": "2.12.0", "numpy": "2.4"},
}
OTHER = {**PROTOCOL, "samples": 10000, "versions": {"torch": "2.13.0", "numpy": "2.4"}}

Measure = Callable[..., RunRow]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "workspace")


@pytest.fixture
def measure(make_row: MakeRow, place: Workspace) -> Measure:
    """A run of a variant and seed with one more logged score, and the file that evaluate keeps."""

    def add(
        row: RunRow | tuple[str, int],
        value: float,
        made: Mapping[str, Any] = PROTOCOL,
        *,
        metric: str = "kid",
        reference: str = "coco10k",
        steps: int = 4,
        kimg: float = 12.8,
        seed: int | None = None,
        logged: bool = True,
    ) -> RunRow:
        if isinstance(row, tuple):
            row = make_row(*row, [(12.8, 1.0)], tags={"folder": f"/runs/e/{row[0]}-seed{row[1]}"})
        protocol = protocol_id({"metric": metric, **made})
        drawn = int(row.tags["seed"]) if seed is None else seed
        known = {"metric": metric, **made, "seed": drawn, "protocol": protocol}
        known["sampler"] = {"kimg": kimg}
        known["id"] = fingerprint(known)
        ends = Interval(value - 0.25, value + 0.5)
        kept = ScoredRow(
            model=f"e/{Path(row.tags['folder']).name}",
            kind="student",
            reference=reference,
            samples=int(made["samples"]),
            steps=steps,
            nfe=float(steps),
            ms_per_image=1.0,
            scores=(Score(metric, value, known, ends),),
            fingerprint=known,
            kimg=kimg,
        )
        keep_row(place, kept)
        metrics = {**row.metrics, **kept.tracked()} if logged else row.metrics
        return replace(row, metrics=metrics)

    return add


@pytest.fixture
def asked(place: Workspace) -> Callable[..., ScoreComparison]:
    def ask(*rows: RunRow, allow_mixed: bool = False, **wanted: Any) -> ScoreComparison:
        # A store that does not exist: what is in the workspace is enough.
        files = ScoreFiles(f"sqlite:///{place.root}/none.db", place)
        choice = ScoreQuery(wanted.pop("metric", "kid"), **wanted)
        return compare_scores(make_groups(rows), choice, files, allow_mixed=allow_mixed)

    return ask


def test_a_name_says_what_was_measured_and_nothing_else_is_one() -> None:
    name = ScoreName("coco-10k.v2", "fid_clip", 4, "0123abcd")
    assert name.key == "evaluation/coco-10k.v2/fid_clip_4steps_0123abcd"
    assert ScoreName.parse(name.key) == name
    drawn = replace(name, seed=12)
    assert drawn.key == f"{name.key}_seed12"
    assert ScoreName.parse(drawn.key) == drawn
    assert drawn.of_any_seed == name
    for other in ("eval/fid", "evaluation/digits/fid_4steps", "table/student_4_fid"):
        assert ScoreName.parse(other) is None


def test_means_and_intervals_over_seeds_and_over_samples_of_one(
    measure: Measure, asked: Callable[..., ScoreComparison], tmp_path: Path
) -> None:
    rows = [measure(("a", seed), value) for seed, value in enumerate((3.0, 4.0, 5.5))]
    rows += [measure(("b", 0), 2.0), measure(("c", 0), 9.0), measure(("c", 1), 9.5)]
    found = asked(*rows)
    assert (found.reference, found.steps, found.goal) == ("coco10k", 4, Goal.LOWER)
    b, a, _ = found.results
    assert [r.group.label for r in found.results] == ["b", "a", "c"]
    t = stats.ttest_1samp([3.0, 4.0, 5.5], 0.0).confidence_interval(0.95)
    assert a.interval == pytest.approx((t.low, t.high))
    assert (a.interval_over, b.interval_over) == ("training and evaluation", "samples")
    assert b.interval == (1.75, 2.5)  # of the file: not around one seed's mean
    # The only group of one seed vouches for nothing: a is what the others are held against.
    assert [(v.label, v.reference, v.words) for v in found.verdicts] == [
        ("b", "a", "one seed: no verdict"),
        ("c", "a", "worse"),
    ]
    assert any("says nothing of other ones: b." in note for note in found.notes)
    scores, spread, verdicts = all_tables(found)
    assert [row[0] for row in spread.rows] == ["a", "c"]
    assert scores.columns[3:] == ["kid ↓", "95 % interval", "over"]
    assert scores.rows[0] == ["b", "1", "12.8", "2", "1.75 to 2.5", "samples"]
    assert len(verdicts.rows) == 2
    write_csv(found, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["mean"]) for line in lines] == [2.0, pytest.approx(12.5 / 3), 9.25]
    assert lines[0]["protocol"] == found.protocols[0]
    assert (lines[0]["low"], lines[0]["interval_over"]) == ("1.75", "samples")
    fingerprint = found.as_dict()["groups"][0]["runs"][0]["kept"]["fingerprint"]
    assert fingerprint["samples"] == 2000


def test_scores_at_several_evaluation_seeds_are_crossed_with_the_training_seeds(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    """Of runs that shared one noise: scored again at the same four, they get verdicts."""
    training, noise = (0.0, 0.05, -0.03), (0.0, 0.1, -0.08, 0.02)
    rows = []
    for variant, level in (("a", 1.0), ("b", 1.3)):
        for seed, own in enumerate(training):
            row: RunRow | tuple[str, int] = (variant, seed)
            for place, common in enumerate(noise):
                rest = 0.01 * ((seed + place) % 2) + 0.004 * ((seed * place + ord(variant)) % 3)
                value = level + own + common + rest
                row = measure(row, value, seed=place)
            rows.append(row)
    found = asked(*rows)
    a, _ = found.results
    assert (len(a.scores), a.estimate.n) == (12, 3)
    assert a.interval_over == "training and evaluation"
    observations = [(o.training_seed, o.evaluation_seed, o.value) for o in a.estimate.observations]
    assert observations[5] == (1, 1, pytest.approx(1.0 + 0.05 + 0.1, abs=0.02))
    # What both share cancels in the pairs, and stays in each one's own interval.
    (verdict,) = found.verdicts
    assert verdict.words == "worse"
    assert verdict.difference.half < 0.1 * a.estimate.half
    scores, spread, _ = all_tables(found)
    assert spread.rows[0][:3:2] + spread.rows[0][3:4] == ["a", f"{a.estimate.training_sd:.3f}", "4"]
    assert a.estimate.evaluation_sd == pytest.approx(stats.tstd(noise), rel=0.1)
    assert scores.rows[0][1] == "3"


def test_evaluation_seeds_that_some_runs_lack_are_left_out_and_named(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    rows = []
    for variant, seeds in (("a", (0, 1, 2)), ("b", (1, 2, 3))):
        for training in (0, 1):
            row: RunRow | tuple[str, int] = (variant, training)
            for seed in seeds:
                row = measure(row, 1.0 + 0.1 * seed + 0.01 * training, seed=seed)
            rows.append(row)
    found = asked(*rows)
    assert [len(result.scores) for result in found.results] == [4, 4]
    assert any("not every run was scored at (0, 3)" in note for note in found.notes)


def test_higher_is_better_where_the_metric_says_so(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    rows = [measure((v, 0), x, metric="clip") for v, x in (("a", 0.2), ("b", 0.3))]
    found = asked(*rows, metric="clip")
    assert [result.group.label for result in found.results] == ["b", "a"]
    assert "clip ↑" in all_tables(found)[0].columns


def test_files_of_before_the_registry_still_count(
    measure: Measure, asked: Callable[..., ScoreComparison], place: Workspace
) -> None:
    """They say themselves which way the score improves; the registry is asked all the same."""
    rows = [measure((v, 0), x, metric="clip") for v, x in (("a", 0.2), ("b", 0.3))]
    files = list((place.root / "evaluations").glob("*/*.json"))
    assert len(files) == 2
    for file in files:
        content = json.loads(file.read_text())
        assert "lower_is_better" not in content["scores"]["clip"]
        content["scores"]["clip"]["lower_is_better"] = False
        file.write_text(json.dumps(content))
    found = asked(*rows, metric="clip")
    assert [result.group.label for result in found.results] == ["b", "a"]
    assert found.results[0].interval == (pytest.approx(0.05), pytest.approx(0.8))
    assert found.as_dict()["goal"] == "maximize"


def test_what_is_not_said_is_the_only_one_there_is(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    row = measure(measure(("a", 0), 1.0), 2.0, steps=2)
    with pytest.raises(RequestError, match=r"with --steps 2 and 4: choose one\."):
        asked(row)
    assert asked(row, steps=2).results[0].estimate.mean == 2.0
    row = measure(row, 3.0, reference="digits", steps=2)
    with pytest.raises(RequestError, match=r"with --reference coco10k and digits: choose one"):
        asked(row, steps=2)
    assert asked(row, reference="digits").results[0].estimate.mean == 3.0
    for wanted, message in (
        ({"reference": "coco"}, r"Unknown reference of kid 'coco'.*Known: coco10k, digits"),
        ({"reference": "digits", "steps": 4}, r"Unknown steps of kid '4'.*Known: 2"),
        ({"metric": "kit"}, r"Unknown metric of .*'kit'. Did you mean 'kid'"),
    ):
        with pytest.raises(RequestError, match=message):
            asked(row, **wanted)


def test_scores_made_in_different_ways_are_not_mixed_unasked(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    rows = [measure(("a", 0), 1.0), measure(("a", 1), 1.1), measure(("b", 0), 2.0, OTHER)]
    with pytest.raises(RequestError) as refused:
        asked(*rows)
    text = str(refused.value)
    assert "in 2 ways: " in text
    assert "\n" not in text
    for part in ("a-seed0, a-seed1 by ", "samples 2000, torch 2.12.0", "samples 10000, torch 2.13"):
        assert part in text
    assert "numpy" not in text  # equal, so no difference
    assert "--allow-mixed" in text
    mixed = asked(*rows, allow_mixed=True)
    assert len(mixed.protocols) == 2
    assert any("do not compare" in note for note in mixed.notes)
    assert "MIXED" in all_tables(mixed)[0].title


@pytest.mark.parametrize(
    ("key", "value"),
    [("features", "inception/zz"), ("reference", "zz"), ("prompts", "zz")],
)
def test_every_part_of_a_fingerprint_keeps_scores_apart(
    measure: Measure, asked: Callable[..., ScoreComparison], key: str, value: object
) -> None:
    rows = [measure(("a", 0), 1.0), measure(("b", 0), 2.0, {**PROTOCOL, key: value})]
    with pytest.raises(RequestError, match=rf"in 2 ways: .*\({key} {value}\)"):
        asked(*rows)


def test_the_protocol_that_all_runs_share_is_taken_or_has_to_be_chosen(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    a = measure(measure(("a", 0), 1.0), 5.0, OTHER)
    b = measure(("b", 0), 2.0)
    shared = asked(a, b)
    assert [result.estimate.mean for result in shared.results] == [1.0, 2.0]
    b = measure(b, 6.0, OTHER)
    with pytest.raises(RequestError, match=r"in 2 ways: .*samples 10000.* Choose with --protocol"):
        asked(a, b)
    other = protocol_id({"metric": "kid", **OTHER})[:8]
    assert [r.estimate.mean for r in asked(a, b, protocol=other).results] == [5.0, 6.0]
    assert [r.estimate.mean for r in asked(a, b, protocol=other[:4]).results] == [5.0, 6.0]
    with pytest.raises(RequestError, match=r"Unknown protocol of kid 'ffff'.*Known: "):
        asked(a, b, protocol="ffff")


def test_runs_without_the_score_are_left_out_and_named(
    measure: Measure, make_row: MakeRow, asked: Callable[..., ScoreComparison]
) -> None:
    found = asked(measure(("a", 0), 1.0), make_row("a", 1, [(1, 1.0)]), make_row("b", 0, [(1, 1)]))
    assert [(r.group.label, r.group.seeds) for r in found.results] == [("a", (0,))]
    assert "Left out, without kid against coco10k at 4 steps: e/a-seed1, e/b-seed0." in found.notes
    with pytest.raises(RequestError, match="No score of `workbench evaluate` is logged"):
        asked(make_row("b", 0, [(1, 1.0)]), steps=4)


def test_the_file_is_that_of_the_logged_score(
    measure: Measure, asked: Callable[..., ScoreComparison]
) -> None:
    """Evaluated at 6.4 kimg too: the store's last value is the one at 12.8."""
    row = measure(measure(("a", 0), 1.0), 3.0, kimg=6.4, logged=False)
    found = asked(row, measure(("b", 0), 2.0))
    assert found.results[0].interval == (0.75, 1.5)
    assert found.results[0].kimg == (12.8,)
    assert not any("equally long" in note for note in found.notes)
    # Equal values by two protocols: each name has its own file.
    both = measure(measure(("c", 0), 1.0), 1.0, OTHER)
    for made in (PROTOCOL, OTHER):
        own = protocol_id({"metric": "kid", **made})
        (score,) = asked(both, protocol=own[:8]).results[0].scores
        assert score.kept is not None
        assert score.kept.fingerprint["protocol"] == own
    uneven = asked(row, measure(("b", 1), 2.0, kimg=25.6))
    assert any("kimg: a 12.8; b 25.6." in note for note in uneven.notes)


def test_a_score_without_its_file_has_no_interval_and_says_so(
    measure: Measure, place: Workspace, asked: Callable[..., ScoreComparison]
) -> None:
    rows = [measure(("a", 0), 1.0), measure(("b", 0), 2.0)]
    for file in (place.root / "evaluations" / "e-b-seed0").iterdir():
        file.write_text("{")
    found = asked(*rows)
    assert [result.interval is None for result in found.results] == [False, True]
    assert all_tables(found)[0].rows[1][4:] == ["-", "-"]
    for file in (place.root / "evaluations" / "e-a-seed0").iterdir():
        file.unlink()
    with pytest.raises(RequestError, match="files of these scores are missing"):
        asked(*rows)


def test_which_metric_is_meant(measure: Measure) -> None:
    selection = make_groups([measure(("a", 0), 1.0)])
    assert not is_logged(selection, ScoreQuery("fid"))
    assert is_logged(selection, ScoreQuery("kid"))
    assert is_logged(selection, ScoreQuery("fid", reference="digits"))
    with pytest.raises(RequestError, match=r"'kod'.*Known: alignment, fid, kid\."):
        is_logged(selection, ScoreQuery("kod"))
