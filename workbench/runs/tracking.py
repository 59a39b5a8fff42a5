"""What of a run goes into the tracker, and under which names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.metrics import score_of
from workbench.runs.spec import RunSpec
from workbench.runs.state import OUTCOME, RunState
from workbench.runs.tags import EVENTS, RUN_KIND
from workbench.tracking import (
    KIND,
    MlflowTracker,
    Point,
    RunIdentity,
    Tracker,
    curve_of,
    curve_tags,
    end_later,
    environment_tags,
    load_record,
    read_points,
)
from workbench.training.config import RunConfig
from workbench.training.events import Listener, RunEvent
from workbench.training.parallel import Ranks
from workbench.training.run_folder import RunFolder


class TrackerListener(Listener):
    """Hands the trainer's events to a tracker; steps are generated images."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.tracker = tracker
        self.warnings = 0
        self.points = read_points(folder)
        self.curve: dict[str, str] = {}

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        self.tracker.log_metrics(values, nimg)
        if any(score_of(key) is not None for key in values):
            now = time.time_ns() // 1_000_000
            self.points += [Point(key, nimg, value, now) for key, value in values.items()]
            tags = curve_tags(curve_of(self.points))
            fresh = {key: text for key, text in tags.items() if self.curve.get(key) != text}
            self.tracker.set_tags(fresh)
            self.curve = tags

    def on_warning(self, nimg: int, message: str) -> None:
        self.warnings += 1
        self.tracker.set_tags({"warnings": str(self.warnings), "last_warning": message[:480]})

    def on_events(self, events: Sequence[RunEvent]) -> None:
        """A count for each kind, at the images where it happened, and all of them as one tag."""
        last = events[-1]
        count = sum(event.kind == last.kind for event in events)
        self.tracker.log_metrics({f"event/{last.kind}": float(count)}, last.nimg)
        told = ", ".join(f"{event.kind} at {event.nimg / 1000:g} kimg" for event in events)
        self.tracker.set_tags({EVENTS: told[-480:]})


def open_tracker(spec: RunSpec, ranks: Ranks) -> Tracker:
    """The run's tracker on rank 0, the silent one elsewhere."""
    config, folder = spec.config, spec.folder.path
    if not ranks.is_main:
        return Tracker()
    environment = environment_tags()
    tags = {
        **spec.tags,
        KIND: RUN_KIND,
        "experiment": config.experiment,
        "variant": config.variant,
        "seed": str(config.seed),
        "teacher": config.teacher,
        "method": config.method.name,
        "config": config.fingerprint(),
        "variant_hash": config.variant_fingerprint(),
        # Where it goes on now; what made it at first is its provenance.
        "folder": str(folder),
        "host": environment["host"],
        "device": str(ranks.device),
        "ranks": str(ranks.world),
    }
    identity = RunIdentity(
        experiment=config.experiment,
        name=f"{config.variant}-seed{config.seed}",
        params=config.flat(),
        tags=tags,
        description=_description(config),
        provenance=environment,
    )
    return MlflowTracker(folder, spec.tracking_uri, spec.workspace.root / "mlartifacts", identity)


def speak_for(folder: RunFolder, tracking_uri: str, say: Callable[[str], None]) -> None:
    """The last words of a finished run whose process was killed before it could say them.

    What it had said and the store did not hear is delivered too. A run that was never tracked
    stays so, and what is in the way of the store is said and no more.
    """
    if load_record(folder.path) is None:
        return
    ended = folder.results_file.stat().st_mtime_ns // 1_000_000
    tags, files = {OUTCOME: RunState.FINISHED}, (folder.results_file,)
    try:
        left = end_later(folder.path, "FINISHED", ended, tags, files, tracking_uri)
    except (WorkbenchError, OSError) as error:
        say(f"The tracked run of {folder.name} stays as it is: {error}")
        return
    if left:
        say(f"{left} tracked operations of {folder.name} wait for `workbench runs sync`.")


def _description(config: RunConfig) -> str:
    """A run's description in Markdown."""
    generator, own = config.generator, "method."
    settings = ", ".join(
        f"{key.removeprefix(own)} `{value}`"
        for key, value in config.flat().items()
        if key.startswith(own) and key != "method.name"
    )
    return (
        f"**{config.experiment} / {config.variant}**, seed {config.seed}: {config.method.name} on "
        f"`{config.teacher}`, K = {generator.steps} ({generator.noise} noise), "
        f"{config.training.kimg:g} kimg at batch {config.training.batch_size}. Its settings: "
        f"{settings}."
    )
