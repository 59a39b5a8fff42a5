"""Processes that torchrun or srun started for one command: rank 0 runs it, the others help."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import (
    InterruptedRunError,
    MachineError,
    MemoryExhaustedError,
    PrunedRunError,
    RequestError,
    SettingsError,
    WorkbenchError,
)

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # public, not marked so

ResultT = TypeVar("ResultT")
Tell = Callable[[str], None]

_TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TASKS = "SLURM_STEP_NUM_TASKS"
_MARKS = ("RANK", "WORLD_SIZE", _TASKS)

_SECONDS_TO_MEET = 900
_SECONDS_BEHIND = 600  # how much later than rank 0 another may be done with a call
_SECONDS_TO_RECOVER = 30  # once a rank has failed, how long the others may take to notice
_SECONDS_TO_PART = 10

_current: World | None = None


def current_world() -> World | None:
    """The world of this process; None where it was started alone."""
    return _current


def run_in_world(command: Callable[[], object], tell: Tell) -> None:
    """Run a command, which exits as it does, once for all processes that started with this one.

    Rank 0 runs it. The others take part in what it launches, say nothing and exit with its code.

    Args:
        tell: shows a person an error.
    """
    variables = rank_variables(os.environ)
    if variables is None:
        command()
        return
    try:
        world = World.meet(variables)
    except WorkbenchError as error:
        tell(str(error))
        sys.exit(error.exit_code)
    if world.rank > 0:
        sys.exit(world.serve(tell))
    signal.signal(signal.SIGTERM, _interrupt)
    code = 1
    try:
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        world.end(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Between runs: rank 0 must stay alive to tell the others that the command ends."""
    raise KeyboardInterrupt


def rank_variables(environment: Mapping[str, str]) -> dict[str, str] | None:
    """torch's environment variables of a rank, as torchrun sets them; None for a single process.

    Slurm's are used only inside a step of several tasks: a batch script without srun is one
    process whatever its allocation, and so is an interactive shell. A torchrun inside a step takes
    precedence.
    """
    if "WORLD_SIZE" in environment:
        several = int(environment["WORLD_SIZE"]) > 1 and all(name in environment for name in _TORCH)
        return {name: environment[name] for name in _TORCH} if several else None
    tasks = int(environment.get(_TASKS, "1"))
    if tasks == 1:
        return None
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(-(-tasks // nodes)),
        "MASTER_ADDR": environment.get(
            "MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"])
        ),
        "MASTER_PORT": environment.get("MASTER_PORT", str(job_port(job, step))),
    }


def job_port(job: int, step: int = 0) -> int:
    """A port for a Slurm step: below those that systems hand out, another for each job and step."""
    return 15000 + (job + 1009 * step) % 15000


