"""Runs as the workbench writes them, without training: for contract tests, benchmarks and looking.

Names, parameters, tags and metrics are those of real runs; the scores are drawn. The same call
makes the same numbers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.metrics import metric_info
from workbench.runs.tags import EVALUATION, RUN_KIND
from workbench.tracking import (
    Point,
    RunIdentity,
    RunRecord,
    curve_of,
    curve_tags,
    environment_tags,
)
from workbench.tracking.outbox import Outbox
from workbench.tracking.record import save_record
from workbench.tracking.store import get_or_create_experiment, open_store
from workbench.training.config import RunConfig
from workbench.training.run_folder import run_folder
from workbench.workspace import Workspace, write_json

START = 1_790_000_000_000
"""ms since 1970; every populated run starts a minute after the one before."""

_TRAIN = (
    "train/fake_score_loss",
    "train/fake_score_grad_norm",
    "train/generator_loss",
    "train/score_gap",
    "train/generator_grad_norm",
    "train/skipped_updates",
    "perf/images_per_s",
    "perf/nfe_per_image",
)
_SYSTEM = ("cpu", "memory", "disk", "receive", "transmit", "gpu", "gpu_memory", "power")


@dataclass(frozen=True)
class Shape:
    """What the drawn scores look like: the FID that a variant tends to, and a run's speed."""

    floor: float = 0.35
    images_per_s: float = 400.0
    spread: float = 0.05
    reached: float = 1.0
    """The fraction of its budget that a run got to; below 1 it is still going on."""
    drift: Mapping[str, float] = field(default_factory=dict)
    """Where the drift from the teacher tends to, of 1 at the start."""


def populate(
    tracking_uri: str,
    workspace: Workspace,
    configs: Sequence[RunConfig],
    shapes: Mapping[str, Shape] | None = None,
    *,
    folders: bool = True,
) -> list[str]:
    """Write a run for every configuration into the store, and its folder; returns the MLflow ids.

    ``shapes`` is by variant name.
    """
    artifact_root = workspace.root / "mlartifacts"
    client = open_store(tracking_uri, artifact_root)
    made = []
    for run in _runs(workspace, configs, shapes):
        made.append(run.store(client, artifact_root))
        if folders:
            run.write_folder(tracking_uri, made[-1])
    return made


def write_folders(
    workspace: Workspace, configs: Sequence[RunConfig], shapes: Mapping[str, Shape] | None = None
) -> None:
    """The folders of such runs alone, as if their store were out of reach."""
    for run in _runs(workspace, configs, shapes):
        run.write_folder("http://127.0.0.1:1", None)


def _runs(
    workspace: Workspace, configs: Sequence[RunConfig], shapes: Mapping[str, Shape] | None
) -> Iterator[_Run]:
    environment = environment_tags()
    for index, config in enumerate(configs):
        shape = (shapes or {}).get(config.variant, Shape())
        yield _Run(config, workspace, shape, START + 60_000 * index, environment)


