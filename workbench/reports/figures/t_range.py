"""Figure 3: students of ranges of t, one row a range, one column a prompt, equal noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from workbench.errors import NoRunsError, RequestError, WorkbenchError
from workbench.metrics import first_rising, title_of
from workbench.plotting import NEUTRAL, TEXT_WIDTH, color, paper_style, points
from workbench.plotting.curves import distance_in, distinct, measured_in, records
from workbench.plotting.image_rows import ImageRows, image_rows
from workbench.reports.comparison import compare
from workbench.reports.frames import equal_kimg_frame, level_frame
from workbench.reports.groups import Group, Selection
from workbench.reports.samples import own_folder, shown_run
from workbench.rounding import rounded
from workbench.runs.tags import SHOWN
from workbench.samplers import TEACHER, sampler_name
from workbench.training import formats
from workbench.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = 6
_BESIDE = 1.6


class Column(NamedTuple):
    """A score beside the images, and how many inches from them it stands."""

    score: str
    place: float


class Shown(NamedTuple):
    """What is drawn: images (B, 3, H, W) in [0, 1].

    Attributes:
        images: by label.
        kimg: that they are of, by label.
        above: a teacher's, with its scores, by caption.
    """

    images: Mapping[str, NDArray[Any]]
    kimg: Mapping[str, float]
    above: Mapping[str, tuple[NDArray[Any], Mapping[str, float]]]

    def notes(self, frame: pd.DataFrame) -> list[str]:
        """Which images are not of the kimg that the scores beside them are of."""
        reached = float(frame["kimg"].iloc[0])
        return [
            f"Images of {label} are of {kimg:g} kimg, its scores of {reached:g}."
            for label, kimg in self.kimg.items()
            if kimg != reached
        ]


def t_range_of(group: Group) -> tuple[float, float]:
    low, high = json.loads(group.params["method.t_range"])
    return float(low), float(high)


def in_order(groups: Sequence[Group]) -> list[Group]:
    """By the range's lower end, then its upper."""
    return sorted(groups, key=t_range_of)


def collect(groups: Sequence[Group]) -> pd.DataFrame:
    """One row a range: ``equal_kimg_frame``, low and high, and the run whose images are shown."""
    ordered = in_order(groups)
    frame = equal_kimg_frame(compare(Selection(tuple(groups)))).set_index("label")
    frame = frame.loc[[group.label for group in ordered]].reset_index()
    ranges = [t_range_of(group) for group in ordered]
    columns = {"low": [low for low, _ in ranges], "high": [high for _, high in ranges]}
    runs = [shown_run(group).row.name for group in ordered]
    return frame.assign(**columns, shown_run=runs)


def columns_of(frame: pd.DataFrame) -> list[Column]:
    """The distance, and the first score that is the better the higher, where there are such."""
    distance, rising = distance_in(frame), first_rising(measured_in(frame))
    found = ((distance, 0.34), (rising, 1.12))
    return [Column(score, place) for score, place in found if score is not None]


def caption_of(low: float, high: float) -> str:
    return f"{low:g} < t < {high:g}"


def plot(
    frame: pd.DataFrame,
    images: Mapping[str, NDArray[Any]],
    prompts: Sequence[str],
    above: Mapping[str, tuple[NDArray[Any], Mapping[str, float]]] | None = None,
    *,
    width: float = TEXT_WIDTH,
) -> Figure:
    """Rows of images with their range on the left, the scores of :func:`columns_of` on the right.

    Args:
        frame: of :func:`collect`.
        images: label to images (columns, 3, H, W) in [0, 1].
        prompts: one a column.
        above: caption to images and scores of rows that stand first, a teacher's.
    """
    ranges = {row.label: caption_of(row.low, row.high) for row in records(frame)}
    names = distinct(ranges, "{name}, {label}")
    rows = {caption: shown for caption, (shown, _) in (above or {}).items()}
    rows |= {names[label]: images[label] for label in ranges}
    columns = columns_of(frame)
    with paper_style():
        grid = image_rows(rows, prompts, width=width, beside=_BESIDE)
        _head(grid, columns, width)
        for caption, (_, scores) in (above or {}).items():
            _tell(grid, caption, scores, columns, width)
        shown: Any = frame.to_dict("records")
        for record in shown:
            _tell(grid, names[record["label"]], record, columns, width)
            _range_bar(grid, names[record["label"]], record["low"], record["high"])
    return grid.figure


