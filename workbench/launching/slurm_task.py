"""What runs on a cluster's nodes: submitit's task starts the run, and hears Slurm's signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError
from workbench.runs.spec import RunSpec
from workbench.training.world import job_port

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_HOLD_SECONDS = 600
"""After SIGTERM Slurm has the last word; should it never speak, the node is not held for ever."""


@dataclass
class SlurmTask:
    """One node's part of a run: what submitit calls there.

    It is written to disk, so its spec holds no addresses, which may hold passwords; those are in
    the environment of the batch job, where Slurm keeps it.

    Attributes:
        needs: environment variables that must have arrived.
        patience: seconds that the run has for its checkpoint.
    """

    spec: RunSpec
    needs: tuple[str, ...]
    patience: float
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _asked: bool = field(default=False, init=False, repr=False)
    _by_slurm: bool = field(default=False, init=False, repr=False)

    @classmethod
    def of(cls, spec: RunSpec, signal_delay: int) -> SlurmTask:
        # The rest of the delay is for re-queueing.
        return cls(spec.without_secrets(), tuple(spec.environment()), signal_delay * 0.75)

    def __call__(self) -> None:
        """Run the command to its end; the task ends with its exit code."""
        place = _Place.here()
        if place.rank == 0:
            place.exit_file.unlink(missing_ok=True)
        # submitit ignores SIGTERM, because what follows a preemption's is a second signal. The
        # run can use the time until then; it is told once more, which changes nothing.
        signal.signal(signal.SIGTERM, self._terminated)
        signal.signal(signal.SIGUSR1, self._stopped)
        log = place.log(self.spec.log)
        with log.open("ab") as stream:
            code = self._run(place, stream.fileno())
        deadline = time.monotonic() + _HOLD_SECONDS
        while code and self._by_slurm and time.monotonic() < deadline:
            time.sleep(0.2)  # ending now would count as failed, and not be re-queued
        if place.rank == 0:
            place.exit_file.write_text(f"{code}\n", encoding="utf-8")
        if code:
            sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit in its handler of USR2: let the run save itself, then go on later."""
        from submitit.helpers import DelayedSubmission

        self._ask()
        process, deadline = self._process, time.monotonic() + self.patience
        if process is not None:
            while not _has_ended(process.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not _has_ended(process.pid):
                process.kill()  # as Slurm would soon; the next start needs the run's lock
        # What was set aside once must not be set aside again.
        later = SlurmTask(replace(self.spec, fresh=False), self.needs, self.patience)
        return DelayedSubmission(later)

    def _run(self, place: _Place, log: int) -> int:
        missing = [name for name in self.needs if name not in os.environ]
        if missing:
            text = f"Error: {', '.join(missing)} did not reach the job: sbatch must export it.\n"
            os.write(log, text.encode())
            return RequestError.exit_code
        fresh = self.spec.fresh and not place.requeued
        self._process = process = subprocess.Popen(
            place.command(replace(self.spec, fresh=fresh)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, int(0.8 * self.patience))),
            },
            preexec_fn=_ignore_ours,
        )
        if self._asked:
            self._ask()
        # Not process.wait(): it holds a lock that the handler's questions would wait for.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        code = process.wait()
        return code if code >= 0 else 128 - code

    def _ask(self) -> None:
        self._asked = True
        if self._process is not None and not _has_ended(self._process.pid):
            self._process.send_signal(signal.SIGTERM)

    def _terminated(self, number: int, frame: object) -> None:
        """By Slurm, which cancels or preempts: another signal follows."""
        self._by_slurm = True
        self._ask()

    def _stopped(self, number: int, frame: object) -> None:
        """By a person: the run ends, and the job with it."""
        self._by_slurm = False
        self._ask()


@dataclass(frozen=True)
class _Place:
    """Where a task finds itself, by its environment."""

    rank: int
    nodes: int
    first_node: str
    port: int
    exit_file: Path
    requeued: bool

    @classmethod
    def here(cls) -> _Place:
        environment = import_submitit().JobEnvironment()
        number = int(re.sub(r"\D", "", environment.raw_job_id))
        return cls(
            rank=environment.global_rank,
            nodes=environment.num_nodes,
            first_node=environment.hostnames[0],
            port=job_port(number),
            exit_file=exit_file_of(environment.paths.folder, environment.job_id),
            requeued=int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0,
        )

    def command(self, spec: RunSpec) -> list[str]:
        """The run's command; on several nodes torchrun calls it, in this node's processes."""
        if self.nodes == 1:
            return spec.command()
        python, *command = replace(spec, nproc=1).command()  # torchrun's parser stumbles on --nproc
        return [
            *(python, "-m", "torch.distributed.run", "--nproc-per-node", str(spec.nproc)),
            *("--nnodes", str(self.nodes), "--node-rank", str(self.rank)),
            *("--master-addr", self.first_node, "--master-port", str(self.port)),
            *command,
        ]

    def log(self, log: Path) -> Path:
        """Node 0 writes the run's log, each other one its own beside it."""
        return log if self.rank == 0 else log.with_name(f"{log.name}.node{self.rank}")


def exit_file_of(folder: Path, job_id: str) -> Path:
    """Where node 0 leaves the run's exit code: Slurm forgets a job minutes after its end."""
    return folder / f"{job_id}.exit"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended, without taking its exit code from who waits for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _ignore_ours() -> None:
    """In the child: where Slurm signals all processes of a job, these two would kill the run."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def import_submitit() -> Any:
    """The optional package.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise RequestError(
            "--launcher slurm needs submitit: pip install 'workbench-sid[slurm]'."
        ) from error
    return submitit
