"""What belongs to one bundled data set is known to its own files alone."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "workbench"
OWN = re.compile(r"digits\w*\.py")
REGISTRIES = {"data/bundled.py", "evaluation/catalog.py", "reports/figures/tables.py"}
"""Where bundled data sets, their classifiers and their teachers' published likes are listed."""

SPOKEN_OF = re.compile(
    r"""["'`]digits|digits-\w|handwritten|\bdigits? (image|reference|classifier|evaluator)"""
    r"|(teachers|evaluation)[.]digits|the digit\b|load_digits",
    re.IGNORECASE,
)
"""The data, its teachers or its modules; digits of numbers are none."""


def test_only_the_digits_own_files_know_digits() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if OWN.fullmatch(file.name) or name in REGISTRIES:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if SPOKEN_OF.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
