"""Tables 1 and 2: published cells as printed, ours where their family is, gaps counted."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pandas as pd
import pytest

from tests.analysis.conftest import script_of
from tests.analysis.made_groups import at_home
from workbench.errors import RequestError
from workbench.evaluation.external import BENCHMARKS
from workbench.hashing import fingerprint
from workbench.metrics import METRICS
from workbench.reports import Group, ScoreFiles, SeedRun, estimate
from workbench.reports.figures import tables
from workbench.reports.measured import Sources
from workbench.runs.state import RunState
from workbench.scoring.external_scores import ExternalFile
from workbench.scoring.kept_scores import ScoreName
from workbench.scoring.scored_rows import Score, ScoredRow, keep_row
from workbench.teachers.analytic import ANALYTIC
from workbench.teachers.catalog import KNOWN_TEACHERS
from workbench.tracking import Curve, RunRow
from workbench.workspace import Workspace, open_workspace

DATA = Path(__file__).parents[2] / "workbench" / "published" / "tables.csv"


def run(teacher: str, label: str, seed: int, metrics: dict[str, float], **tags: str) -> SeedRun:
    row = RunRow(
        run_id=f"{teacher}{label}{seed}",
        name=f"{label}-seed{seed}",
        experiment="e",
        experiment_id="1",
        status="FINISHED",
        start_time=0,
        end_time=1,
        params={},
        tags={"seed": str(seed), "method": "sid", **tags},
        metrics=metrics,
    )
    return SeedRun(row, Curve((0,), (0.0,), {"fid": (1.0,)}), RunState.FINISHED)


def group(teacher: str, *seeds: dict[str, float], label: str = "v", **tags: str) -> Group:
    runs = tuple(run(teacher, label, seed, metrics, **tags) for seed, metrics in enumerate(seeds))
    return Group(label, "e", label, teacher, "hash", runs)


@pytest.fixture
def groups() -> list[Group]:
    def scores(fid: float) -> dict[str, float]:
        return {
            "table/teacher_50_fid": 0.3,
            "table/teacher_50_ms_per_image": 9.0,
            "table/student_4_fid": fid,
            "table/student_4_alignment": 0.9,
            "table/student_1_fid": 2 * fid,
        }

    return [
        group("digits-sana", scores(0.4), scores(0.5)),
        group("flux.1-dev-512", {"table/student_4_fid": 25.0}, **{"evaluation.reference": "coco"}),
        group("mine", scores(1.0)),
    ]


def test_published_rows_are_those_of_the_source(groups):
    frame = tables.collect(groups)
    theirs = frame[frame["source"] == "published"]
    source = pd.read_csv(DATA)
    source = source.rename(columns={"image_reward": "imagereward"})
    columns = list(source.columns)
    pd.testing.assert_frame_equal(theirs[columns].reset_index(drop=True), source)
    headings, rows = tables.text_rows(theirs, 1)
    printed = [line for line in csv.reader(io.StringIO(DATA.read_text())) if line[0] == "1"]
    assert [row[4:11] for row in rows] == [line[5:] for line in printed]
    assert headings[4:11] == list(tables.HEADINGS.values())


def test_ours_stand_below_their_family(groups):
    frame = tables.collect(groups)
    sana = frame[frame["family"] == "SANA 0.6B"]
    assert sana["source"].tolist() == ["published"] * 3 + ["embedded"] * 3
    assert (
        sana["model"].tolist()[3:] == ["ours: digits-sana"] + ["ours: SiD-DiT of digits-sana"] * 2
    )
    assert sana["steps"].tolist()[3:] == [50, 4, 1]
    mine = sana[(sana["source"] == "embedded") & (sana["steps"] == 4)].iloc[0]
    found = estimate([0.4, 0.5])
    assert (mine["fid"], mine["fid_half"], mine["seeds"]) == (found.mean, found.half, 2)
    assert mine["params_b"] == KNOWN_TEACHERS["digits-sana"].parameters / 1e9
    flux = frame[(frame["family"] == "FLUX.1") & (frame["source"] != "published")].iloc[0]
    assert (flux["source"], flux["fid"], flux["table"]) == ("ours", 25.0, 2)
    assert "mine" not in " ".join(frame["model"])
    named = tables.collect(groups, {**tables.known_families(), "mine": "SD3-Medium"})
    assert (named["model"] == "ours: mine").sum() == 1
    with pytest.raises(RequestError, match="Did you mean 'SD3-Medium'"):
        tables.collect(groups, {"mine": "SD3-Medum"})


def test_embedded_teachers_are_marked_and_gaps_counted(groups):
    frame = tables.collect(groups)
    text = tables.markdown(frame)
    cell = "| ours: SiD-DiT of digits-sana† | 4 | 0.26 M | 0.450±0.635 |  |"
    assert cell in text
    assert "| ours: SiD-DiT of flux.1-dev-512 | 4 |" in text
    assert "do not compare with the published ones" in text
    empty = sum(not cell for line in csv.reader(io.StringIO(DATA.read_text())) for cell in line[5:])
    assert tables.count_missing(frame) == {"published": (empty, 231), "ours": (4 * 6, 4 * 7)}
    assert f"published {empty} of 231, ours 24 of 28." in text
    plain = tables.collect(groups[1:2])
    assert "alignment" not in plain
    assert "†" not in tables.markdown(plain)


def test_latex_is_one_tabular_with_every_row(groups):
    frame = tables.collect(groups)
    text = tables.latex(frame, 1)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(body) == 1 + (frame["table"] == 1).sum()
    assert {line.count(" & ") for line in body} == {11}
    assert text.count("\\midrule") == frame[frame["table"] == 1]["family"].nunique()
    assert "\\emph{ours: SiD-DiT of digits-sana$^\\dagger$}" in text
    assert "0.450$\\pm$0.635" in text
    assert tables._tex("50 % & a_b") == "50 \\% \\& a\\_b"


def test_every_known_teacher_has_a_family():
    assert set(tables.known_families()) == set(KNOWN_TEACHERS) - set(ANALYTIC)
    assert {math.isfinite(spec.parameters) for spec in KNOWN_TEACHERS.values()} == {True}


def test_every_published_score_is_one_that_we_can_have():
    assert set(tables.HEADINGS) <= {*METRICS, *BENCHMARKS}


def logged(
    metric: str, value: float, protocol: str, steps: int = 4, seed: int = 0
) -> dict[str, float]:
    return {ScoreName("coco10k", metric, steps, protocol, seed).key: value}


ONE, OTHER = "aaaaaaaa", "bbbbbbbb"


def row_of(frame: pd.DataFrame, model: str, steps: int = 4) -> pd.Series:
    (found,) = frame[(frame["model"] == model) & (frame["steps"] == steps)].to_dict("records")
    return found


def test_scores_of_evaluate_fill_cells_beside_the_runs_own():
    seeds = [
        {"table/student_4_fid": 25.0 + seed, **logged("clip", 0.32 + seed / 100, ONE, seed=seed)}
        for seed in (0, 1)
    ]
    seeds[0] |= logged("hpsv2", 0.3, ONE) | logged("kid", 0.1, ONE) | logged("clip", 0.2, ONE, 1)
    frame = tables.collect([group("flux.1-dev-512", *seeds, **{"evaluation.reference": "coco10k"})])
    row = row_of(frame, "ours: SiD-DiT of flux.1-dev-512")
    found = estimate([0.32, 0.33])
    assert (row["fid"], row["clip"], row["clip_half"]) == (25.5, found.mean, found.half)
    assert (row["hpsv2"], row["seeds"]) == (0.3, 2)
    assert math.isnan(row["hpsv2_half"])
    assert row_of(frame, "ours: SiD-DiT of flux.1-dev-512", 1)["clip"] == 0.2
    notes = frame.attrs["notes"]
    assert "v, student at 4 steps: hpsv2 of 1 of 2 seeds." in notes
    assert not any(note.startswith("clip was measured") for note in notes)
    # Against other images than the runs' own: a row of its own.
    apart = tables.collect([group("flux.1-dev-512", *seeds, **{"evaluation.reference": "mine"})])
    assert row_of(apart, "ours: SiD-DiT of flux.1-dev-512")["fid"] == 25.5
    other = row_of(apart, "ours: SiD-DiT of flux.1-dev-512, against coco10k")
    assert other["clip"] == found.mean
    assert math.isnan(other["fid"])


def test_a_cell_never_mixes_protocols():
    mixed = [logged("clip", 0.3, ONE), logged("clip", 0.4, OTHER)]
    groups = [group("flux.1-dev-512", *mixed, **{"evaluation.reference": "coco10k"})]
    frame = tables.collect(groups)
    row = row_of(frame, "ours: SiD-DiT of flux.1-dev-512")
    assert math.isnan(row["clip"])
    assert row["seeds"] == 0
    (note,) = frame.attrs["notes"]
    assert "clip was measured in 2 ways (aaaaaaaa, bbbbbbbb); its cell stays empty" in note
    assert tables.count_missing(frame)["ours"] == (7, 7)
    chosen = tables.collect(groups, sources=Sources(protocols=("bbb",)))
    assert row_of(chosen, "ours: SiD-DiT of flux.1-dev-512")["clip"] == 0.4
    # What all seeds share counts, and of several such the runs' own.
    both = [logged("fid", 20.0, ONE) | {"table/student_4_fid": 25.0}, logged("fid", 21.0, ONE)]
    tags = {"evaluation.reference": "coco10k"}
    shared = tables.collect([group("flux.1-dev-512", *both, **tags)])
    assert row_of(shared, "ours: SiD-DiT of flux.1-dev-512")["fid"] == 20.5
    both[1]["table/student_4_fid"] = 26.0
    own = tables.collect([group("flux.1-dev-512", *both, **tags)])
    assert row_of(own, "ours: SiD-DiT of flux.1-dev-512")["fid"] == 25.5


def test_columns_of_several_ways_are_noted():
    groups = [
        group("flux.1-dev-512", logged("clip", 0.3, ONE), **{"evaluation.reference": "coco10k"}),
        group("sd3-medium", logged("clip", 0.3, OTHER), **{"evaluation.reference": "coco10k"}),
    ]
    (note,) = tables.collect(groups).attrs["notes"]
    told = "clip was measured in 2 ways, which do not compare: 1 cells by aaaaaaaa, 1 cells by bbb"
    assert note.startswith(told)


MADE = {"samples": 2000, "seed": 0, "versions": {}}
SAMPLER = {"kind": "teacher", "pipeline": "weights", "cfg_scale": 1.0, "flow_shift": 1.0}


def keep(workspace: Workspace, scores: dict[str, float], name: str, kind: str, **more) -> None:
    """What `workbench evaluate` keeps of four steps."""
    sampler = {**SAMPLER, **more}
    parts = []
    for metric, value in scores.items():
        made = {"metric": metric, "protocol": fingerprint(metric), "sampler": sampler}
        parts.append(Score(metric, value, {**made, "id": fingerprint(made)}))
    made = {**MADE, "metrics": sorted(scores), "steps": 4, "id": ""}
    keep_row(workspace, ScoredRow(name, kind, "coco10k", 2000, 4, 4.0, 1.0, tuple(parts), made))


def test_teachers_rows_are_also_what_was_kept_of_them(tmp_path):
    workspace = open_workspace(tmp_path / "w")
    tags = {"evaluation.reference": "coco10k", "evaluation": fingerprint(MADE)}
    own = {"table/teacher_4_fid": 30.0, "table/student_4_fid": 25.0}
    variants = [group("sana-0.6b-512", own, own, label=label, **tags) for label in ("a", "b")]
    at_home(variants, workspace)
    keep(workspace, {"clip": 0.35, "kid": 1.0}, "sana-0.6b-512", "teacher")
    keep(workspace, {"aesthetic": 9.9}, "sana-0.6b-512", "teacher", cfg_scale=4.5)
    keep(workspace, {"pickscore": 9.9}, "sana-0.6b-512", "teacher", pipeline="rebuilt")
    frame = tables.collect(variants, sources=Sources(workspace))
    row = row_of(frame, "ours: sana-0.6b-512")  # once, for both variants
    # Two noises of the runs' own tables; what was kept is of one.
    assert (row["fid"], row["clip"], row["seeds"]) == (30.0, 0.35, 2)
    assert math.isnan(row["aesthetic"])
    assert math.isnan(row["pickscore"])
    assert any(
        note.startswith("2 kept evaluations of sana-0.6b-512") for note in frame.attrs["notes"]
    )


def imported(
    workspace: Workspace, benchmark: str, model: str, score: float, kimg: float | None = None, **own
) -> None:
    sampler = {"steps": "4", "seed": "0", **own.pop("sampler", {})}
    made = {"benchmark": benchmark, "prompts": "p", "samples": 4, "sampler": sampler, **own}
    identified = {**made, "id": fingerprint(made)}
    ExternalFile(benchmark, model, kimg, {benchmark: score}, identified).write(workspace)


def test_imported_benchmarks_have_their_cells(tmp_path):
    workspace = open_workspace(tmp_path / "w")
    seeds = [{"eval/geneval": 0.6 + seed / 10, "eval/imagereward": 1.0} for seed in (0, 1)]
    seeds[0] |= {"eval/geneval-2steps": 0.5, "eval/geneval/counting": 0.1}
    tags = {"evaluation.reference": "coco10k"}
    groups = at_home([group("sana-0.6b-512", *seeds, **tags)], workspace)
    for each in groups[0].runs:
        each.row.params["generator.steps"] = "4"
    for seed, prompts in ((0, "p"), (1, "p")):
        imported(workspace, "geneval", f"e/v-seed{seed}-abc", 0.6 + seed / 10, prompts=prompts)
        imported(workspace, "imagereward", f"e/v-seed{seed}-abc", 1.0, prompts=str(seed))
    teacher = {"teacher": "sana-0.6b-512 (weights)", "cfg_scale": "1"}
    imported(workspace, "geneval", "sana-0.6b-512", 0.66, sampler=teacher)
    imported(
        workspace, "imagereward", "sana-0.6b-512", 9.9, sampler={**teacher, "cfg_scale": "4.5"}
    )
    sources = Sources(workspace, ScoreFiles(f"sqlite:///{tmp_path}/none.db", workspace))
    frame = tables.collect(groups, sources=sources)
    row = row_of(frame, "ours: SiD-DiT of sana-0.6b-512")
    assert row["geneval"] == pytest.approx(0.65)
    assert math.isnan(row["imagereward"])  # the seeds were asked different prompts
    assert row_of(frame, "ours: SiD-DiT of sana-0.6b-512", 2)["geneval"] == 0.5
    taught = row_of(frame, "ours: sana-0.6b-512")
    assert taught["geneval"] == 0.66
    assert math.isnan(taught["imagereward"])
    notes = " ".join(frame.attrs["notes"])
    assert "imagereward was measured in 2 ways" in notes
    assert "1 kept evaluations of sana-0.6b-512 were not made by the guidance" in notes


def test_scores_of_an_earlier_checkpoint_are_left_out(tmp_path):
    workspace = open_workspace(tmp_path / "w")
    groups = at_home([group("sana-0.6b-512", {"eval/geneval": 0.6})], workspace)
    imported(workspace, "geneval", "e/v-seed0-abc", 0.6, kimg=6.4)
    sources = Sources(workspace, ScoreFiles(f"sqlite:///{tmp_path}/none.db", workspace))
    frame = tables.collect(groups, sources=sources)
    assert set(frame["source"]) == {"published"}
    assert frame.attrs["notes"] == (
        "v-seed0: eval/geneval is of 6.4 kimg, not of the run's end; left out.",
    )


def test_a_wrong_family_option_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        script_of("tables").main(["--workspace", str(tmp_path), "--family", "mine"])
    assert ended.value.code == 2
    assert capsys.readouterr().err
