"""Students of an analytic teacher against the truth: samples, distances and modes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workbench.errors import NoRunsError, RequestError
from workbench.evaluation.truth import floor, mode_statistics, own_scores, truth
from workbench.metrics import METRICS
from workbench.plotting import TEXT_WIDTH, color, new_figure, paper_style, points
from workbench.plotting.curves import distinct
from workbench.reports.statistics import Observation, estimate_scores
from workbench.rounding import rounded
from workbench.runs.mixture_task import SAMPLES_FILE, SHOWN, TRUTH
from workbench.teachers.analytic import mixture_recipe
from workbench.teachers.mixture import Mixture
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADLINE = "sliced_w2"
_POINTS = 2000
_PANELS = (4, 5, 6)
"""In a row: of these the number that leaves least of the last row empty."""


class Gathered(NamedTuple):
    """Numbers and samples of an experiment's finished runs.

    Attributes:
        scores: one row a run and model: variant, seed, model, steps, each score.
        samples: caption -> points (N, 2), of each variant's first seed.
        modes: one row a caption and mode: share, std, least and most of its core, offset, in the
            plane of the first and last coordinates.
        floor: score -> mean, low and high for fresh samples of the truth.
        mixture: the truth.
    """

    scores: pd.DataFrame
    samples: Mapping[str, NDArray[np.float32]]
    modes: pd.DataFrame
    floor: Mapping[str, Mapping[str, float]]
    mixture: Mixture


def collect(runs: Sequence[RunFolder]) -> pd.DataFrame:
    """One row a finished run and model: variant, both seeds, model, steps, each score.

    Raises:
        NoRunsError: no finished run.
        RequestError: as :func:`gather`.
    """
    return gather(runs).scores


def gather(runs: Sequence[RunFolder]) -> Gathered:
    """What finished runs of one analytic teacher have measured and kept.

    Raises:
        NoRunsError: no finished run.
        RequestError: a run of another kind of teacher, or runs of different mixtures or of
            different numbers of samples, which have different floors.
    """
    import pandas as pd

    found = [(run, run.config(), results) for run in runs if (results := run.results())]
    if not found:
        raise NoRunsError("There is no finished run of that experiment in this workspace.")
    mixtures: list[Any] = [results.get("mixture") for _, _, results in found]
    if None in mixtures or any(one != mixtures[0] for one in mixtures):
        raise RequestError("These runs are not all of one analytic teacher.")
    counts = {config.evaluation.samples for _, config, _ in found}
    if len(counts) > 1:
        listed = ", ".join(map(str, sorted(counts)))
        raise RequestError(f"These runs were measured on {listed} samples: one number for all.")
    mixture = mixture_recipe(mixtures[0]).mixture
    labels = variant_labels([config for _, config, _ in found])
    rows = []
    samples: dict[str, NDArray[np.float32]] = {}
    for run, config, results in found:
        label, kept = labels[config.variant_fingerprint()], read_samples(run.figures / SAMPLES_FILE)
        for row in results["table"]:
            drawn = kept.get(f"{row['model']}, {row['steps']} steps")
            own = {} if drawn is None else own_scores(mixture).of(drawn, mixture)
            seeds = {"seed": config.seed, "evaluation_seed": config.drawn_evaluation.seed}
            rows.append({"variant": label, **seeds, **own, **_plain(row)})
        for caption, drawn in kept.items():
            of_whom = caption.replace("student", label) if _is_student(caption) else caption
            samples.setdefault(of_whom, drawn)
    shown = {TRUTH: truth(mixture, len(next(iter(samples.values())))), **samples}
    fresh = found[0][2]["floor"]
    if not set(columns(mixture)) <= set(fresh):
        fresh = floor(mixture, counts.pop())
    return Gathered(pd.DataFrame(rows), shown, mode_frame(shown, mixture), fresh, mixture)


def columns(mixture: Mixture) -> list[str]:
    """The scores of a table, the headline first."""
    return [HEADLINE, *own_scores(mixture).names]


def _is_student(caption: str) -> bool:
    return caption.startswith("student")


def variant_labels(configs: Sequence[RunConfig]) -> dict[str, str]:
    """Settings -> variant; with their hash where one name has stood for several settings."""
    return distinct({config.variant_fingerprint(): config.variant for config in configs})


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("fingerprint", "how")}


def read_samples(file: Path) -> dict[str, NDArray[np.float32]]:
    """Points by caption that a run has kept.

    Raises:
        RequestError: no such file, or it is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {caption: arrays[caption] for caption in arrays.files}
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} holds no samples of a run: {error}.") from error


