"""A run's picture of samples: from its own folder, else from MLflow."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.reports.groups import Group, SeedRun
from workbench.runs.state import RunState
from workbench.tracking import list_artifacts, load_record, read_artifact_bytes

_FINAL = "figures/samples.png"
SERIES = re.compile(r"samples~student\+step\+(\d+)\+.*\.png")


def shown_run(group: Group) -> SeedRun:
    """The run whose samples stand for a group: the lowest finished seed, picked by no score."""
    return min(group.runs, key=lambda run: (run.state is not RunState.FINISHED, run.seed))


def sample_grid(run: SeedRun, tracking_uri: str) -> bytes | None:
    """The PNG that a run drew at its end, or at its last evaluation; None if it has none."""
    folder = own_folder(run)
    if folder is not None:
        pictures = [str(path.relative_to(folder)) for path in folder.glob("tracking/images/*.png")]
        final = [_FINAL] if (folder / _FINAL).is_file() else []
        return _first(final, pictures, lambda name: (folder / name).read_bytes())
    run_id = run.row.run_id
    try:
        final = [name for name in list_artifacts(tracking_uri, run_id, "figures") if name == _FINAL]
        pictures = [] if final else list_artifacts(tracking_uri, run_id, "images")
        return _first(final, pictures, lambda name: read_artifact_bytes(tracking_uri, run_id, name))
    except WorkbenchError:  # another machine's files may be out of reach: the numbers are not
        return None


def own_folder(run: SeedRun) -> Path | None:
    """The run's folder if it is on this machine and still this run's, not a fresh one's."""
    tags = run.row.tags
    if tags.get("host") != platform.node() or "folder" not in tags:
        return None
    return still_of(run, Path(tags["folder"]))


def still_of(run: SeedRun, given: Path) -> Path | None:
    """The folder, or what it was renamed to, in which this very run was tracked."""
    for folder in (given, *sorted(given.parent.glob(f"{given.name}~*"))):
        record = load_record(folder)
        if record is not None and record.run_id == run.row.run_id:
            return folder
    return None


def _first(
    final: Sequence[str], pictures: Sequence[str], read: Callable[[str], bytes]
) -> bytes | None:
    """The final picture, else the newest of the series."""
    steps = {
        int(found[1]): name
        for name in pictures
        if (found := SERIES.fullmatch(Path(name).name)) is not None
    }
    if final:
        return read(final[0])
    return read(steps[max(steps)]) if steps else None
