"""What commands do, as Python functions: ``workbench.run`` and ``workbench.evaluate``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError, WorkbenchError
from workbench.launching.runs import launch_runs
from workbench.registry import request_runs
from workbench.reports.api import Run, where
from workbench.reports.scores import EVALUATE, Score, score_frame
from workbench.scoring.evaluate import EvaluateRequest, evaluate_source
from workbench.scoring.kept_scores import ScoreName
from workbench.scoring.scored_rows import Evaluation
from workbench.scoring.sources import Asked
from workbench.tracking import load_record
from workbench.training.evaluation_config import MOST_SEEDS
from workbench.training.events import Listener
from workbench.training.overrides import as_assignments
from workbench.training.run_folder import find_run
from workbench.user_config import default_tracking_uri
from workbench.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("workbench")


def run(
    experiment: str,
    *,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    teacher: str | None = None,
    recipe: str | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),  # the command's own word
    parallel: int = 1,
    fresh: bool = False,
    new_version: bool = False,
    listener: Callable[[], Listener] | None = None,
    workspace: Path | str | None = None,
    tracking_uri: str | None = None,
) -> list[Run]:
    """Distil a teacher, one run for each variant and seed: ``workbench run``.

    The plan is registered, what is pending runs, what was cut off resumes, and finished runs are
    loaded. Runs that others have begun in a shared store are left to them, and not in the list;
    the logger ``workbench`` says so at level INFO.

    Example:
        >>> runs = workbench.run("t_range", seeds=[0, 1], parallel=2)  # doctest: +SKIP
        >>> runs[0].sample("a cat")  # doctest: +SKIP

    Args:
        experiment: its name, or the config.json that a run saved.
        variants: all unless named.
        seeds: those that the plan is registered with unless told, else 0.
        teacher: name, folder or hub id.
        recipe: of the settings; the teacher's own unless named.
        set: changed settings, ``{"training.kimg": 6.4}`` or ``["training.kimg=6.4"]``.
        parallel: runs at once; more than one have processes of their own.
        fresh: start over; the earlier runs are kept.
        new_version: go on although a variant's settings changed under its name.
        listener: makes one for each run, which hears its progress; of runs in this process only.
        workspace: its folder (default: $WORKBENCH_WORKSPACE, else ./.workbench).
        tracking_uri: an MLflow store (default: $MLFLOW_TRACKING_URI, else the workspace's own).

    Raises:
        RequestError: an unknown name, a refused setting, or what cannot be run here.
        InterruptedRunError: asked to stop; the same call continues.
        WorkbenchError: runs failed; says which and why. The same call resumes them.
    """
    if parallel < 1:
        raise RequestError(f"parallel={parallel}: expected at least 1.")
    if listener is not None and parallel > 1:
        raise RequestError("A listener hears runs of this process: leave it out, or parallel.")
    _check_no_text("variants", variants)
    place, uri = where(workspace, tracking_uri, create=True)
    wanted = request_runs(
        experiment,
        place,
        uri,
        variants=variants,
        seeds=seeds,
        changes=_changes(set, teacher, recipe),
        fresh=fresh,
        new_version=new_version,
        parallel=parallel,
        say=LOG.info,
    )
    done = launch_runs(
        wanted.specs,
        parallel=parallel,
        share=wanted.plan is not None and not fresh,
        make_listener=listener or Listener,
        say=LOG.info,
    )
    if done.failed:
        reasons = "; ".join(f"{spec.title}: {reason}" for spec, reason in done.failed)
        raise WorkbenchError(
            f"{len(done.failed)} of {len(wanted.specs)} runs failed; the same call continues. "
            f"{reasons}"
        )
    return [Run(outcome.folder, place, uri) for outcome in done.finished]


def evaluate(
    model: str,
    *,
    metrics: Sequence[str] | None = None,
    reference: str | None = None,
    steps: Sequence[int] | None = None,
    samples: int | None = None,
    seeds: Sequence[int] | None = None,
    prompts: Path | str | None = None,
    bootstrap: int = 200,
    workspace: Path | str | None = None,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Score a run's student, a teacher, any diffusers pipeline or images: ``workbench evaluate``.

    What was measured before is not drawn again; a run's scores go to its MLflow run too.

    Example:
        >>> workbench.evaluate("t_range/default", metrics=["fid"], steps=[4])  # doctest: +SKIP

    Args:
        model: run (any unambiguous beginning; RUN@KIMG), exported folder, teacher, other
            pipeline's folder, or folder of images.
        metrics: as the model's run or recipe says unless named, like ``reference``; else fid.
        steps: the student's K, or the pipeline's own, unless told.
        samples: images per score; at least 2.
        seeds: evaluation seeds, of the noise; the run's own unless told, else 0.
        prompts: file of prompts; the reference's captions unless told.
        bootstrap: resamples of recall's 95 % interval, the others need none; 0 = no intervals.
        workspace: its folder (default: $WORKBENCH_WORKSPACE, else ./.workbench).
        tracking_uri: the run's store with the password that its address needs, which no run keeps;
            scores go where the run lives.

    Returns:
        A row a score, in the columns of :func:`workbench.scores`, ``low`` and ``high`` of its 95 %
        interval over samples among them. ``model`` is student, teacher, pipeline or images;
        experiment, variant, seed and run are empty for what is no run of the workspace, and label
        is its name. ``attrs["notes"]`` says what was not logged to the run.

    Raises:
        RequestError: an unknown model, metric or reference, or settings that do not apply.
        WorkbenchError: an image or a score that is not finite.
    """
    _check_least("steps", steps, 1)
    _check_least("seeds", seeds, 0)
    _check_least("samples", None if samples is None else [samples], 2)
    _check_least("bootstrap", [bootstrap], 0)
    _check_no_text("metrics", metrics)
    if seeds is not None and max(seeds) >= MOST_SEEDS:
        raise RequestError(f"seeds={list(seeds)}: each must be below {MOST_SEEDS}.")
    place, _ = where(workspace, tracking_uri, create=True)
    request = EvaluateRequest(
        workspace=place,
        source=Asked(model, None if seeds is None else tuple(seeds)),
        metrics=metrics,
        reference=reference,
        prompts=None if prompts is None else Path(prompts),
        samples=samples,
        steps=steps,
        bootstrap=bootstrap,
    )
    found = evaluate_source(request, tracking_uri or default_tracking_uri())
    frame = score_frame(_long_rows(found, place))
    if found.run is None:
        frame[["experiment", "variant", "seed", "run"]] = None
    frame.attrs["notes"] = () if found.unlogged is None else (found.unlogged,)
    return frame


def _changes(
    settings: Mapping[str, Any] | Sequence[str], teacher: str | None, recipe: str | None
) -> list[str]:
    """A person's settings as assignments.

    Raises:
        RequestError: one text instead of a list, or a key that is given twice.
    """
    if isinstance(settings, str):
        raise RequestError(f'set={settings!r}: expected {{"KEY": VALUE}} or ["KEY=VALUE"].')
    changes = list(as_assignments(settings) if isinstance(settings, Mapping) else settings)
    given = [text.partition("=")[0].strip() for text in changes]
    for key, value in {"teacher": teacher, "recipe": recipe}.items():
        if value is not None and key in given:
            raise RequestError(f"Two sources for one value: {key}={value!r} and set; drop one.")
        changes += [] if value is None else [f"{key}={value}"]
    return changes


def _check_no_text(name: str, values: Sequence[str] | None) -> None:
    if isinstance(values, str):
        raise RequestError(f"{name}={values!r}: expected a list, [{values!r}].")


def _check_least(name: str, values: Sequence[int] | None, least: int) -> None:
    if values is not None and (not values or min(values) < least):
        raise RequestError(f"{name}={list(values)}: expected numbers from {least}.")


def _long_rows(evaluation: Evaluation, workspace: Workspace) -> list[Score]:
    """The scores as rows of the long table, equal to those that the store tells later."""
    experiment, variant, seed, run_id = "", "", 0, ""
    if evaluation.run is not None:
        folder = find_run(workspace, evaluation.run)
        config, record = folder.config(), load_record(folder.path)
        experiment, variant, seed = config.experiment, config.variant, config.seed
        run_id = (record.run_id if record is not None else None) or ""
    rows = []
    for row in evaluation.rows:
        for score, key in zip(row.scores, row.tracked(), strict=True):
            name, ends = ScoreName.parse(key), score.interval
            rows.append(
                Score(
                    experiment=experiment,
                    variant=variant,
                    seed=seed,
                    kimg=row.kimg,
                    steps=row.steps or 0,
                    metric=score.name,
                    reference=row.reference,
                    protocol="" if name is None else name.protocol,
                    value=score.value,
                    low=None if ends is None else ends.low,
                    high=None if ends is None else ends.high,
                    label=variant or row.model,
                    run=run_id,
                    model=row.kind,
                    evaluation_seed=row.seed,
                    source=EVALUATE,
                    key=key,
                    seconds=float("nan"),
                    evaluations=float("nan"),
                )
            )
    return rows
