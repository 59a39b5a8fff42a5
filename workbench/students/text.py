"""Text once: a run's prompts are encoded before it trains, and no text encoder stays in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError
from workbench.teachers import (
    KNOWN_TEACHERS,
    PipelineTeacher,
    VelocityNetwork,
    find_teacher,
    load_pipeline_teacher,
    teacher_call,
)
from workbench.teachers.architecture import Architecture
from workbench.teachers.pipeline import TextPrecision, load_prompt_encoder
from workbench.teachers.shards import ShardFolder
from workbench.teachers.text_store import StoredPrompts, TextStore, text_identity
from workbench.training.config import RunConfig
from workbench.training.events import StopFlag
from workbench.training.parallel import Ranks
from workbench.workspace import Workspace

Say = Callable[[str], None]

_LINE_SECONDS = 5.0
_LOCK_SECONDS = 1.0
_PROMPTS = "prompts"


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
    config: RunConfig, folder: Path, prompts: Sequence[str], job: TextJob
) -> tuple[PipelineTeacher, TextStore]:
    """A run's teacher without text encoders, and a store of all these prompts and the empty one.

    The text encoders are loaded only if something is not stored yet, alone, and are gone before
    the rest is loaded. Every rank calls this with the same prompts; each encodes its share.

    Args:
        folder: of the teacher.

    Raises:
        RequestError: as :func:`load_run_teacher`, or no room on the disk.
        InterruptedRunError: a stop was requested; what is encoded stays.
    """
    call = teacher_call(config.teacher, config.teacher_call)
    store = TextStore(job.workspace.cache / "text" / text_identity(folder, call=call))
    missing, complete = _plan(store, prompts, job.ranks)
    if not complete:
        _check_guidance(config, Architecture.in_folder(folder, call).network())
        with writing(store, job, _PROMPTS):
            missing, complete = _plan(store, prompts, job.ranks)  # another process was here?
            if not complete:
                _encode_share(store, config, folder, missing, job)
            job.ranks.any(False)  # from here on every rank's shards are there
    store.refresh()  # this rank may have looked before another wrote the last of them
    return load_run_teacher(config, folder, job.ranks.device, text=False, weights=False), store


def _encode_share(
    store: TextStore, config: RunConfig, folder: Path, missing: Sequence[str], job: TextJob
) -> None:
    """With text encoders that no one else holds, gone on return."""
    call = teacher_call(config.teacher, config.teacher_call)
    encoder = load_prompt_encoder(config.teacher, folder, job.ranks.device, call)
    show = RateLines(job, _PROMPTS)
    share = partial(store.encode, encoder, missing, job.ranks.rank, job.ranks.world, show)
    on_every_rank(job.ranks, share)
    encoder.release_text_encoders()


def on_every_rank(ranks: Ranks, work: Callable[[], object]) -> None:
    """Do this rank's share; what goes wrong on one rank is raised on all, so that none waits."""
    problem: WorkbenchError | None = None
    try:
        work()
    except WorkbenchError as error:
        problem = error
    first = next((error for error in ranks.gather(problem) if error is not None), None)
    if first is not None:
        raise first


def find_run_teacher(
    config: RunConfig,
    workspace: Workspace,
    revision: str | None,
    find: Callable[[str, Path], Path] = find_teacher,
) -> Path:
    """The folder of a run's teacher, at the hub's commit that the run is pinned to, if any.

    Raises:
        RequestError: as :func:`find_teacher`.
    """
    if revision is None:
        return find(config.teacher, workspace.teachers)
    spec = KNOWN_TEACHERS.get(config.teacher)
    hub_id = spec.hub_id if spec is not None and spec.hub_id is not None else config.teacher
    return find(f"{hub_id.partition('@')[0]}@{revision}", workspace.teachers)


def load_run_teacher(
    config: RunConfig,
    folder: Path,
    device: torch.device,
    text: TextPrecision,
    weights: bool = True,
) -> PipelineTeacher:
    """The teacher in a folder, as a run's configuration asks for it.

    Raises:
        RequestError: as :func:`load_pipeline_teacher`, or a guidance for a network that takes none.
    """
    call = teacher_call(config.teacher, config.teacher_call)
    teacher = load_pipeline_teacher(
        config.teacher, folder, device, call=call, text=text, weights=weights
    )
    _check_guidance(config, teacher.network)
    return teacher


def _check_guidance(config: RunConfig, network: VelocityNetwork) -> None:
    if network.distilled_guidance is not None:
        return
    own = config.generator.distilled_guidance
    for name, value in (
        ("teacher_guidance", config.teacher_guidance),
        ("generator.distilled_guidance", None if own == 1.0 else own),
    ):
        if value is not None:
            raise RequestError(
                f"{name}={value:g}: the teacher {config.teacher} takes no guidance as an "
                "input. Its two-pass guidance is method.guidance and evaluation.cfg_scale."
            )


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
    return ranks.broadcast((missing, not missing and store.has_uncond()))


@contextmanager
def writing(store: ShardFolder, job: TextJob, what: str) -> Iterator[None]:
    """Alone among processes of other runs; a stop is obeyed while waiting.

    Args:
        what: is encoded there, in words.
    """
    with ExitStack() as held:
        announced = False
        while not job.ranks.any(
            job.ranks.is_main and held.enter_context(store.locked(_LOCK_SECONDS))
        ):
            if job.ranks.any(job.stop.requested):
                raise _stopped(what)
            if job.ranks.is_main and not announced:
                job.say(f"Another process is encoding {what} with this encoder; waiting.")
            announced = True
        if job.ranks.is_main and (damaged := store.sweep()):
            job.say(f"Deleted {damaged} damaged files of encoded {what}; encoding them again.")
        yield


class RateLines:
    """A progress callback: now and then a line with the rate, and the place to obey a stop."""

    def __init__(self, job: TextJob, what: str) -> None:
        self.job, self.what = job, what
        self.began = self.said = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.job.stop.requested:
            raise _stopped(self.what)
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


def _stopped(what: str) -> InterruptedRunError:
    return InterruptedRunError(
        f"Stopped while {what} were encoded; the same command continues with the rest."
    )
