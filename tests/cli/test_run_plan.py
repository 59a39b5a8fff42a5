"""What `run` takes from an experiment's plan and leaves in it; nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.conftest import InsideWorkbench
from workbench.launching import runs as launching
from workbench.launching.runs import Launched
from workbench.runs.spec import RunSpec
from workbench.tracking import RunRow

FINISHED = RunRow("1", "r", "e", "1", "FINISHED", 0, None, {}, {}, {})


@pytest.fixture
def begun(
    prepared: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[tuple[str, int]]]:
    """The variants and seeds that a `run` would run."""

    def call(*arguments: str) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []

        def launch(specs: list[RunSpec], *_: Any, **__: Any) -> Launched:
            found.extend((spec.config.variant, spec.config.seed) for spec in specs)
            return Launched(left=[(spec, FINISHED) for spec in specs])

        monkeypatch.setattr(launching, "launch_runs", launch)
        prepared("run", *arguments)
        return found

    return call


def cells(workbench: InsideWorkbench, name: str) -> set[tuple[str, int]]:
    (plan,) = workbench.json("experiments", "status", name)
    return {(cell["variant"], cell["seed"]) for cell in plan["cells"]}


def test_the_registered_seeds_are_run(
    prepared: InsideWorkbench, begun: Callable[..., list[tuple[str, int]]]
) -> None:
    assert begun("noise_type", "--variant", "fresh") == [("fresh", 0)]
    prepared("experiments", "register", "noise_type", "--seed", "0,2")
    planned = [(name, seed) for seed in (0, 2) for name in ("fresh", "fixed", "ddim")]
    assert begun("noise_type") == planned
    assert begun("noise_type", "--variant", "ddim") == [("ddim", 0), ("ddim", 2)]
    assert "Seeds 0, 2, as registered" in prepared("run", "noise_type", "--dry-run").stderr
    # The plan of a change, and a new version, have seeds of their own.
    assert {seed for _, seed in begun("noise_type", "--set", "training.kimg=1")} == {0}
    assert {seed for _, seed in begun("noise_type", "--seed", "5")} == {5}
    assert {seed for _, seed in begun("noise_type")} == {0, 2, 5}


def test_seeds_of_a_few_variants_are_not_planned_for_the_others(
    prepared: InsideWorkbench, begun: Callable[..., list[tuple[str, int]]]
) -> None:
    begun("noise_type", "--variant", "fresh", "--seed", "10,11")
    variants = ("fresh", "fixed", "ddim")
    # None is planned: status shows what `run` would do next.
    assert cells(prepared, "noise_type") == {(name, 0) for name in variants}
    begun("noise_type", "--seed", "0")
    begun("noise_type", "--variant", "fresh", "--variant", "ddim", "--seed", "10,11")
    planned = {(name, 0) for name in variants}
    assert cells(prepared, "noise_type") == planned
    every = [part for name in ("ddim", "fixed", "fresh") for part in ("--variant", name)]
    begun("noise_type", *every, "--seed", "1")
    assert {seed for _, seed in cells(prepared, "noise_type")} == {0, 1}


def test_status_of_what_is_not_registered(prepared: InsideWorkbench) -> None:
    told = prepared("experiments", "status", "t_range", code=2).stderr
    assert told == (
        "Error: t_range is not registered here; `workbench experiments register t_range` does it.\n"
    )
    told = prepared("experiments", "status", "t_rang", code=2).stderr
    assert "Unknown experiment 't_rang'. Did you mean 't_range'?" in told
    told = prepared("experiments", "status", "t_range", "--tracking-uri", "x", code=2).stderr
    assert "Cannot track to 'x'" in told
