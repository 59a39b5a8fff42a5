"""What a model card says of a run's results."""

from __future__ import annotations

from workbench.students.model_card import _look, _scores


def test_the_look_is_told_in_the_registrys_order() -> None:
    drift = {
        "contrast": {"value": 1.1, "low": 1.05, "high": 1.149},
        "saturation": {"value": 0.97, "low": 0.95, "high": 1.0},
    }
    text = _look({"drift": drift})
    assert text.startswith(
        "## Look\n\nSaturation 0.97 (0.95 to 1.00), contrast 1.10 (1.05 to 1.15) of the teacher's"
    )
    # Runs of before measured none.
    assert _look({"table": []}) == _look(None) == ""


def test_rows_may_have_scores_of_their_own() -> None:
    made = {"steps": 4, "nfe": 4, "fingerprint": {"id": "aa"}}
    table = [
        {"model": "teacher", **made, "fid": 0.5},
        {"model": "student", **made, "fid": 0.75, "clip": 0.25},
    ]
    lines = _scores({"table": table}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    heads, teacher, student = cells[0], *cells[2:4]
    assert (teacher[heads.index("clip")], student[heads.index("clip")]) == ("", "0.25")
