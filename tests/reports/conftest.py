"""Tracked runs without a store, and a small store with every kind of run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from workbench.tracking import Curve, RunRow, curve_tags

MakeRow = Callable[..., RunRow]


@pytest.fixture
def make_row() -> MakeRow:
    """A run of one variant and seed: (kimg, fid) pairs at ten images a second.

    ``scores`` are other columns of the curve, ``metrics`` what else it logged.
    """
    count = 0

    def make(
        variant: str,
        seed: int,
        curve: Sequence[tuple[float, float]],
        *,
        tags: Mapping[str, str | None] | None = None,
        params: Mapping[str, str] | None = None,
        alignment: float = 0.9,
        scores: Mapping[str, Sequence[float]] | None = None,
        metrics: Mapping[str, float] | None = None,
        pace: float = 10.0,
    ) -> RunRow:
        nonlocal count
        count += 1
        nimg = tuple(round(1000 * kimg) for kimg, _ in curve)
        found = {
            "fid": tuple(fid for _, fid in curve),
            "alignment": tuple(alignment for _ in curve),
            **{name: tuple(values) for name, values in (scores or {}).items()},
        }
        own = {
            "variant": variant,
            "seed": str(seed),
            "teacher": "digits-sana",
            "variant_hash": f"hash-{variant}",
            "evaluation": "protocol-a",
            "outcome": "finished",
            "host": "elsewhere",
            "device": "cpu",
            **curve_tags(Curve(nimg, tuple(n / pace for n in nimg), found)),
            **(tags or {}),
        }
        return RunRow(
            run_id=f"{count:032x}",
            name=f"{variant}-seed{seed}",
            experiment="e",
            experiment_id="1",
            status="RUNNING" if own.get("outcome") == "running" else "FINISHED",
            start_time=1000 * count,
            end_time=None,
            params={"generator.steps": "4", "seed": str(seed), **(params or {})},
            tags={key: value for key, value in own.items() if value is not None},
            metrics={
                "table/student_4_ms_per_image": 0.5 + seed,
                "table/teacher_50_fid": 0.25,
                **(metrics or {}),
            },
        )

    return make
