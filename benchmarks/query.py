"""How long a person waits for 500 runs in an experiment: whole commands, and the query alone.

python benchmarks/query.py                        # makes a workspace of 500 runs, SQLite
python benchmarks/query.py --server               # and PostgreSQL, directly and behind MLflow
python benchmarks/query.py --workspace DIR        # keeps the runs there for the next time

The store is filled by tests/populate.py: 53 parameters, 25 tags with a curve of eleven evaluations,
31 metrics and about 900 points a run. The experiment is registered: 100 variants of five seeds. The
best of some repetitions counts: whatever else the machine does only adds. Run it from the checkout.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.populate import populate
from tests.services import MlflowServer, Postgres
from workbench.registry import Experiment, make_plan, register
from workbench.tracking import default_uri, list_runs
from workbench.tracking.client import answer
from workbench.tracking.rows import Question
from workbench.training.config import RunConfig, with_overrides
from workbench.workspace import Workspace, open_workspace

EXPERIMENT = "big"
SEEDS = 5
ON_DISK, OVER_HTTP = 2.0, 4.0
"""Seconds that a whole command may take."""


def configs(runs: int) -> list[RunConfig]:
    """Variants of five seeds each."""
    return [
        with_overrides(
            RunConfig(),
            [
                f"experiment={EXPERIMENT}",
                f"variant=v{place // SEEDS:03d}",
                f"seed={place % SEEDS}",
                f"method.sid_alpha={1 + (place // SEEDS) / 1000}",
            ],
        )
        for place in range(runs)
    ]


def timed(work: Callable[[], object], repeats: int) -> str:
    """Best of some repetitions, in seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return f"{min(seconds):6.2f} s"


def command(*arguments: str) -> tuple[float, float]:
    """Wall and processor seconds of a whole command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "workbench", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def show_commands(
    label: str, commands: Sequence[Sequence[str]], repeats: int, target: float
) -> None:
    for arguments in commands:
        wall, used = min(command(*arguments) for _ in range(repeats))
        name = " ".join(part for part in arguments[:3] if part.isalpha())
        verdict = "" if wall <= target else "  MISSED"
        print(
            f"{label:28} workbench {name:22} {wall:6.2f} s of at most {target:g} s, "
            f"{used:.2f} s of processor{verdict}"
        )


@contextmanager
def workspace_at(folder: Path | None, runs: int) -> Iterator[Workspace]:
    """A workspace with so many runs, made now unless the folder has it."""
    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "workspace"
        fresh = not (root / "mlflow.db").exists()
        place = open_workspace(root)
        if fresh:
            print(f"Making {runs} runs in {root}.", file=sys.stderr)
            populate(default_uri(place.root), place, configs(runs))
        yield place


def announce(uri: str, place: Workspace, runs: Sequence[RunConfig]) -> None:
    """Register the experiment whose runs these are."""
    variants = {config.variant: config for config in runs}
    experiment = Experiment(EXPERIMENT, "How long does a person wait?", "Not long.", variants)
    register(make_plan(experiment), range(SEEDS), place, uri)


def measure(label: str, uri: str, place: Workspace, repeats: int) -> None:
    """The query alone, by the quick way and by MLflow's own client, then whole commands."""
    quick = timed(lambda: list_runs(uri, EXPERIMENT, limit=100_000), repeats)
    try:
        slow = timed(lambda: answer(uri, Question(EXPERIMENT, 100_000)), repeats)
    except Exception as error:  # MLflow's client gives a busy server ten seconds
        slow = f"fails ({type(error).__name__})"
    print(f"{label:28} list_runs {quick}, by MLflow's client {slow} (imported already)")
    where = ["--workspace", str(place.root), "--tracking-uri", uri]
    commands = [["experiments", "status", EXPERIMENT, *where], ["compare", EXPERIMENT, *where]]
    target = OVER_HTTP if uri.startswith("http") else ON_DISK
    show_commands(label, commands, repeats, target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workspace", type=Path, help="(default: a temporary one)")
    parser.add_argument("--server", action="store_true", help="PostgreSQL and mlflow server too")
    options = parser.parse_args()
    print(f"{options.runs} runs; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    wanted = configs(options.runs)
    with workspace_at(options.workspace, options.runs) as place, ExitStack() as stack:
        listing = ["runs", "list", "--workspace", str(place.root)]
        show_commands("run folders", [listing], options.repeats, ON_DISK)
        announce(default_uri(place.root), place, wanted)
        measure("SQLite", default_uri(place.root), place, options.repeats)
        if options.server:
            postgres = stack.enter_context(Postgres())
            uri = postgres.create_database("mlflow")
            populate(uri, place, wanted, folders=False)
            announce(uri, place, wanted)
            measure("PostgreSQL", uri, place, options.repeats)
            server = MlflowServer(Path(stack.enter_context(tempfile.TemporaryDirectory())), uri)
            server.start()
            stack.callback(server.kill)
            measure("mlflow server, PostgreSQL", server.uri, place, options.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