@dataclass(frozen=True)
class _Run:
    config: RunConfig
    workspace: Workspace
    shape: Shape
    start: int
    environment: Mapping[str, str]

    @property
    def path(self) -> Path:
        return run_folder(self.workspace, self.config).path

    @property
    def finished(self) -> bool:
        return self.shape.reached >= 1

    @property
    def name(self) -> str:
        return f"{self.config.variant}-seed{self.config.seed}"

    def points(self) -> list[Point]:
        """Evaluations, training metrics, system metrics and the final table."""
        config, chance = self.config, random.Random(f"{self.name}{self.config.fingerprint()}")
        end = int(config.total_nimg * self.shape.reached)
        pace = self.shape.images_per_s * chance.uniform(0.95, 1.05)
        floor = self.shape.floor * math.exp(chance.gauss(0, self.shape.spread))
        found: list[Point] = []
        judge = metric_info(config.evaluation.primary_metric or "fid")
        best: list[float] = []
        for step in _steps(config.schedule.evaluate_kimg, end):
            decay = math.exp(-5 * step / config.total_nimg)
            fid = floor + (2.3 - floor) * decay * math.exp(chance.gauss(0, 0.04))
            values = {
                metric_info(name).key: fid if name == "fid" else share(decay, chance)
                for name in config.evaluation.metrics or ("fid", "alignment")
            }
            for name, end_value in self.shape.drift.items():
                values[metric_info(name).key] = 1 + (end_value - 1) * (1 - decay)
            best = [judge.best([*best, values[judge.key]]) or math.nan]
            values |= {f"best/{judge.name}": best[0], "best/kimg": step / 1000}
            values["perf/train_seconds"] = step / pace
            found += self._at(step, values, pace)
        for step in _steps(config.schedule.log_kimg, end):
            found += self._at(step, {key: chance.random() for key in _TRAIN}, pace)
        for place in range(5):
            system = {f"system/{key}": chance.random() for key in _SYSTEM}
            found += self._at(place, system, pace)
        return found + (self._at(end, self._table(found, chance), pace) if self.finished else [])

    def _at(self, step: int, values: Mapping[str, float], pace: float) -> list[Point]:
        now = self.start + int(1000 * step / pace)
        return [Point(key, step, value, now) for key, value in values.items()]

    def _table(self, points: Sequence[Point], chance: random.Random) -> dict[str, float]:
        last = {point.key: point.value for point in points}
        table = {}
        asked = self.config.evaluation.teacher_steps, self.config.student_steps
        rows = [("teacher", steps, 0.29 + 2 / steps) for steps in asked[0]]
        rows += [("student", steps, last.get("eval/fid", 1.0) * 4 / steps) for steps in asked[1]]
        for model, steps, fid in rows:
            for name in self.config.evaluation.metrics or ("fid", "alignment"):
                value = fid if name == "fid" else last[f"eval/{name}"]
                table[f"table/{model}_{steps}_{name}"] = value
            table[f"table/{model}_{steps}_ms_per_image"] = 0.2 * steps * chance.uniform(0.95, 1.05)
        return table

    def tags(self, points: Sequence[Point]) -> dict[str, str]:
        config = self.config
        return {
            "kind": RUN_KIND,
            "experiment": config.experiment,
            "variant": config.variant,
            "seed": str(config.seed),
            "teacher": config.teacher,
            "method": config.method.name,
            "config": config.fingerprint(),
            "variant_hash": config.variant_fingerprint(),
            EVALUATION: "651bc9779bbb026c",
            "outcome": "finished" if self.finished else "running",
            "folder": str(self.path),
            "device": "cpu",
            "ranks": "1",
            **curve_tags(curve_of(points)),
            **self.environment,
        }

    def store(self, client: Any, artifact_root: Path) -> str:
        """The run in MLflow, by its own client; returns its id."""
        from mlflow.entities import Metric, Param, RunTag

        experiment = get_or_create_experiment(client, self.config.experiment, artifact_root)
        run_id = str(client.create_run(experiment, self.start, run_name=self.name).info.run_id)
        points = self.points()
        metrics = [Metric(p.key, p.value, p.timestamp, p.step) for p in points]
        params = [Param(key, value) for key, value in self.config.flat().items()]
        tags = [RunTag(key, value) for key, value in self.tags(points).items()]
        client.log_batch(run_id, params=params[:100], tags=tags)
        for first in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics=metrics[first : first + 1000])
        if self.finished:
            client.set_terminated(run_id, "FINISHED", max(p.timestamp for p in points))
        return run_id

    def write_folder(self, tracking_uri: str, run_id: str | None) -> None:
        """The run's folder: configuration, journal, record and results."""
        self.path.mkdir(parents=True)
        write_json(self.path / "config.json", self.config.model_dump(mode="json"))
        spool, points = Outbox(self.path), self.points()
        spool.params(self.config.flat())
        spool.tags(self.tags(points))
        spool.status("RUNNING")
        steps: dict[tuple[int, int], dict[str, float]] = {}
        for point in sorted(points, key=lambda point: point.timestamp):
            steps.setdefault((point.timestamp, point.step), {})[point.key] = point.value
        for (_, step), values in steps.items():
            spool.metrics(values, step)
        if self.finished:
            spool.status("FINISHED")
            write_json(self.path / "results.json", {"run": self.name, "table": []})
        spool.journal.close()
        identity = RunIdentity(self.config.experiment, self.name)
        record = RunRecord.new(identity, tracking_uri, None, self.start)
        save_record(self.path, RunRecord(**{**vars(record), "run_id": run_id}))


def share(decay: float, chance: random.Random) -> float:
    """A score such as alignment, of which a run loses a little."""
    return 0.93 + 0.05 * decay + chance.gauss(0, 0.002)


def _steps(every_kimg: float, end: int) -> Iterator[int]:
    every = int(every_kimg * 1000)
    return iter(range(0, end + 1, every))