def first_host(hosts: str) -> str:
    """The first of Slurm's list of hosts: ``gpu[003-010,012],b`` is gpu003."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", hosts)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else hosts)


class World:
    """This process and those that started with it, which communicate through a store.

    Attributes:
        is_lost: a rank has failed while others cannot be reached, so that no further call is
            possible.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.is_lost = False
        self._calls = 0

    @classmethod
    def meet(cls, variables: Mapping[str, str]) -> World:
        """Wait for the others.

        Raises:
            WorkbenchError: they did not come.
        """
        global _current
        from torch.distributed import DistError
        from torch.distributed.rendezvous import rendezvous

        os.environ.update(variables)
        try:
            patience = timedelta(seconds=_SECONDS_TO_MEET)
            store, rank, size = next(rendezvous("env://", timeout=patience))
        except DistError as error:
            raise WorkbenchError(
                "Rank {RANK} of {WORLD_SIZE} did not meet the others at MASTER_ADDR {MASTER_ADDR}, "
                "MASTER_PORT {MASTER_PORT}: ".format_map(variables)
                + str(error).splitlines()[0]
            ) from error
        for name in _MARKS:  # what this process starts is alone again
            os.environ.pop(name, None)
        _current = cls(store, rank, size)
        return _current

    def call(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Call a module-level function on every rank; the arguments are rank 0's.

        Raises:
            WorkbenchError: a rank failed; carries the first failure's message.
        """
        if self.is_lost:  # it would never come back
            raise InterruptedRunError(
                "A rank failed and left others where they cannot be reached; the same command "
                "continues."
            )
        self.store.set(f"call/{self._calls}", "")
        result: list[ResultT] = []
        failure = self._take_part(lambda: (function, arguments), result.append)
        if failure is not None:
            raise failure.error()
        return result[0]

    def serve(self, tell: Tell) -> int:
        """Take part in what rank 0 calls; the exit code that it ends with."""
        from torch.distributed import DistError

        # A launcher signals every rank. Rank 0 decides for all, and its runs listen for it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            return self._serve(tell)
        except DistError:  # rank 0 is gone, and the store with it
            return 1

    def _serve(self, tell: Tell) -> int:
        while True:
            while not self.store.check([f"call/{self._calls}"]):
                if self.store.check(["end"]):
                    self.store.set(f"gone/{self.rank}", "")
                    return int(self.store.get("end"))
                time.sleep(0.1)
            failure = self._take_part(lambda: None, lambda result: None)
            if self.is_lost and failure is not None:
                if failure.rank == self.rank and not self._is_back(range(1)):
                    tell(failure.message)
                return failure.error().exit_code

    def end(self, code: int) -> None:
        """Let the others end with an exit code."""
        # torchrun takes the first that ends for a failure and would end this one otherwise.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.store.set("end", str(code))
        deadline = time.monotonic() + _SECONDS_TO_PART
        gone = [f"gone/{rank}" for rank in range(1, self.size)]
        # The store may be this process's own, which they still have to read.
        while not (self.is_lost or self.store.check(gone)) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _take_part(self, what: Callable[[], Any], keep: Callable[[Any], None]) -> Failure | None:
        """This rank's part of one call; returns the first failure of any rank."""
        import torch.distributed as dist
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        from workbench.training.parallel import join_group

        on_cpu = False
        try:
            own = PrefixStore(f"group/{self._calls}", self.store)
            ranks = join_group(own, self.rank, self.size)
            on_cpu = ranks.device.type == "cpu"
            function, arguments = ranks.broadcast(what())
            keep(function(*arguments))
        except (Exception, KeyboardInterrupt) as error:
            self._report(error)
            # gloo's peers notice; NCCL's may wait in a kernel, and the group would wait for them.
            if on_cpu:
                dist.destroy_process_group()
        self._wait_for_all()
        if dist.is_initialized() and not self.is_lost:
            dist.destroy_process_group()
        failure = self._failure()
        self._calls += 1
        return failure

    def _report(self, error: BaseException) -> None:
        """Report a failure if it is the first: the other ranks fail because they lose this one."""
        failure = Failure.of(error, self.rank)
        text = failure.as_text()
        kept = self.store.compare_set(f"failure/{self._calls}", "", text)
        if kept.decode() == text and failure.is_bug:
            traceback.print_exception(error)

    def _failure(self) -> Failure | None:
        name = f"failure/{self._calls}"
        if not self.store.check([name]):
            return None
        return Failure.from_text(self.store.get(name).decode())

    def _wait_for_all(self) -> None:
        """Wait until every rank has returned, or one has failed and others are stuck."""
        self.store.set(f"back/{self._calls}/{self.rank}", "")
        # Rank 0 draws and uploads while the others wait for it.
        deadline = time.monotonic() + _SECONDS_BEHIND if self.rank == 0 else float("inf")
        failed = False
        while not self._is_back(range(self.size)):
            if not failed and self.store.check([f"failure/{self._calls}"]):
                failed, deadline = True, time.monotonic() + _SECONDS_TO_RECOVER
            if time.monotonic() > deadline:
                self.store.set("lost", "")
                break
            time.sleep(0.1)
        self.is_lost = self.store.check(["lost"])

    def _is_back(self, ranks: range) -> bool:
        return self.store.check([f"back/{self._calls}/{rank}" for rank in ranks])


_KINDS = {
    kind.__name__: kind
    for kind in (
        SettingsError,
        RequestError,
        MachineError,
        MemoryExhaustedError,
        InterruptedRunError,
        PrunedRunError,
    )
}
"""Errors that callers distinguish, also when they come from another rank."""

_CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch raises a plain RuntimeError there


@dataclass(frozen=True)
class Failure:
    """A rank's error as it travels between processes.

    Attributes:
        kind: name of an error that callers tell apart, or "".
        is_bug: it is not meant for people; its traceback belongs on the rank's stderr.
    """

    rank: int
    message: str
    kind: str
    is_bug: bool

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        if isinstance(error, KeyboardInterrupt):
            return cls(rank, "Interrupted.", InterruptedRunError.__name__, is_bug=False)
        if isinstance(error, WorkbenchError):
            names = (kind.__name__ for kind in type(error).__mro__)
            kind = next((name for name in names if name in _KINDS), "")
            return cls(rank, str(error), kind, is_bug=False)
        if ran_out_of_memory(error):
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            return cls(rank, reason, MemoryExhaustedError.__name__, is_bug=False)
        text = f"Rank {rank} failed: {type(error).__name__}: {error}"
        kind = MachineError.__name__ if isinstance(error, OSError) else ""
        return cls(rank, text, kind, is_bug=True)

    def as_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Failure:
        return cls(**json.loads(text))

    def error(self) -> WorkbenchError:
        """The error again."""
        return _KINDS.get(self.kind, WorkbenchError)(self.message)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    import torch

    kinds = torch.OutOfMemoryError | MemoryError | MemoryExhaustedError
    return isinstance(error, kinds) or _CPU_ALLOCATOR in str(error)
