"""What a teacher's samples are measured to be, once for all runs of one evaluation seed.

It depends on the teacher, its call and the protocol of evaluation, not on the student: an
experiment of twenty runs would else spend a third of its time on the same fifty Euler steps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from workbench.hashing import fingerprint
from workbench.students.measure import Measurement, Row, SampledModel
from workbench.teachers.base import Distillable
from workbench.training.config import RunConfig
from workbench.training.parallel import Ranks
from workbench.workspace import write_json

LOG = logging.getLogger(__name__)

Kept = TypeVar("Kept")


class BaselineCache:
    """Measurements of one teacher, kept in the workspace's cache by all that decides them."""

    def __init__(self, cache: Path, config: RunConfig, teacher: Distillable, ranks: Ranks) -> None:
        self.folder = cache / "baselines"
        self.ranks = ranks
        self.identity: Mapping[str, object] = {
            "teacher": teacher.fingerprint,
            "call": config.teacher_call,
            "precision": config.evaluation.precision,
            "device": ranks.device.type,
        }

    def row(self, measurement: Measurement, model: SampledModel) -> Row:
        """The kept row, else a measured one that is kept from now on; every rank calls this.

        ``ms_per_image`` of a kept row is that of the time it was measured.
        """
        protocol = measurement.evaluator.fingerprint(model.steps)["id"]
        return self.kept(
            model,
            {"protocol": protocol},
            Row.from_dict,
            lambda: measurement.row(model),
            Row.as_dict,
        )

    def kept(
        self,
        model: SampledModel,
        what: Mapping[str, object],
        read: Callable[[Mapping[str, Any]], Kept],
        measure: Callable[[], Kept],
        write: Callable[[Kept], Mapping[str, Any]],
    ) -> Kept:
        """What is kept of a model under ``what``, else what ``measure`` gives; on every rank."""
        key = {**self.identity, **model.identity, "steps": model.steps, **what}
        file = self.folder / f"{fingerprint(key)}.json"
        found = self.ranks.broadcast(_read(file, read) if self.ranks.is_main else None)
        if found is not None:
            return found
        value = measure()
        if self.ranks.is_main:
            write_json(file, write(value))
        return value


def _read(file: Path, read: Callable[[Mapping[str, Any]], Kept]) -> Kept | None:
    try:
        return read(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        LOG.warning("%s is unreadable (%s); the teacher is measured again.", file, error)
        return None
