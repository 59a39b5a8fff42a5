"""Runs on a Slurm cluster, through submitit: queued, preempted, re-queued and resumed.

Three parties, each its own process: the launcher submits and asks about jobs; one submitit task on
each node starts the run's command as its child and hears Slurm's signals; the child trains.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.launching.jobs import Handle, LostJobsError
from workbench.launching.slurm_task import SlurmTask, exit_file_of, import_submitit
from workbench.runs.spec import RunSpec, job_file
from workbench.settings import FrozenConfig
from workbench.training.run_folder import RunFolder
from workbench.user_config import find_user_config, slurm_tables, validate_table
from workbench.workspace import Workspace

_EXTRA = "extra."
_PROFILE = "profile="
_OURS = {
    "error": "workbench writes the logs",
    "gpus": "use gpus_per_node",
    "ntasks": "workbench starts one task a node",
    "ntasks-per-node": "workbench starts one task a node",
    "open-mode": "workbench appends to the logs",
    "output": "workbench writes the logs",
    "requeue": "a run is always re-queued",
    "signal": "use signal_delay",
}
"""sbatch options that cannot be extra ones, and why."""


class SlurmSettings(FrozenConfig):
    """What sbatch is asked for; names as in sbatch."""

    partition: str | None = Field(None, min_length=1)
    account: str | None = Field(None, min_length=1)
    qos: str | None = Field(None, min_length=1)
    time: Annotated[int, Field(gt=0, description="limit in minutes; re-queued when reached")] = 1440
    nodes: int = Field(1, ge=1)
    gpus_per_node: int | None = Field(
        None, ge=0, description="default: one for each process (--nproc); 0 on nodes without"
    )
    cpus_per_task: int | None = Field(None, ge=1, description="cores of a node")
    mem: str | None = Field(None, pattern=r"^\d+[KMGT]?$", description="of a node, e.g. 64G")
    signal_delay: int = Field(
        120, ge=20, description="seconds before the end at which the run is told to checkpoint"
    )
    max_timeouts: int = Field(
        20, ge=0, description="how often the run may reach the time limit and go on"
    )
    extra: dict[str, str] = Field({}, description="other sbatch options, without the dashes")

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, values: dict[str, str]) -> dict[str, str]:
        for name in values:
            key = name.replace("_", "-")
            if key in _OURS:
                raise ValueError(f"{name}: {_OURS[key]}")
            if name.replace("-", "_") in cls.model_fields:
                raise ValueError(f"{name} is no extra option: leave out {_EXTRA!r}")
        return values

    def parameters(self, spec: RunSpec) -> dict[str, Any]:
        """As submitit's SlurmExecutor takes them."""
        gpus = spec.nproc if self.gpus_per_node is None else self.gpus_per_node
        wanted = {
            "job_name": spec.name,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": self.nodes,
            "ntasks_per_node": 1,
            "gpus_per_node": gpus or None,  # 0 is refused where there are none
            "cpus_per_task": self.cpus_per_task,
            "mem": self.mem,
            "signal_delay_s": self.signal_delay,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.extra},
            # Since Slurm 22.05 srun no longer takes this one from sbatch: a task got one core.
            "srun_args": self.cpus_per_task and [f"--cpus-per-task={self.cpus_per_task}"],
        }
        return {name: value for name, value in wanted.items() if value is not None}


def slurm_settings(assignments: Sequence[str]) -> SlurmSettings:
    """Settings from KEY=VALUE texts, over workbench.toml's; dashes are as good as underscores.

    ``profile=NAME`` takes those of ``[slurm.profiles.NAME]`` over those of ``[slurm]``.

    Raises:
        RequestError: an unknown key (names the nearest), a wrong value, no "=", or a profile that
            workbench.toml does not have.
    """
    given = dict.fromkeys(text for text in assignments if text.startswith(_PROFILE))
    profile = next((text.removeprefix(_PROFILE) for text in reversed(given)), None)
    values = _file_settings(profile)
    for text in assignments:
        if text in given:
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--slurm {text!r} is not KEY=VALUE.")
        if key.startswith(_EXTRA):
            values.setdefault("extra", {})[key.removeprefix(_EXTRA)] = value
            continue
        name = key.replace("-", "_")
        if name not in SlurmSettings.model_fields or name == "extra":
            known = [known for known in SlurmSettings.model_fields if known != "extra"]
            known += ["profile", f"{_EXTRA}SBATCH_OPTION"]
            raise unknown_name("Slurm option", key, known)
        values[name] = value
    try:
        return SlurmSettings.model_validate(values)
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(str(part) for part in item["loc"])
        got = "" if where == "extra" else f" (got {item['input']!r})"
        message = item["msg"].removeprefix("Value error, ")
        raise RequestError(f"Slurm option {where}: {message}{got}.") from None


