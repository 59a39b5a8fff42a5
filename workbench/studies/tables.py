"""Optuna's tables, asked and changed directly where its own calls would be several steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import TrialState

HOLDER = "workbench:by"
"""System attribute of a trial: the process that holds its lease, or held it last."""


def last_heartbeats(rdb: RDBStorage, study_id: int) -> dict[int, tuple[datetime, float]]:
    """When each running trial's worker last gave a sign of life, and the seconds since; by id.

    By the database's clock alone. Optuna's own question (``fail_stale_trials``) applies the pace of
    whoever asks to everyone's trials.
    """
    from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
    from optuna.trial import TrialState
    from sqlalchemy import func, select

    last = TrialHeartbeatModel.heartbeat
    question = (
        select(TrialModel.trial_id, last, func.now())
        .join(TrialHeartbeatModel, TrialHeartbeatModel.trial_id == TrialModel.trial_id)
        .where(TrialModel.study_id == study_id, TrialModel.state == TrialState.RUNNING)
    )
    with rdb.scoped_session() as session:
        rows = session.execute(question).all()
    # PostgreSQL's own now() carries a time zone, in which the column's values are written.
    return {id_: (at, (now.replace(tzinfo=None) - at).total_seconds()) for id_, at, now in rows}


def claim(rdb: RDBStorage, trial_id: int, attributes: Mapping[str, Any]) -> bool:
    """Make a waiting trial run, with system attributes and a sign of life; True for one of all."""
    from optuna.storages._rdb import models
    from optuna.trial import TrialState
    from sqlalchemy import func
    from sqlalchemy.exc import IntegrityError

    with rdb.scoped_session() as session:
        if not _change(session, trial_id, TrialState.WAITING, TrialState.RUNNING):
            return False
        _set(session, models.TrialSystemAttributeModel, trial_id, attributes)
        beat = session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial_id).one_or_none()
        if beat is None:
            session.add(models.TrialHeartbeatModel(trial_id=trial_id))
        else:
            beat.heartbeat = session.execute(func.now()).scalar()
        try:
            session.commit()
        except IntegrityError:  # its last worker wrote a sign of life this moment: it lives
            return False
    return True


def give_up(
    rdb: RDBStorage,
    trial_id: int,
    new: TrialState,
    holder: str | None,
    attributes: Mapping[str, Any],
    heard: datetime | None = None,
) -> bool:
    """End a lease, setting user attributes; False if somebody else holds it or the trial ended.

    Args:
        new: what the trial becomes; WAITING, or FAIL.
        holder: who must hold the lease.
        heard: when the holder must have been heard of for the last time; None for any time.
    """
    from optuna.storages._rdb import models
    from optuna.trial import TrialState

    with rdb.scoped_session() as session:
        if not _change(session, trial_id, TrialState.RUNNING, new):
            return False
        system = session.query(models.TrialSystemAttributeModel).filter_by(trial_id=trial_id)
        found = system.filter_by(key=HOLDER).one_or_none()
        beats = session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial_id)
        later = heard is not None and any(beat.heartbeat > heard for beat in beats)
        if later or (None if found is None else json.loads(str(found.value_json))) != holder:
            session.rollback()
            return False
        _set(session, models.TrialUserAttributeModel, trial_id, attributes)
        session.commit()
    return True


def _change(session: Any, trial_id: int, old: TrialState, new: TrialState) -> bool:
    """Change a trial's state if it is the old one. First of all: it locks the trial's row."""
    from optuna.storages._rdb.models import TrialModel
    from optuna.trial import TrialState
    from sqlalchemy import update

    values: dict[str, Any] = {"state": new}
    if new is not TrialState.WAITING:
        begins = new is TrialState.RUNNING
        values["datetime_start" if begins else "datetime_complete"] = datetime.now()
    row = (TrialModel.trial_id == trial_id, TrialModel.state == old)
    change = update(TrialModel).where(*row).values(**values)
    found = session.execute(change, execution_options={"synchronize_session": False})
    return bool(found.rowcount)


def _set(session: Any, model: Any, trial_id: int, attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        found = session.query(model).filter_by(trial_id=trial_id, key=key).one_or_none()
        if found is None:
            found = model(trial_id=trial_id, key=key)
            session.add(found)
        found.value_json = json.dumps(value)