def _head(grid: ImageRows, columns: Sequence[Column], width: float) -> None:
    for score, place in columns:
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": points(7)}
        grid.figure.text(grid.right + place / width, grid.top, title_of(score), **style)


def _tell(
    grid: ImageRows,
    caption: str,
    scores: Mapping[str, Any],
    columns: Sequence[Column],
    width: float,
) -> None:
    """A row's scores: means, and the half widths of their intervals below them."""
    for name, place in columns:
        mean, half = scores.get(name), scores.get(f"{name}_half")
        if mean is None or mean != mean:
            continue
        text = rounded(mean, half)
        text += f"\n± {rounded(half, half)}" if half is not None and half == half else ""
        x, y = grid.right + place / width, grid.middles[caption]
        grid.figure.text(x, y, text, ha="center", va="center", fontsize=points(8))


def _range_bar(grid: ImageRows, caption: str, low: float, high: float) -> None:
    """The range as a part of (0, 1), below its caption."""
    from matplotlib.lines import Line2D

    start, end = 0.15 * grid.left, 0.93 * grid.left
    y = grid.middles[caption] - points(11) / 72 / grid.figure.get_size_inches()[1]

    def place(t: float) -> float:
        return start + t * (end - start)

    whole = Line2D([place(0), place(1)], [y, y], color=NEUTRAL, linewidth=points(0.8))
    part = Line2D([place(low), place(high)], [y, y], color=color(0), linewidth=points(3))
    part.set(solid_capstyle="butt", gid=f"range-{caption}")
    for line in (whole, part):
        grid.figure.add_artist(line)


def default_prompts(groups: Sequence[Group]) -> tuple[str, ...]:
    """The first few of those that the runs show."""
    row = shown_run(groups[0]).row
    told = row.tags.get(SHOWN) or row.params.get("evaluation.shown")
    return tuple((json.loads(told) if told else formats.shown_in_format_1())[:COLUMNS])


def draw_images(
    workspace: Workspace, groups: Sequence[Group], prompts: Sequence[str], seed: int
) -> Shown:
    """Images of every group's shown run, by its newest checkpoint, and of their teacher.

    Raises:
        NoRunsError: a run's folder or checkpoint is not on this machine.
    """
    from workbench.reports.drawn_images import Asked, draw_models

    asked = []
    for group in in_order(groups):
        run = shown_run(group)
        folder = own_folder(run)
        if folder is None:
            raise NoRunsError(f"The folder of {run.row.name} is not on this machine.")
        asked.append(Asked(str(folder), caption=group.label))
    try:
        drawn = draw_models(workspace, asked, prompts, seed)
    except RequestError:
        raise
    except WorkbenchError as error:
        raise NoRunsError(str(error)) from error
    scores = teacher_scores(groups)
    teachers, students = drawn[: -len(asked)], drawn[-len(asked) :]
    return Shown(
        {each.caption: each.images for each in students},
        {each.caption: each.kimg or 0.0 for each in students},
        {each.caption: (each.images, scores.get(each.caption, {})) for each in teachers},
    )


def teacher_scores(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Caption of a teacher's row ("teacher, 50 steps") to its scores, where the runs have them.

    Those of plain Euler steps, which the images beside them are drawn by.
    """
    levels = level_frame(groups)
    levels = levels[levels["model"] == TEACHER]
    found: dict[str, dict[str, float]] = {}
    for row in records(levels.drop_duplicates(["steps", "metric"])):
        caption = sampler_name(TEACHER, row.steps)
        found.setdefault(caption, {})[str(row.metric)] = float(row.value)
    return found