def _file_settings(profile: str | None) -> dict[str, Any]:
    """What workbench.toml sets for Slurm jobs, each of its tables checked by itself."""
    values: dict[str, Any] = {}
    for name, table in slurm_tables(profile).items():
        own = validate_table(SlurmSettings, table, find_user_config(), name)
        extra = {**values.get("extra", {}), **own.extra}
        values.update({**own.model_dump(exclude_unset=True), "extra": extra})
    return values


class SlurmLauncher:
    """Submits runs with sbatch.

    Args:
        refresh: seconds between two questions to the queue, whatever the number of jobs.
    """

    def __init__(self, settings: SlurmSettings, refresh: float = 10.0) -> None:
        self.settings = settings
        self._queue = _Queue(refresh)

    def check(self, spec: RunSpec) -> None:
        """Refuse what no submission would mend; writes nothing.

        Raises:
            RequestError: submitit or Slurm is not here, or the batch does not divide by the ranks
                of all nodes.
        """
        from workbench.runs.execution import check_request

        import_submitit()
        if shutil.which("srun") is None:  # what submitit's executor asks, too
            raise RequestError("No srun on this machine: --launcher slurm needs Slurm.")
        check_request(spec.config, spec.nproc * self.settings.nodes)

    def start(self, spec: RunSpec) -> Handle:
        """Submit a run, or follow the job that an earlier call submitted and that is still there.

        Raises:
            RequestError: as :meth:`check`, sbatch refuses, or a job to start afresh is still there.
            WorkbenchError: squeue does not say whether an earlier job is still there.
            LostJobsError: squeue has not answered for ten minutes.
        """
        self.check(spec)
        submitit = import_submitit()
        folder = spec.log.parent / "slurm"
        executor = submitit.SlurmExecutor(folder, max_num_timeout=self.settings.max_timeouts)
        executor.update_parameters(**self.settings.parameters(spec))
        submitted_as = folder / f"{spec.name}.job"
        if (earlier := _still_there(submitted_as, self._queue)) is not None:
            if spec.fresh:
                raise RequestError(
                    f"Slurm job {earlier} of run {spec.folder.name} is still there: end it with "
                    f"scancel --signal=USR1 {earlier} before --fresh."
                )
            return SlurmHandle(self._queue, earlier, exit_file_of(folder, earlier))
        job_id = self._submit(executor, spec)
        submitted_as.write_text(job_id, encoding="utf-8")
        return SlurmHandle(self._queue, job_id, exit_file_of(folder, job_id))

    def _submit(self, executor: Any, spec: RunSpec) -> str:
        from submitit.core.utils import FailedJobError

        spec.write()
        task = SlurmTask.of(spec, self.settings.signal_delay)
        try:
            with _environment(spec):
                return str(executor.submit(task).job_id)
        except FailedJobError as error:
            reason = " ".join(str(error).split())
            raise RequestError(
                f"sbatch refused {spec.log.parent.name}/{spec.name}: {reason}"
            ) from error


def submission_file(workspace: Workspace, folder: RunFolder) -> Path:
    """Holds the number of the last Slurm job that was submitted for a run."""
    place = job_file(workspace, folder, ".job")
    return place.parent / "slurm" / place.name


def find_submitted(workspace: Workspace, folder: RunFolder) -> SlurmHandle | None:
    """The Slurm job of a run that waits or goes on; None where there is none.

    Raises:
        WorkbenchError: one was submitted, and the queue does not say how it is.
    """
    if folder.is_archived:  # the job of that name is its successor's
        return None
    submitted_as, queue = submission_file(workspace, folder), _Queue(refresh=10.0)
    job_id = _still_there(submitted_as, queue)
    if job_id is None:
        return None
    return SlurmHandle(queue, job_id, exit_file_of(submitted_as.parent, job_id))


