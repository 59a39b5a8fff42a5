"""Carries a run's journal to MLflow: sent at least once, there exactly once.

A metric row's primary key holds run, key, timestamp, step and value, so the same journal line sent
again changes nothing; tags, parameters, data sets, states and deterministically named files are
naturally repeatable. Therefore the record may say so after sending, and a crash between is
harmless.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.tracking.journal import Operation, read_operations, whole_lines_end
from workbench.tracking.outbox import FILE_KINDS, journal_path, tracking_dir
from workbench.tracking.record import RunRecord, save_record
from workbench.tracking.store import get_or_create_experiment, open_store, redact, summary

LOG = logging.getLogger(__name__)

# MLflow's limits for one request.
_METRICS_PER_BATCH = 1000
_TEXTS_PER_BATCH = 100

_RUN_KEY = "workbench.run_key"


class DeletedRunError(WorkbenchError):
    """A person deleted the run in MLflow."""


class Uploader:
    """Sends what the record does not call delivered yet. Used by one thread at a time.

    Attributes:
        reached: whether the store has ever answered.
        deleted: that the last attempt found the run deleted by a person, which it stays.
    """

    def __init__(self, run_dir: Path, record: RunRecord) -> None:
        self._run_dir = run_dir
        self._uri = record.tracking_uri
        end = whole_lines_end(journal_path(run_dir)) if journal_path(run_dir).exists() else 0
        if max(record.rows, record.files) > end:  # a power loss took the journal's last lines
            record = replace(record, rows=0, files=0)
        self._record = record
        self._client: Any = None
        self._down: set[str] = set()
        self.deleted: DeletedRunError | None = None
        self.reached = False

    def attempt(self) -> bool:
        """Sends all it can; true when nothing is left. A store in trouble is warned of once."""
        self.deleted = None
        if not self._guarded("store", self._open):
            return False
        # Files never hold back rows; when rows do not pass, trying files only costs a timeout.
        return self._guarded("rows", lambda: self._drain(files=False)) and self._guarded(
            "files", lambda: self._drain(files=True)
        )

    def remaining(self) -> int:
        """Operations that are written down but not delivered."""
        return sum(1 for _ in self._waiting(False)) + sum(1 for _ in self._waiting(True))

    def _guarded(self, part: str, work: Callable[[], None]) -> bool:
        """Runs the work; whatever a store or its libraries raise must not reach the training."""
        try:
            work()
        except Exception as error:
            if isinstance(error, DeletedRunError):
                self.deleted = error
            if part not in self._down:
                text = f"{summary(error, self._uri)} (kept, sent later)."
                said = self.deleted or f"MLflow at {redact(self._uri)}: {text}"
                LOG.warning("%s", said)
            self._down.add(part)
            if _code(error) == "RESOURCE_DOES_NOT_EXIST":
                self._client = None
            return False
        if part in self._down:
            LOG.warning("MLflow at %s answers again.", redact(self._uri))
        self._down.discard(part)
        return True

    def _open(self) -> None:
        if self._client is not None:
            return
        root = self._record.artifact_root
        client = open_store(self._uri, None if root is None else Path(root))
        run_id = self._existing(client) or self._create(client)
        # A run that had to be created anew gets everything: the journal is the truth.
        self._save(self._record.of_run(run_id))
        self._client, self.reached = client, True

    def _save(self, record: RunRecord) -> None:
        if record != self._record:
            save_record(self._run_dir, record)
            self._record = record

    def _existing(self, client: Any) -> str | None:
        run_id = self._record.run_id
        if run_id is None:
            return None
        try:
            run = client.get_run(run_id)
        except Exception as error:
            if _code(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage == "deleted":
            raise self._is_deleted()
        return run_id

    def _is_deleted(self) -> DeletedRunError:
        record = self._record
        return DeletedRunError(
            f"{record.experiment}/{record.name} was deleted in MLflow at {redact(self._uri)} and "
            f"stays so: nothing is sent. `mlflow runs restore --run-id {record.run_id}` takes that "
            "back."
        )

    def _create(self, client: Any) -> str:
        record = self._record
        root = None if record.artifact_root is None else Path(record.artifact_root)
        experiment = get_or_create_experiment(client, record.experiment, root)
        # A crash between creating the run and noting its id must not leave a second run.
        found = client.search_runs([experiment], f"tags.`{_RUN_KEY}` = '{record.run_key}'")
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(
            experiment,
            start_time=record.start_time,
            tags={_RUN_KEY: record.run_key},
            run_name=record.name,
        )
        return str(run.info.run_id)

    def _waiting(self, files: bool) -> Iterator[Operation]:
        start = self._record.files if files else self._record.rows
        for operation in read_operations(journal_path(self._run_dir), start):
            if (operation.kind in FILE_KINDS) == files:
                yield operation

    def _drain(self, files: bool) -> None:
        for chunk in _chunks(self._waiting(files)):
            self._send_or_skip(chunk, self._send_files if files else self._send_rows)
            end, record = chunk[-1].end, self._record
            self._save(replace(record, files=end) if files else replace(record, rows=end))

    def _send_or_skip(
        self, chunk: Sequence[Operation], send: Callable[[Sequence[Operation]], None]
    ) -> None:
        """Sends a chunk; an operation that MLflow itself calls invalid is skipped, others wait."""
        try:
            send(chunk)
        except Exception as error:
            if _code(error) not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise
            self._check_there()
            if len(chunk) > 1:
                for operation in chunk:
                    self._send_or_skip([operation], send)
                return
            LOG.warning("MLflow refuses %s: %s", dict(chunk[0].body), summary(error, self._uri))

    def _check_there(self) -> None:
        run = self._client.get_run(self._record.run_id)
        if run.info.lifecycle_stage == "deleted":
            raise self._is_deleted()

    def _send_rows(self, chunk: Sequence[Operation]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run_id = self._record.run_id
        metrics = [
            Metric(key, float(value), op.time, op.body["step"])
            for op in chunk
            if op.kind == "metrics"
            for key, value in op.body["values"].items()
        ]
        params = [Param(*item) for item in _merged(chunk, "params").items()]
        tags = [RunTag(*item) for item in _merged(chunk, "tags").items()]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            part = metrics[start : start + _METRICS_PER_BATCH]
            self._client.log_batch(run_id, metrics=part)
        for start in range(0, max(len(params), len(tags)), _TEXTS_PER_BATCH):
            # Together at most 100 of each kind, which is what one request takes.
            window = slice(start, start + _TEXTS_PER_BATCH)
            self._client.log_batch(run_id, params=params[window])
            self._client.log_batch(run_id, tags=tags[window])
        inputs = [_dataset_input(op) for op in chunk if op.kind == "inputs"]
        if inputs:
            self._client.log_inputs(run_id, datasets=inputs)
        states = [op for op in chunk if op.kind == "status"]
        if states:
            self._set_state(states[-1])

    def _set_state(self, operation: Operation) -> None:
        status = operation.body["status"]
        if status == "RUNNING":
            self._client.update_run(self._record.run_id, status=status)
        else:
            self._client.set_terminated(self._record.run_id, status, operation.time)

    def _send_files(self, chunk: Sequence[Operation]) -> None:
        for operation in chunk:
            path = tracking_dir(self._run_dir) / operation.body["file"]
            if not path.is_file():
                LOG.warning("%s is gone; it cannot be sent to MLflow any more.", path)
            elif operation.kind == "image":
                self._send_image(path)
            else:
                folder = operation.body["folder"] or None
                self._client.log_artifact(self._record.run_id, str(path), folder)

    def _send_image(self, path: Path) -> None:
        """What MlflowClient.log_image stores, under names that stay the same when sent again."""
        import PIL.Image
        from mlflow.tracking.multimedia import compress_image_size

        small = path.with_name(f"{path.stem}+compressed.webp")
        if not small.exists():
            aside = small.with_name(f"new-{small.name}")
            with PIL.Image.open(path) as image:
                compress_image_size(image).save(aside)
            aside.replace(small)
        run_id = self._record.run_id
        self._client.log_artifact(run_id, str(path), "images")
        self._client.log_artifact(run_id, str(small), "images")
        self._client.set_tag(run_id, "mlflow.loggedImages", "True")


def _chunks(operations: Iterator[Operation]) -> Iterator[list[Operation]]:
    """Groups of about a thousand values, so that one request and one note of it carry many."""
    chunk: list[Operation] = []
    weight = 0
    for operation in operations:
        chunk.append(operation)
        # A file is a request of its own: each one is noted.
        heavy = operation.kind in FILE_KINDS
        weight += _METRICS_PER_BATCH if heavy else len(operation.body.get("values", "1"))
        if weight >= _METRICS_PER_BATCH:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


def _merged(chunk: Sequence[Operation], kind: str) -> dict[str, str]:
    return {
        key: str(value)
        for operation in chunk
        if operation.kind == kind
        for key, value in operation.body["values"].items()
    }


def _dataset_input(operation: Operation) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    body = operation.body
    kind, source = _dataset_source(body["source"])
    schema = [{"name": name, "type": held} for name, held in body["columns"].items()]
    dataset = Dataset(
        name=body["name"],
        digest=body["digest"],
        source_type=kind,
        source=json.dumps(source),
        schema=json.dumps({"mlflow_colspec": schema}),
        profile=json.dumps({"num_rows": body["rows"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", body["context"])])


def _dataset_source(source: str) -> tuple[str, dict[str, Any]]:
    """The kind of source by MLflow's own names, and what that kind's reader expects."""
    if source.startswith(("http://", "https://")):
        return "http", {"url": redact(source)}
    if source.startswith("/"):
        return "local", {"uri": source}
    return "code", {"tags": {"mlflow.source.name": source}}


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))
