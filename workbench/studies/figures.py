"""A study's figures: history, importance, slices, and the Pareto front of several objectives.

Each has its numbers (``*_frame``) apart from its drawing, and is saved with them. Optuna's own
plots show what it was told instead of what was measured, count records instead of trials, and
change the style of every later figure of the process.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError
from workbench.plotting import (
    COLUMN_WIDTH,
    NEUTRAL,
    TEXT_WIDTH,
    color,
    log_axis,
    new_figure,
    paper_style,
    save_figure,
    save_frame,
)
from workbench.studies.objectives import Objective
from workbench.studies.overview import complete_trials
from workbench.studies.parent import best_trials, history
from workbench.studies.samplers import calm_optuna
from workbench.studies.space import Choice, as_text
from workbench.studies.spec import StudySpec
from workbench.studies.trials import StudyTrials, number_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

FEWEST_TRIALS = 4
"""Complete trials below which no importance means anything."""

_SLICES_A_ROW = 3


def draw_study(trials: StudyTrials, folder: Path) -> list[Path]:
    """Every figure that the study's trials allow, as PNG and SVG, each with its numbers as CSV.

    Raises:
        RequestError: no trial is complete.
    """
    spec, found = trials.spec, trials.all()
    frame = trials_frame(spec, found)
    if frame.empty:
        raise RequestError(f"Study {spec.name!r} has no complete trial to draw yet.")
    drawn: dict[str, tuple[pd.DataFrame, Figure]] = {}
    with paper_style():
        for place, objective in enumerate(spec.objectives):
            tail = "" if place == 0 else f"_{objective.name}"
            numbers = history_frame(spec, found, place)
            drawn[f"history{tail}"] = numbers, plot_history(spec, numbers, place)
            if len(frame) >= FEWEST_TRIALS:
                weights = importance_frame(trials, place)
                drawn[f"importance{tail}"] = weights, plot_importance(weights)
        drawn["slices"] = frame, plot_slices(spec, frame)
        if spec.objective is None:
            drawn["pareto"] = frame, plot_pareto(spec, frame)
    files = []
    for name, (numbers, figure) in drawn.items():
        files += [*save_figure(figure, folder / name), save_frame(numbers, folder / f"{name}.csv")]
    return files


def trials_frame(spec: StudySpec, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """A row a complete trial, in the order of their ends.

    Columns: trial, each objective as measured, each key of the space (None where it did not
    matter), front (whether no other trial is better in everything).
    """
    import pandas as pd

    front = best_trials(spec, trials)
    rows = [
        {
            "trial": number_of(trial),
            **spec.scores(trial),
            **{key: trial.params.get(key) for key in spec.space},
            "front": trial in front,
        }
        for trial in complete_trials(trials)
    ]
    names = [objective.name for objective in spec.objectives]
    return pd.DataFrame(rows, columns=["trial", *names, *spec.space, "front"])


def history_frame(spec: StudySpec, trials: Sequence[FrozenTrial], place: int) -> pd.DataFrame:
    """One objective over complete trials. Columns: done (1, 2, ...), trial, value, best."""
    import pandas as pd

    name, complete = spec.objectives[place].name, complete_trials(trials)
    rows = [
        (done, number_of(trial), after[f"trial/{name}"], after[f"best/{name}"])
        for done, (trial, after) in enumerate(
            zip(complete, history(complete, spec), strict=True), 1
        )
    ]
    return pd.DataFrame(rows, columns=["done", "trial", "value", "best"])


def importance_frame(trials: StudyTrials, place: int = 0) -> pd.DataFrame:
    """How much of one objective's variance each key explains (fANOVA); largest first.

    Keys that matter only sometimes are left out. Columns: key, importance (they sum to 1).

    Raises:
        RequestError: too few complete trials, or all with one value.
    """
    import pandas as pd
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    spec, many = trials.spec, complete_trials(trials.all())
    if len(many) < FEWEST_TRIALS:
        raise RequestError(
            f"Study {spec.name!r} has {len(many)} complete trials; importance needs at least "
            f"{FEWEST_TRIALS}."
        )
    always = [key for key, dimension in spec.space.items() if not dimension.when]
    if len({trial.values[place] for trial in many}) == 1:
        raise RequestError(
            f"All complete trials of study {spec.name!r} have the same "
            f"{spec.objectives[place].title}: nothing to explain."
        )
    with calm_optuna():
        found = get_param_importances(
            trials.study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            params=always,
            target=lambda trial: trial.values[place],
        )
    pairs = sorted(found.items(), key=lambda pair: -pair[1])
    return pd.DataFrame(pairs, columns=["key", "importance"])


def plot_history(spec: StudySpec, history: pd.DataFrame, place: int) -> Figure:
    """Every trial's value, and the best one so far."""
    objective = spec.objectives[place]
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(history["done"], history["value"], "o", color=NEUTRAL, alpha=0.5, label="a trial")
    axes.step(history["done"], history["best"], where="post", color=color(0), label="best so far")
    axes.set(xlabel="complete trials", ylabel=objective.title)
    if _is_log(objective, history["value"]):
        log_axis(axes, list(history["value"]))
    axes.legend()
    return figure