def mode_frame(samples: Mapping[str, NDArray[np.float32]], mixture: Mixture) -> pd.DataFrame:
    """One row a model and mode: share, std, core, and how far the mean is off, in true std."""
    import pandas as pd

    rows, plane = [], mixture.marginal(SHOWN)
    for caption, drawn in samples.items():
        seen = mode_statistics(drawn[:, SHOWN], plane)
        offsets = np.linalg.norm(seen.offsets, axis=1)
        columns = (seen.shares, seen.stds, *seen.cores.T, offsets)
        for mode, values in enumerate(zip(*columns, strict=True)):
            rows.append((caption, mode, *map(float, values)))
    names = ["model", "mode", "share", "std", "core_least", "core_most", "offset"]
    return pd.DataFrame(rows, columns=names)


def table(found: Gathered) -> str:
    """Markdown: the floor, the teacher, and each variant's student, nearest first."""
    names = columns(found.mixture)
    fresh = {name: found.floor[name]["mean"] for name in names}
    titles = [METRICS[name].title for name in names]
    lines = [
        "| model | steps | seeds | " + " | ".join(titles) + " | above the floor |",
        "|---|---:|---:|" + "---:|" * (len(names) + 1),
        _line("truth (floor)", "", "", fresh, found),
    ]
    for (label, steps), group in _models(found.scores):
        means = {name: _estimated(group, name) for name in names}
        lines.append(_line(label, str(steps), str(len(group)), means, found))
    return "\n".join(lines) + "\n"


def _models(scores: pd.DataFrame) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    """Teachers once, then students of each variant, both by their distance."""
    teachers = scores[scores["model"] == "teacher"].drop_duplicates(["steps", "evaluation_seed"])
    # It has no training seed: each noise that it was drawn from is a repetition.
    teachers = teachers.assign(seed=teachers["evaluation_seed"])
    by_steps: Any = teachers.groupby("steps")
    named = [(("exact teacher", int(steps)), group) for steps, group in by_steps]
    students: Any = scores[scores["model"] == "student"].groupby(["variant", "steps"])
    mine = [((str(variant), int(steps)), group) for (variant, steps), group in students]
    return sorted([*named, *mine], key=lambda pair: float(pair[1][HEADLINE].mean()))


def _estimated(rows: pd.DataFrame, name: str) -> Any:
    seeds = zip(rows["seed"], rows["evaluation_seed"], rows[name], strict=True)
    return estimate_scores(Observation(int(s), int(e), float(value)) for s, e, value in seeds)


def _line(label: str, steps: str, seeds: str, values: Mapping[str, Any], found: Gathered) -> str:
    cells = [_cell(values[name]) for name in columns(found.mixture)]
    distance = values[HEADLINE] if isinstance(values[HEADLINE], float) else values[HEADLINE].mean
    above = distance / found.floor[HEADLINE]["mean"]
    return "| " + " | ".join([label, steps, seeds, *cells, f"{above:.1f} x"]) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return rounded(value)
    interval = value.interval
    if interval is None:
        return rounded(value.mean)
    half = (interval[1] - interval[0]) / 2
    return f"{rounded(value.mean, half)} ± {rounded(half, half)}"


def plot(found: Gathered, *, width: float = TEXT_WIDTH) -> Figure:
    """One panel a model: first and last coordinates, and two true std around the true modes.

    Each coordinate has a scale of its own where the truth has.
    """
    captions = list(found.samples)
    across = min(_PANELS, key=lambda n: (-len(captions) % n, n))
    across = min(across, len(captions))
    rows = math.ceil(len(captions) / across)
    with paper_style():
        figure = new_figure(width, width / across * rows * 1.24)
        axes = figure.subplots(rows, across, squeeze=False, sharex=True, sharey=True)
        for place, panel in enumerate(axes.flat):
            if place < len(captions):
                _draw_points(panel, captions[place], found, color(place % 7))
            else:
                panel.set_axis_off()
    return figure


def _draw_points(axes: Axes, caption: str, found: Gathered, shade: str) -> None:
    drawn, plane = found.samples[caption][:_POINTS, SHOWN], found.mixture.marginal(SHOWN)
    axes.scatter(drawn[:, 0], drawn[:, 1], s=points(0.5), color=shade, alpha=0.4, linewidths=0)
    circle = np.linspace(0, 2 * math.pi, 60)
    stds = plane.stds.numpy()
    for (x, y), (wide, high) in zip(plane.means.numpy(), 2 * stds, strict=True):
        axes.plot(
            x + wide * np.cos(circle), y + high * np.sin(circle), color="black", linewidth=0.4
        )
    own = found.modes[found.modes["model"] == caption]
    least, most = own["core_least"].mean(), own["core_most"].mean()
    name = caption.replace(", ", "\n", 1)
    axes.set_title(f"{name}\ncore {least:.2f} x {most:.2f}", fontsize=points(7))
    axes.set_aspect(stds[:, 0].max() / stds[:, 1].max())
    axes.set(xticks=(), yticks=())
