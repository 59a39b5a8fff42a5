"""What a rank tells of its error to the process that speaks for all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from workbench.errors import (
    InterruptedRunError,
    MachineError,
    MemoryExhaustedError,
    PrunedRunError,
    RequestError,
    SettingsError,
    WorkbenchError,
)

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
"""Errors that a caller tells apart, also when they come from another rank."""

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
