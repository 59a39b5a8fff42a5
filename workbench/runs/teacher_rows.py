"""A teacher's scores, measured once for all runs that distil it.

They depend on the teacher, its call and the protocol of evaluation, not on the student: an
experiment of twenty runs would else spend a third of its time on the same fifty Euler steps.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from workbench.runs.measure import Measurement, Row, SampledModel
from workbench.teachers.distillable import Distillable
from workbench.training.config import RunConfig
from workbench.workspace import write_json

LOG = logging.getLogger(__name__)


class TeacherRows:
    """Rows of one teacher under one protocol, kept in the workspace's cache.

    ``ms_per_image`` of a kept row is that of the time it was measured.
    """

    def __init__(
        self, cache: Path, config: RunConfig, teacher: Distillable, measurement: Measurement
    ) -> None:
        self.folder = cache / "teacher_rows"
        self.measurement = measurement
        settings = config.evaluation
        self.identity: Mapping[str, object] = {
            "teacher": teacher.fingerprint,
            "call": config.teacher_call,
            # Of the weights; the one that they draw in is part of the protocol.
            "precision": "bf16" if config.training.precision == "bf16" else "fp32",
            "cfg_scale": settings.cfg_scale,
            "flow_shift": settings.teacher_flow_shift,
            "device": measurement.ranks.device.type,
        }

    def row(self, model: SampledModel) -> Row:
        """The kept row, else a measured one that is kept from now on; every rank calls this."""
        ranks = self.measurement.ranks
        protocol = self.measurement.evaluator.fingerprint(model.steps)["id"]
        file = self._file({**self.identity, "protocol": protocol, "steps": model.steps})
        kept = ranks.from_main(_read(file) if ranks.is_main else None)
        if kept is not None:
            return kept
        row = self.measurement.row(model)
        if ranks.is_main:
            write_json(file, row.as_dict())
        return row

    def _file(self, key: Mapping[str, object]) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{digest}.json"


def _read(file: Path) -> Row | None:
    try:
        return Row.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        LOG.warning("%s is unreadable (%s); the teacher is measured again.", file, error)
        return None