def _still_there(submitted_as: Path, queue: _Queue) -> str | None:
    """The job that was submitted for a run before, unless it has ended.

    Raises:
        WorkbenchError: the queue does not say how it is.
    """
    if not submitted_as.exists():
        return None
    job_id = submitted_as.read_text(encoding="utf-8")
    state = queue.state(job_id, now=True)
    if not queue.looks:  # taken for running, it might have ended long ago, and nothing would start
        raise WorkbenchError(
            f"{submitted_as.stem} was submitted as Slurm job {job_id}, and squeue does not answer "
            "here."
        )
    return None if state in {"COMPLETED", *_ENDED} else job_id


class SlurmHandle:
    """A submitted run."""

    outlives = True

    def __init__(self, queue: _Queue, job_id: str, exit_file: Path) -> None:
        self.job_id = job_id
        self._queue, self._exit_file = queue, exit_file
        self._ended_at: int | None = None

    def poll(self) -> int | None:
        """The run's exit code; None while it waits, runs, or waits again.

        Raises:
            LostJobsError: squeue has not answered for ten minutes.
        """
        state = self._queue.state(self.job_id)
        if state == "COMPLETED":
            return 0
        if state not in _ENDED:
            self._ended_at = None
            return None
        # A job that is being re-queued may pass through such a state: believe the second look.
        if self._ended_at is None:
            self._ended_at = self._queue.looks
        if self._queue.looks == self._ended_at:
            return None
        try:
            return int(self._exit_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 1  # cancelled, or killed before it could say more

    def stop(self) -> None:
        """Cancel it if it waits; if it runs, let it write its checkpoint and end.

        Raises:
            WorkbenchError: Slurm did not take the message.
        """
        for options in (["--state=PENDING"], ["--signal=USR1"]):
            command = ["scancel", *options, self.job_id]
            try:
                ended = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                raise WorkbenchError(f"Could not stop Slurm job {self.job_id}: {error}") from None
            gone = re.search("already complet|Invalid job id", ended.stderr)
            if ended.returncode and not gone:
                raise WorkbenchError(f"Could not stop Slurm job {self.job_id}: {ended.stderr}")


_PATIENCE_SECONDS = 600

_GONE = "GONE"  # our word for what the queue has forgotten
_ENDED = {
    *("CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"),
    *("DEADLINE", "PREEMPTED", "REVOKED", _GONE),
}
"""States in which a job will not run again."""


class _Queue:
    """States of this person's jobs, by squeue: it needs no accounting database, as sacct does."""

    def __init__(self, refresh: float) -> None:
        self.refresh = refresh
        self.looks = 0
        self._states: dict[str, str] = {}
        self._looked = time.monotonic()
        self._silent_since: float | None = None

    def state(self, job_id: str, now: bool = False) -> str:
        """A job's state in Slurm's words; GONE when the queue has forgotten it.

        Args:
            now: ask, however recent the last answer is.

        Raises:
            LostJobsError: squeue has not answered for ten minutes.
        """
        if now or self.looks == 0 or time.monotonic() - self._looked >= self.refresh:
            self._looked = time.monotonic()
            self._look()
        return self._states.get(job_id, _GONE if self.looks else "PENDING")

    def _look(self) -> None:
        command = ["squeue", "--noheader", "--me", "--states=all", "--format=%i %T"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
        except (subprocess.CalledProcessError, OSError) as error:
            said = str(getattr(error, "stderr", "")) or str(error)
            self._bear_with(" ".join(said.split()))
            return
        self._states = dict(line.split() for line in ended.stdout.splitlines())
        self._silent_since = None
        self.looks += 1

    def _bear_with(self, reason: str) -> None:
        """A queue that does not answer may answer the next time, for ten minutes."""
        if self._silent_since is None:
            self._silent_since = self._looked
        if self._looked - self._silent_since > _PATIENCE_SECONDS:
            raise LostJobsError(
                f"squeue has not answered for {_PATIENCE_SECONDS // 60} minutes ({reason}). The "
                "jobs go on; the same command finds them again."
            )


@contextmanager
def _environment(spec: RunSpec) -> Iterator[None]:
    """This process's environment as the job shall have it: with what the job needs, and without
    the marks of a job that we may be inside of."""
    before = dict(os.environ)
    inside = [] if "SLURM_JOB_ID" not in before else [*before]
    for name in inside:
        if name.startswith(("SLURM_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF":
            del os.environ[name]
    os.environ.update(spec.environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
