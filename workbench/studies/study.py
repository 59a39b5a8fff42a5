"""Optuna over runs: each trial is a tracked, resumable run of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.runs import RunRequest, execute
from workbench.studies.space import SearchSpace, check_space, suggest
from workbench.training.config import RunConfig
from workbench.training.engine import InterruptedRunError

if TYPE_CHECKING:
    from optuna import Study, Trial


@dataclass(frozen=True)
class StudySpec:
    """A search: the recipe it starts from, what may change, and the score it lowers."""

    name: str
    base: RunConfig
    space: SearchSpace
    objective: str = "fid"


class _Refused(Exception):  # noqa: N818
    """Carries a RequestError past ``catch``: what is wrong for one trial is wrong for all."""


def storage_url(workspace: Path) -> str:
    """Optuna's own SQLite file, apart from MLflow's."""
    return f"sqlite:///{workspace / 'optuna.db'}"


def open_study(spec: StudySpec, storage: str, seed: int) -> Study:
    """The study by its name, created or continued, with a TPE sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=spec.name,
        storage=storage,
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
        direction="minimize",
        load_if_exists=True,
    )


def run_study(
    spec: StudySpec,
    request: RunRequest,
    trials: int,
    seed: int,
    report: Callable[[int, float], None],
) -> Study:
    """Run ``trials`` more trials; a trial whose run fails is a failed trial, not a failed study.

    Args:
        request: how trials are run; its configuration is replaced by each trial's.
        report: hears the number and the score of each finished trial.

    Raises:
        RequestError: the space names an unknown key or a refused value (before any trial).
    """
    check_space(spec.space, spec.base)
    study = open_study(spec, storage_url(request.workspace.root), seed)

    def objective(trial: Trial) -> float:
        config = suggest(spec.space, spec.base, trial)
        config = config.model_copy(
            update={"experiment": f"study-{spec.name}", "variant": f"trial{trial.number}"}
        )
        try:
            outcome = execute(replace(request, config=config))
        except InterruptedRunError as error:
            raise KeyboardInterrupt from error  # not this trial's failure: the study stops
        except RequestError as error:
            raise _Refused(str(error)) from error
        trial.set_user_attr("run", outcome.folder.name)
        score = _score(outcome.results["table"], config.generator.steps, spec.objective)
        report(trial.number, score)
        return score

    try:
        study.optimize(objective, n_trials=trials, catch=(WorkbenchError,))
    except _Refused as error:
        raise RequestError(str(error)) from error
    return study


def _score(table: list[dict[str, float | str]], steps: int, objective: str) -> float:
    row = next(r for r in table if r["model"] == "student" and r["steps"] == steps)
    if objective not in row:
        raise unknown_name("objective", objective, row)
    return float(row[objective])