def plot_importance(weights: pd.DataFrame) -> Figure:
    """Bars, the most important key on top."""
    figure = new_figure(COLUMN_WIDTH, 0.7 + 0.24 * len(weights))
    axes = figure.add_subplot()
    shown = weights.iloc[::-1]
    axes.barh(shown["key"], shown["importance"], color=color(0), height=0.6)
    axes.set(xlabel="share of the variance explained", xlim=(0, 1))
    return figure


def plot_slices(spec: StudySpec, frame: pd.DataFrame) -> Figure:
    """The first objective over each key, one panel a key; darker is later."""
    rows = -(-len(spec.space) // _SLICES_A_ROW)
    figure = new_figure(TEXT_WIDTH, 0.3 + 1.9 * rows)
    objective = spec.objectives[0]
    name = objective.name
    for index, (key, dimension) in enumerate(spec.space.items()):
        axes = figure.add_subplot(rows, min(_SLICES_A_ROW, len(spec.space)), index + 1)
        held = frame[frame[key].notna()] if not isinstance(dimension, Choice) else frame
        _slice(axes, held, key, name, dimension)
        axes.set_xlabel(key)
        axes.set_ylabel(objective.title if index % _SLICES_A_ROW == 0 else "")
        if _is_log(objective, frame[name]):
            log_axis(axes, list(frame[name]))
    return figure


def _slice(axes: Axes, held: pd.DataFrame, key: str, name: str, dimension: Any) -> None:
    style: dict[str, Any] = {
        "c": list(held.index),
        "cmap": "Blues",
        "vmin": -len(held) / 2,
        "s": 10,
    }
    if isinstance(dimension, Choice):
        order = [as_text(value) for value in dimension.values]
        places = [order.index(as_text(v)) if as_text(v) in order else -1 for v in held[key]]
        axes.scatter(places, held[name], **style)
        axes.set_xticks(range(len(order)), order, rotation=30, ha="right")
        axes.set_xlim(-0.5, len(order) - 0.5)
    else:
        axes.scatter(held[key].astype(float), held[name], **style)
        if dimension.log:
            axes.set_xscale("log")


def plot_pareto(spec: StudySpec, frame: pd.DataFrame) -> Figure:
    """Trials by pairs of objectives; coloured are those that no other one beats in everything."""
    pairs = list(itertools.combinations(spec.objectives, 2))
    figure = new_figure(COLUMN_WIDTH if len(pairs) == 1 else TEXT_WIDTH, 2.4)
    for index, (across, up) in enumerate(pairs):
        axes = figure.add_subplot(1, len(pairs), index + 1)
        rest, front = frame[~frame["front"]], frame[frame["front"]]
        x, y = across.name, up.name
        axes.plot(rest[x], rest[y], "o", color=NEUTRAL, alpha=0.4, label="beaten")
        axes.plot(front[x], front[y], "o", color=color(1), label="Pareto front")
        for row in front.itertuples():
            axes.annotate(
                str(row.trial),
                (getattr(row, x), getattr(row, y)),
                textcoords="offset points",
                xytext=(3, 3),
                fontsize=6,
            )
        axes.set(xlabel=across.title, ylabel=up.title)
    figure.axes[0].legend()
    return figure


def _is_log(objective: Objective, values: pd.Series[float]) -> bool:
    return objective.info.is_distance and bool((values > 0).all())
