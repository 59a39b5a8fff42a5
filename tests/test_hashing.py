"""Hashes that are stored: golden values of runs, plans and references made by earlier versions."""

from __future__ import annotations

from pathlib import Path

from workbench.hashing import file_fingerprint, file_sha256, fingerprint
from workbench.registry.rows import plan_hash, plan_key
from workbench.teachers.recipe import SanaRecipe
from workbench.training.config import RunConfig


def test_stored_hashes_stay(tmp_path: Path) -> None:
    assert fingerprint({"b": [1, "ä"], "a": None}) == fingerprint({"a": None, "b": [1, "ä"]})
    assert fingerprint([]) == "4f53cda18c2baa0c"
    config = RunConfig()
    assert [config.fingerprint(), config.recipe_fingerprint()] == ["992a78e0", "26218383"]
    assert SanaRecipe().hash == "253c74c65a"
    plan = plan_hash("e", "q", "h", ("a=1", "b=2"), {"v": "x", "a": "y"})
    assert [plan, plan_key(("a=1", "b=2"))] == ["4bdbe9be9679fb73", "plan-8c1885fe"]


def test_files_are_told_apart_by_name_content_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    assert file_sha256(one).startswith("6b86b273ff34fce1")
    assert file_fingerprint([one, two]) == "00684b707f2106e6"
    assert file_fingerprint([two, one]) != "00684b707f2106e6"
