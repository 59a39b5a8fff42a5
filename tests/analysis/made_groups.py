"""Groups of runs with given scores, without a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.reports import Group, SeedRun
from workbench.runs.state import RunState
from workbench.tracking import Curve, RunIdentity, RunRecord, RunRow
from workbench.tracking.record import save_record
from workbench.workspace import Workspace

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


def at_home(groups: list[Group], workspace: Workspace, weights: str = "weights") -> list[Group]:
    """The groups with their runs' folders in the workspace, distilled from these weights."""
    for run in (run for group in groups for run in group.runs):
        folder = workspace.runs / "e" / f"{run.row.name}-abc"
        (folder / "tracking").mkdir(parents=True)
        record = RunRecord.new(RunIdentity("e", run.row.name), "sqlite://", None, 0)
        save_record(folder, replace(record, run_id=run.row.run_id))
        (folder / "results.json").write_text(json.dumps({"teacher": {"fingerprint": weights}}))
        run.row.tags["folder"] = f"/elsewhere/runs/e/{folder.name}"
    return groups


def of_scores(groups: Sequence[Group], names: Mapping[str, str]) -> list[Group]:
    """The groups as if they had measured other scores: FID's values by the name of another."""

    def renamed(run: SeedRun) -> SeedRun:
        metrics = {}
        for key, value in run.row.metrics.items():
            start, _, name = key.rpartition("_")
            metrics[f"{start}_{names[name]}" if name in names else key] = value
        scores = {names.get(name, name): values for name, values in run.curve.scores.items()}
        kept = {name: values for name, values in scores.items() if name}
        curve = replace(run.curve, scores=kept)
        return replace(run, row=replace(run.row, metrics=metrics), curve=curve)

    return [replace(group, runs=tuple(map(renamed, group.runs))) for group in groups]
