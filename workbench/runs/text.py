"""Text once: a run's prompts are encoded before it trains, and no text encoder stays in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from workbench.errors import RequestError
from workbench.teachers import PipelineTeacher, find_teacher, load_teacher, teacher_call
from workbench.teachers.text_store import StoredPrompts, TextStore, text_identity
from workbench.training.config import RunConfig
from workbench.training.engine import InterruptedRunError
from workbench.training.events import StopFlag
from workbench.training.parallel import Ranks
from workbench.workspace import Workspace

Say = Callable[[str], None]

_LINE_SECONDS = 5.0
_LOCK_SECONDS = 1.0
_STOPPED = "Stopped while prompts were encoded; the same command continues with the rest."


def silent_say(message: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class TextJob:
    """Who encodes: this process among its peers, and whom it tells and obeys."""

    workspace: Workspace
    ranks: Ranks
    stop: StopFlag
    say: Say = silent_say


def load_with_encodings(
    config: RunConfig, prompts: Sequence[str], job: TextJob
) -> tuple[PipelineTeacher, TextStore]:
    """A run's teacher without text encoders, and a store of all these prompts and the empty one.

    The text encoders are loaded only if something is not stored yet. Every rank calls this with
    the same prompts; each encodes its share.

    Raises:
        RequestError: as :func:`load_run_teacher`, or no room on the disk.
        InterruptedRunError: a stop was requested; what is encoded stays.
    """
    folder = find_teacher(config.teacher, job.workspace.teachers)
    call = teacher_call(config.teacher, config.teacher_call)
    store = TextStore(job.workspace.cache / "text" / text_identity(folder, call=call))

    def load(text: bool) -> PipelineTeacher:
        return load_run_teacher(config, job.workspace, job.ranks.device, text)

    missing, complete = _plan(store, prompts, job.ranks)
    if complete:
        return load(text=False), store
    with _writing(store, job):
        missing, complete = _plan(store, prompts, job.ranks)  # another process may have been here
        teacher = load(text=not complete)
        if not complete:
            show = _RateLines(job)
            store.encode(teacher, missing, job.ranks.rank, job.ranks.world, show)
            teacher.release_text_encoders()
        job.ranks.any(False)  # from here on every rank's shards are there
    store.refresh()
    return teacher, store


def load_run_teacher(
    config: RunConfig, workspace: Workspace, device: torch.device, text: bool
) -> PipelineTeacher:
    """The teacher as a run's configuration asks for it.

    Raises:
        RequestError: as :func:`load_teacher`, or a guidance for a network that takes none.
    """
    teacher = load_teacher(
        config.teacher, workspace.teachers, device, call=config.teacher_call, text=text
    )
    if config.teacher_guidance is not None and teacher.network.distilled_guidance is None:
        raise RequestError(
            f"teacher_guidance={config.teacher_guidance:g}: the teacher {config.teacher} takes no "
            "guidance as an input. Its two-pass guidance is method.guidance and "
            "evaluation.cfg_scale."
        )
    return teacher


def cut_warning(prompts: Sequence[str], stored: StoredPrompts) -> str | None:
    """How many prompts the encoder cut, with an example; None when it took all as they are."""
    cut = stored.cut()
    if not cut:
        return None
    return (
        f"{len(cut)} of {len(prompts)} prompts are longer than the text encoder reads; it drops "
        f"their ends. The first: {prompts[cut[0]][:200]!r}."
    )


def _plan(store: TextStore, prompts: Sequence[str], ranks: Ranks) -> tuple[list[str], bool]:
    """(what rank 0 finds missing, whether that is nothing), the same on every rank."""
    missing = store.missing(prompts) if ranks.is_main else []
    return ranks.from_main((missing, not missing and store.has_uncond()))


@contextmanager
def _writing(store: TextStore, job: TextJob) -> Iterator[None]:
    """Alone among processes of other runs; a stop is obeyed while waiting."""
    with ExitStack() as held:
        announced = False
        while not job.ranks.any(
            job.ranks.is_main and held.enter_context(store.locked(_LOCK_SECONDS))
        ):
            if job.ranks.any(job.stop.requested):
                raise InterruptedRunError(_STOPPED)
            if job.ranks.is_main and not announced:
                job.say("Another process is encoding prompts with this text encoder; waiting.")
            announced = True
        if job.ranks.is_main and (damaged := store.sweep()):
            job.say(f"Deleted {damaged} damaged files of encoded prompts; encoding them again.")
        yield


class _RateLines:
    """A progress callback: now and then a line with the rate, and the place to obey a stop."""

    def __init__(self, job: TextJob) -> None:
        self.job = job
        self.began = self.said = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.job.stop.requested:
            raise InterruptedRunError(_STOPPED)
        now = time.monotonic()
        if not self.job.ranks.is_main or now - self.said < _LINE_SECONDS:
            return
        self.said = now
        world = self.job.ranks.world
        rate = done * world / (now - self.began)
        self.job.say(
            f"{stage.capitalize()}: {done * world} of {total * world}, {rate:.0f}/s, about "
            f"{(total - done) * world / rate:.0f} s left"
        )
