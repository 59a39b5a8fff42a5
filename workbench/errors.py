"""The errors a person sees. Everything else that is raised is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """Work that could not be finished: one clear line, exit code 1."""

    exit_code = 1


class RequestError(WorkbenchError):
    """A request that was wrong: says what was wrong and what was expected, exit code 2."""

    exit_code = 2


class AlreadyRunningError(RequestError):
    """What was asked for is being done by another process; nothing else is wrong with it."""


class NoRunsError(RequestError):
    """A request that waits for runs; nothing else is wrong with it."""


class SettingsError(RequestError):
    """A request whose settings alone are wrong: every machine would refuse it."""


class MachineError(WorkbenchError):
    """This machine could not do it, another one may: what was asked for can wait for that."""


class MemoryExhaustedError(WorkbenchError):
    """A run that needs more memory than there is; another run may fit."""


class InterruptedRunError(WorkbenchError):
    """The run was asked to stop and has kept what it did; the same request continues."""


class PrunedRunError(WorkbenchError):
    """A listener ended the run early because it is not worth finishing; a checkpoint is kept."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> RequestError:
    """The error for a name outside a fixed set: names the set and the nearest member."""
    names = sorted(known)
    listed = ", ".join(names) if names else "none"
    return RequestError(f"Unknown {kind} {name!r}{nearest_name(name, names)} Known: {listed}.")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a wrong name: a question for the nearest right one, if any."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f". Did you mean {near[0]!r}?" if near else "."
