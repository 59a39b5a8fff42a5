"""Groups of runs with given scores, without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.reports import Group, SeedRun
from workbench.runs.state import RunState
from workbench.tracking import Curve, RunRow

PARAMS = {
    "generator.steps": "4",
    "method.density": "sid",
    "method.t_range": "[0.0, 1.0]",
    "method.weighting": "1-t",
    "prompts.source": "digits",
}


def made_group(
    label: str,
    fids: Sequence[float],
    params: Mapping[str, str] | None = None,
    metrics: Sequence[Mapping[str, float]] | None = None,
    teacher: str = "t",
) -> Group:
    """One run for each final FID, evaluated at 0, 6.4 and 12.8 kimg; alignment = 1 - FID / 10."""
    runs = []
    for seed, fid in enumerate(fids):
        scores = (2.0, 2 * fid, fid)
        row = RunRow(
            run_id=f"{label}{seed}",
            name=f"{label}-seed{seed}",
            experiment="e",
            experiment_id="1",
            status="FINISHED",
            start_time=seed,
            end_time=None,
            params={**PARAMS, **(params or {})},
            tags={"seed": str(seed), "evaluation": "protocol"},
            metrics=dict(metrics[seed]) if metrics else {},
        )
        alignment = tuple(1 - value / 10 for value in scores)
        curve = Curve((0, 6400, 12800), (0.0, 1.0, 2.0), {"fid": scores, "alignment": alignment})
        runs.append(SeedRun(row, curve, RunState.FINISHED))
    return Group(label, "e", label, teacher, label, tuple(runs))


def table(
    model: str, steps: int, fid: float, ms: float, alignment: float = 0.9
) -> dict[str, float]:
    """A line of a run's final table, as it is tracked."""
    start = f"table/{model}_{steps}_"
    return {f"{start}fid": fid, f"{start}ms_per_image": ms, f"{start}alignment": alignment}
