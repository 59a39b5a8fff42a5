"""Tables 1 and 2: published cells as printed, ours where their family is, gaps counted."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from tests.analysis.conftest import by_path
from workbench.errors import RequestError
from workbench.reports import Group, SeedRun, estimate
from workbench.runs.state import RunState
from workbench.teachers.analytic import ANALYTIC
from workbench.teachers.catalog import KNOWN_TEACHERS
from workbench.tracking import Curve, RunRow

DATA = Path(__file__).parents[2] / "workbench" / "published" / "tables.csv"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return by_path("tables")


def run(teacher: str, seed: int, metrics: dict[str, float], **tags: str) -> SeedRun:
    row = RunRow(
        run_id=f"{teacher}{seed}",
        name=f"{teacher}-seed{seed}",
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
    runs = tuple(run(teacher, seed, metrics, **tags) for seed, metrics in enumerate(seeds))
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


def test_published_rows_are_those_of_the_source(tables, groups):
    frame = tables.collect(groups)
    theirs = frame[frame["source"] == "published"]
    source = pd.read_csv(DATA)
    columns = list(source.columns)
    pd.testing.assert_frame_equal(theirs[columns].reset_index(drop=True), source)
    headings, rows = tables.text_rows(theirs, 1)
    printed = [line for line in csv.reader(io.StringIO(DATA.read_text())) if line[0] == "1"]
    assert [row[4:11] for row in rows] == [line[5:] for line in printed]
    assert headings[4:11] == list(tables.HEADINGS.values())


def test_ours_stand_below_their_family(tables, groups):
    frame = tables.collect(groups)
    sana = frame[frame["family"] == "SANA 0.6B"]
    assert sana["source"].tolist() == ["published"] * 3 + ["digits"] * 3
    assert (
        sana["model"].tolist()[3:] == ["ours: digits-sana"] + ["ours: SiD-DiT of digits-sana"] * 2
    )
    assert sana["steps"].tolist()[3:] == [50, 4, 1]
    mine = sana[(sana["source"] == "digits") & (sana["steps"] == 4)].iloc[0]
    found = estimate([0.4, 0.5])
    assert (mine["fid"], mine["fid_half"], mine["seeds"]) == (found.mean, found.half, 2)
    assert mine["params_b"] == KNOWN_TEACHERS["digits-sana"].parameters / 1e9
    flux = frame[(frame["family"] == "FLUX.1") & (frame["source"] != "published")].iloc[0]
    assert (flux["source"], flux["fid"], flux["table"]) == ("ours", 25.0, 2)
    assert "mine" not in " ".join(frame["model"])
    named = tables.collect(groups, {**tables.FAMILIES, "mine": "SD3-Medium"})
    assert (named["model"] == "ours: mine").sum() == 1
    with pytest.raises(RequestError, match="Did you mean 'SD3-Medium'"):
        tables.collect(groups, {"mine": "SD3-Medum"})


def test_digits_are_marked_and_gaps_counted(tables, groups):
    frame = tables.collect(groups)
    text = tables.markdown(frame)
    cell = "| ours: SiD-DiT of digits-sana† | 4 | 0.26 M | 0.450±0.635 |  |"
    assert cell in text
    assert "| ours: SiD-DiT of flux.1-dev-512 | 4 |" in text
    assert "does not compare with the published FID" in text
    empty = sum(not cell for line in csv.reader(io.StringIO(DATA.read_text())) for cell in line[5:])
    assert tables.count_missing(frame) == {"published": (empty, 231), "ours": (4 * 6, 4 * 7)}
    assert f"published {empty} of 231, ours 24 of 28." in text
    plain = tables.collect(groups[1:2])
    assert "alignment" not in plain
    assert "†" not in tables.markdown(plain)


def test_latex_is_one_tabular_with_every_row(tables, groups):
    frame = tables.collect(groups)
    text = tables.latex(frame, 1)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(body) == 1 + (frame["table"] == 1).sum()
    assert {line.count(" & ") for line in body} == {11}
    assert text.count("\\midrule") == frame[frame["table"] == 1]["family"].nunique()
    assert "\\emph{ours: SiD-DiT of digits-sana$^\\dagger$}" in text
    assert "0.450$\\pm$0.635" in text
    assert tables._tex("50 % & a_b") == "50 \\% \\& a\\_b"


def test_every_known_teacher_has_a_family(tables):
    assert set(tables.FAMILIES) == set(KNOWN_TEACHERS) - set(ANALYTIC)
    assert {math.isfinite(spec.parameters) for spec in KNOWN_TEACHERS.values()} == {True}


def test_a_wrong_family_option_is_one_line(tables, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        tables.main(["--workspace", str(tmp_path), "--family", "mine"])
    assert ended.value.code == 2
    assert capsys.readouterr().err
