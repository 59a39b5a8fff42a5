"""A tracker that writes every call down at once and delivers it to MLflow in the background."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from filelock import FileLock, Timeout

from workbench.errors import AlreadyRunningError, RequestError, unknown_name
from workbench.tracking.base import (
    SEEN_ALIVE,
    SYSTEM,
    InputData,
    RunIdentity,
    RunStatus,
    Tracker,
)
from workbench.tracking.outbox import Outbox, last_status, read_points, tracking_dir
from workbench.tracking.record import RunRecord, load_record, save_record
from workbench.tracking.store import check_uri, redact
from workbench.tracking.system_metrics import SystemSampler
from workbench.tracking.uploader import Uploader

if TYPE_CHECKING:
    import PIL.Image

LOG = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0
# Long enough for a `sync` that happens to be looking at the run.
_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class UploaderSettings:
    """Seconds.

    Attributes:
        interval: between deliveries.
        finish_timeout: to wait at the end for what is left.
        patience: to wait there for a store that has never answered; one that has may come back.
        system_interval: between samples of the machine's load; 0 for none.
        sign_interval: between signs of life, by which others know that a run's machine lives.
    """

    interval: float = 2.0
    finish_timeout: float = 15.0
    patience: float = 4.0
    system_interval: float = 10.0
    sign_interval: float = 60.0


class MlflowTracker(Tracker):
    """Tracks one run. No call waits for the store, and none fails because of it.

    Opening the folder of an earlier attempt continues its MLflow run: points it already has are
    skipped, what was not delivered is.

    Raises:
        RequestError: an address that MLflow does not take, or names it would refuse.
        AlreadyRunningError: another process tracks this run.
    """

    def __init__(
        self,
        run_dir: Path,
        tracking_uri: str,
        artifact_root: Path | None,
        identity: RunIdentity,
        settings: UploaderSettings | None = None,
    ) -> None:
        check_uri(tracking_uri)
        self._settings = settings or UploaderSettings()
        self._uri = tracking_uri
        self._lock = _lock(run_dir)
        try:
            self._spool = Outbox(run_dir)
            record = _record(run_dir, tracking_uri, artifact_root, identity)
            self._delivery = Uploader(run_dir, record)
            self._introduce(identity)
        except BaseException:
            self._lock.release()
            raise
        self._finished: int | None = None
        self._deadline = self._no_answer = math.inf
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._progress = threading.Condition()
        self._asked = self._answered = 0
        self._complete = False
        self._thread = threading.Thread(target=self._deliver, name="mlflow-delivery", daemon=True)
        self._thread.start()
        self._sampler: SystemSampler | None = None
        if self._settings.system_interval > 0:
            self._sampler = SystemSampler(
                self._spool.metrics, self._spool.next_step(SYSTEM), self._settings.system_interval
            )

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._spool.metrics(values, step)

    def log_image(self, key: str, image: PIL.Image.Image, step: int) -> None:
        with _kept(f"Image {key} at {step}"):
            self._spool.image(key, image, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        with _kept(str(path)):
            self._spool.artifact(path, folder)

    def log_inputs(self, data: InputData) -> None:
        with _kept(f"Inputs {data.name}"):
            self._spool.inputs(data)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._spool.tags(tags)

    def flush(self, timeout: float = 0.0) -> bool:
        """Starts delivery now; waits up to ``timeout`` s; true when all before it is delivered."""
        with self._progress:
            self._asked += 1
            mine = self._asked
            self._wake.set()
            answered = self._progress.wait_for(lambda: self._answered >= mine, timeout)
            return answered and self._complete

    def finish(self, status: RunStatus) -> int:
        """Ends the run in its true state and delivers the rest, for a bounded time.

        Returns the operations that stay in the run's folder for the next resume or `sync`. A
        second call changes nothing and returns the same.

        Raises:
            RequestError: an unknown status.
        """
        if status not in get_args(RunStatus):
            raise unknown_name("run status", status, get_args(RunStatus))
        if self._finished is not None:
            return self._finished
        if self._sampler is not None:
            self._sampler.stop()
        self._spool.status(status)
        self._no_answer = time.monotonic() + self._settings.patience
        self._deadline = time.monotonic() + self._settings.finish_timeout
        self._stop.set()
        self._wake.set()
        self._thread.join(self._settings.finish_timeout)
        lost = self._spool.journal.close()
        if lost:
            LOG.error("%d operations are lost: %s takes no more.", lost, self._spool.journal.path)
        self._finished = self._delivery.remaining()
        if self._finished:
            LOG.warning(
                "%d tracked operations could not be delivered to %s. They are kept in %s and sent "
                "by the next resume or by `workbench runs sync`.",
                self._finished,
                redact(self._uri),
                self._spool.root,
            )
        self._lock.release()
        return self._finished

    def _introduce(self, identity: RunIdentity) -> None:
        note = {"mlflow.note.content": identity.description} if identity.description else {}
        first = self._spool.is_new()
        if first:
            self._spool.params(identity.params)
        origin = identity.provenance if first else self._spool.later_provenance(identity.provenance)
        self._spool.tags({**origin, **identity.tags, **note, **_sign_of_life()})
        self._spool.status("RUNNING")

    def _deliver(self) -> None:
        failures, next_sign = 0, time.monotonic() + self._settings.sign_interval
        while time.monotonic() < self._deadline:
            stopping = self._stop.is_set()
            if not stopping and time.monotonic() >= next_sign:
                self._spool.tags(_sign_of_life())
                next_sign = time.monotonic() + self._settings.sign_interval
            asked = self._asked
            # Nothing may be in the store that a power loss can take from the journal.
            written = self._spool.journal.secure()
            complete = written and self._delivery.attempt()
            with self._progress:
                self._answered, self._complete = asked, complete
                self._progress.notify_all()
            if stopping and (complete or self._delivery.deleted):
                return
            if stopping and not self._delivery.reached and time.monotonic() >= self._no_answer:
                return
            failures = 0 if complete else failures + 1
            pause = min(self._settings.interval * 2 ** min(failures, 8), _LONGEST_PAUSE)
            if stopping:
                time.sleep(min(pause, 1.0))
                continue
            self._wake.wait(pause)
            if not self._stop.is_set():
                self._wake.clear()


def sync(run_dir: Path, tracking_uri: str | None = None, *, to: str | None = None) -> int:
    """Delivers what a run left behind; returns how many operations still remain.

    Args:
        tracking_uri: where passwords are read from, which are never saved: used if it is the run's
            own store, and of no effect otherwise.
        to: another store, to which the run moves with all that it ever said.

    Raises:
        RequestError: the folder holds no tracked run, or its address cannot be used.
        AlreadyRunningError: the run is going on in another process.
        DeletedRunError: a person deleted the run there.
    """
    with _ended_run(run_dir, tracking_uri, to) as (spool, delivery):
        spool.journal.close()
        delivery.attempt()
        if delivery.deleted is not None:
            raise delivery.deleted
        return delivery.remaining()


def end_later(
    run_dir: Path,
    status: RunStatus,
    time: int,
    tags: Mapping[str, str],
    files: Iterable[Path] = (),
    tracking_uri: str | None = None,
) -> int:
    """Speaks for a run whose process is gone without its last words (kill -9), and delivers them.

    A run that has ended keeps its end, and the store is asked only for what it has not heard.

    Args:
        time: of the end, in ms since 1970.
        tracking_uri: as for :func:`sync`.

    Returns:
        How many operations could not be delivered yet.

    Raises:
        RequestError: as :func:`sync`.
        AlreadyRunningError: the run is going on in another process.
    """
    with _ended_run(run_dir, tracking_uri) as (spool, delivery):
        if last_status(run_dir) not in get_args(RunStatus):
            for path in files:
                spool.artifact(path, "")
            spool.tags(tags)
            spool.status(status, time)
        spool.journal.close()
        if delivery.remaining():
            delivery.attempt()
        return delivery.remaining()


def add_later(
    run_dir: Path,
    values: Mapping[str, float],
    step: int,
    files: Mapping[str, Path],
    tracking_uri: str | None = None,
) -> int:
    """Adds to a run that has ended what was measured afterwards; its state and times stay.

    Args:
        values: points at ``step``.
        files: folder among the run's artifacts to the file that goes there.
        tracking_uri: as for :func:`sync`.

    Returns:
        How many operations could not be delivered yet.

    Raises:
        RequestError: as :func:`sync`, or the run has another value of a key at this step.
        AlreadyRunningError: the run is going on in another process.
    """
    with _ended_run(run_dir, tracking_uri) as (spool, delivery):
        for point in read_points(run_dir, set(values)):
            if point.step == step and point.value != values[point.key]:
                raise RequestError(
                    f"{run_dir} has {point.key} = {point.value:g} at {step} already, not "
                    f"{values[point.key]:g}: a point never changes."
                )
        spool.metrics(values, step)
        for folder, path in files.items():
            spool.artifact(path, folder)
        spool.journal.close()
        delivery.attempt()
        return delivery.remaining()


@contextmanager
def _ended_run(
    run_dir: Path, tracking_uri: str | None, to: str | None = None
) -> Iterator[tuple[Outbox, Uploader]]:
    if load_record(run_dir) is None:
        raise RequestError(f"{run_dir} holds no tracked run.")
    lock = _lock(run_dir)
    try:
        record = load_record(run_dir)
        assert record is not None
        known = tracking_uri is not None and redact(tracking_uri) == redact(record.tracking_uri)
        uri = to or (tracking_uri if known else None) or record.tracking_uri
        if "***" in uri:
            raise RequestError(
                f"The password of {uri} is not saved: name the address once more with "
                "--tracking-uri."
            )
        check_uri(uri)
        record = record.at(uri)
        if to is not None:
            save_record(run_dir, record)
        yield Outbox(run_dir), Uploader(run_dir, record)
    finally:
        lock.release()


def _record(
    run_dir: Path, uri: str, artifact_root: Path | None, identity: RunIdentity
) -> RunRecord:
    record = load_record(run_dir)
    fresh = RunRecord.new(identity, uri, artifact_root, time.time_ns() // 1_000_000)
    if record is not None:
        # The store may have moved since; the run itself stays the same.
        fresh = replace(record.at(uri), artifact_root=fresh.artifact_root)
    save_record(run_dir, fresh)
    return fresh


@contextmanager
def _kept(what: str) -> Iterator[None]:
    """Turns a disk's refusal into a warning: it must not end the training."""
    try:
        yield
    except OSError as error:
        LOG.warning("%s could not be kept: %s.", what, error)


def _sign_of_life() -> dict[str, str]:
    return {SEEN_ALIVE: str(int(time.time()))}


def _lock(run_dir: Path) -> FileLock:
    folder = tracking_dir(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise AlreadyRunningError(f"Another process is tracking {run_dir}.") from None
    return lock
