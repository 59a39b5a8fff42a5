"""How long a person waits for 500 runs in an experiment: whole commands, process start included.

python benchmarks/query.py                        # makes a workspace of 500 runs, SQLite
python benchmarks/query.py --server               # and PostgreSQL, directly and behind MLflow
python benchmarks/query.py --workspace DIR        # keeps the runs there for the next time

The store is filled by tests/populate.py: 53 parameters, 25 tags with a curve of eleven evaluations,
31 metrics and about 900 points a run. The experiment is registered: 100 variants of five seeds.

Each row is the median of some repetitions with their range, in wall seconds, and the median of the
command's own processor seconds (user and system). The commands take turns, and with them a floor:
an interpreter that imports MLflow and no more, which most clients of a store begin with. On a busy
machine the floor gets less than a core, and the wall times of the others say no more than that;
then their processor seconds are what they would take alone, but for a server's work. PostgreSQL
gets a copy of the SQLite rows. `runs list` reads run folders only. Run it from the checkout.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.populate import populate
from tests.services import MlflowServer, Postgres
from workbench.registry import Experiment, make_plan, register
from workbench.tracking import default_uri, ensure_store, list_runs
from workbench.tracking.store import open_store
from workbench.training.config import RunConfig
from workbench.training.recipes import run_config
from workbench.workspace import Workspace, open_workspace

EXPERIMENT = "big"
SEEDS = 5
ON_DISK, OVER_HTTP = 2.0, 4.0
"""Seconds that a whole command may take."""

FLOOR = "import mlflow (floor)"


def configs(runs: int) -> list[RunConfig]:
    """Variants of five seeds each."""
    return [
        run_config(
            f"experiment={EXPERIMENT}",
            f"variant=v{place // SEEDS:03d}",
            f"seed={place % SEEDS}",
            f"method.sid_alpha={1 + (place // SEEDS) / 1000}",
        )
        for place in range(runs)
    ]


def timed(work: Callable[[], object], repeats: int) -> str:
    """Median of some repetitions, in seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return f"{median(seconds):.2f} s"


def process(*arguments: str) -> tuple[float, float]:
    """Wall and processor seconds of a whole interpreter."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def show_processes(
    label: str, asked: Mapping[str, Sequence[str]], repeats: int, target: float
) -> None:
    """Run the processes in turn, and print what each takes beside its target."""
    asked = {FLOOR: ("-c", "import mlflow"), **asked}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for _ in range(repeats):
        for name, arguments in asked.items():
            times[name].append(process(*arguments))
    share = median(used / wall for wall, used in times[FLOOR])
    print(f"{label} (load {os.getloadavg()[0]:.1f}; the floor had {share:.0%} of a core)")
    for name, pairs in times.items():
        walls, used = [wall for wall, _ in pairs], median(cpu for _, cpu in pairs)
        text = f"  {name:32} {median(walls):6.2f} s ({min(walls):.2f} to {max(walls):.2f})"
        verdict = "" if name == FLOOR else f" of {target:g} s"
        if verdict and median(walls) > target:
            verdict += " MISSED" if used > target else " missed by the wall clock alone"
        print(f"{text}, processor {used:.2f} s{verdict}", flush=True)


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


def copy_store(source: str, target: str) -> None:
    """Every row of MLflow's tables from an SQLite store into a fresh PostgreSQL one."""
    from sqlalchemy import MetaData, create_engine, text

    ensure_store(target)
    tables = MetaData()
    tables.reflect(engine := create_engine(source))
    names = [table.name for table in tables.sorted_tables if table.name != "alembic_version"]
    other = create_engine(target)
    with engine.connect() as reading, other.connect() as writing:
        writing.execute(text(f"TRUNCATE {', '.join(names)} CASCADE"))  # the default experiment
        raw: Any = writing.connection.dbapi_connection
        for name in names:
            every = tables.tables[name].columns
            columns = ", ".join(each.name for each in every if each.computed is None)
            with raw.cursor().copy(f"COPY {name} ({columns}) FROM STDIN") as copy:
                for row in reading.execute(text(f"SELECT {columns} FROM {name}")):
                    copy.write_row(row)
        raw.execute("ANALYZE")
        writing.commit()


def announce(uri: str, place: Workspace, runs: Sequence[RunConfig]) -> None:
    """Register the experiment whose runs these are."""
    alphas = {c.variant: c.method.model_dump()["sid_alpha"] for c in runs}
    variants = {variant: {"method.sid_alpha": alpha} for variant, alpha in alphas.items()}
    experiment = Experiment(EXPERIMENT, "How long does a person wait?", "Not long.", variants)
    register(make_plan(experiment), range(SEEDS), place, uri)


def measure(label: str, uri: str, place: Workspace, repeats: int) -> None:
    """Whole commands, then the query alone, by the quick way and by MLflow's own client."""
    where = ("--workspace", str(place.root))
    store = (*where, "--tracking-uri", uri)
    commands = {
        "runs list": ("runs", "list", *where),
        "experiments status": ("experiments", "status", EXPERIMENT, *store),
        "compare": ("compare", EXPERIMENT, *store),
    }
    asked = {f"workbench {name}": ("-m", "workbench", *rest) for name, rest in commands.items()}
    show_processes(label, asked, repeats, OVER_HTTP if uri.startswith("http") else ON_DISK)
    quick = timed(lambda: list_runs(uri, EXPERIMENT, limit=100_000), repeats)
    try:
        slow = timed(lambda: by_mlflow(uri), repeats)
    except Exception as error:  # MLflow's client gives a busy server ten seconds
        slow = f"fails ({type(error).__name__})"
    print(f"  the query alone: {quick}; by MLflow's client {slow} (imported already)")


def by_mlflow(uri: str) -> None:
    """The same runs by MLflow's own client, page by page as it gives up after ten seconds."""
    client, token = open_store(uri), None
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    while True:
        page = client.search_runs([experiment], max_results=200, page_token=token)
        token = page.token
        if not token:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workspace", type=Path, help="(default: a temporary one)")
    parser.add_argument("--server", action="store_true", help="PostgreSQL and mlflow server too")
    options = parser.parse_args()
    print(f"{options.runs} runs on {os.cpu_count()} cores, {options.repeats} repetitions")
    wanted = configs(options.runs)
    with workspace_at(options.workspace, options.runs) as place, ExitStack() as stack:
        announce(default_uri(place.root), place, wanted)
        measure("SQLite", default_uri(place.root), place, options.repeats)
        if options.server:
            postgres = stack.enter_context(Postgres())
            uri = postgres.create_database("mlflow")
            copy_store(default_uri(place.root), uri)
            measure("PostgreSQL", uri, place, options.repeats)
            server = MlflowServer(Path(stack.enter_context(tempfile.TemporaryDirectory())), uri)
            server.start()
            stack.callback(server.kill)
            measure("mlflow server, PostgreSQL", server.uri, place, options.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
