"""Figure 3: students distilled on ranges of t, one row a range, one column a prompt, equal noise.

    python analysis/t_range.py --out figures/t_range --csv
    python analysis/t_range.py --source logged --prompt "the digit 1" "four written by hand"

Beside each row: FID, or else the first distance that the runs measured, and their first score that
is the better the higher, at equal kimg, mean over seeds with the 95 % interval's half width; only
finished runs count. Images are those of the lowest seed, picked by no score. They are drawn from
the runs' newest checkpoints, image i from --seed + i, below the teacher's; where a checkpoint is
missing, all are taken from the pictures that the runs logged, whose prompts and noise are equal
too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from workbench.errors import RequestError, WorkbenchError
from workbench.metrics import first_rising, title_of
from workbench.plotting import NEUTRAL, TEXT_WIDTH, Drawing, Script, color, paper_style, points
from workbench.reports.comparison import compare
from workbench.reports.curves import distance_in, measured_in
from workbench.reports.frames import equal_kimg_frame
from workbench.reports.groups import Group, Selection
from workbench.reports.image_rows import ImageRows, image_rows
from workbench.reports.references import select
from workbench.reports.samples import own_folder, shown_run
from workbench.runs.tags import TEACHER, sampler_name
from workbench.tracking import default_uri
from workbench.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

EXPERIMENT = "t_range"
COLUMNS = 6
_BESIDE = 1.6
_NO_SEED = "Logged pictures have the runs' own noise: drop --seed."


class Column(NamedTuple):
    """A score beside the images: its format, and how many inches from them it stands."""

    score: str
    form: str
    place: float


class Row(NamedTuple):
    """Images (B, 3, H, W) in [0, 1] of one range, and the kimg that they are of."""

    images: NDArray[Any]
    kimg: float


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
    found = ((distance, "{:.2f}", 0.34), (rising, "{:.3f}", 1.12))
    return [Column(score, form, place) for score, form, place in found if score is not None]


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
    ranges = {row.label: caption_of(row.low, row.high) for row in frame.itertuples()}
    names = _distinct(ranges)
    rows = {caption: shown for caption, (shown, _) in (above or {}).items()}
    rows |= {names[label]: images[label] for label in ranges}
    columns = columns_of(frame)
    with paper_style():
        grid = image_rows(rows, prompts, width=width, beside=_BESIDE)
        _head(grid, columns, width)
        for caption, (_, scores) in (above or {}).items():
            _tell(grid, caption, scores, columns, width)
        for record in frame.to_dict("records"):
            _tell(grid, names[record["label"]], record, columns, width)
            _range_bar(grid, names[record["label"]], record["low"], record["high"])
    return grid.figure


def _distinct(captions: Mapping[str, str]) -> dict[str, str]:
    """Label to its caption, with the label where several groups have one range."""
    often = list(captions.values())
    return {
        label: caption if often.count(caption) == 1 else f"{caption}, {label}"
        for label, caption in captions.items()
    }


def _head(grid: ImageRows, columns: Sequence[Column], width: float) -> None:
    for score, _, place in columns:
        style = {"ha": "center", "va": "bottom", "fontsize": points(7)}
        grid.figure.text(grid.right + place / width, grid.top, title_of(score), **style)


def _tell(
    grid: ImageRows,
    caption: str,
    scores: Mapping[str, Any],
    columns: Sequence[Column],
    width: float,
) -> None:
    """A row's scores: means, and the half widths of their intervals below them."""
    for name, form, place in columns:
        mean, half = scores.get(name), scores.get(f"{name}_half")
        if mean is None or mean != mean:
            continue
        text = form.format(mean)
        text += f"\n± {form.format(half)}" if half is not None and half == half else ""
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
    from workbench.reports.logged_images import logged_prompts

    return tuple(logged_prompts(shown_run(groups[0]))[:COLUMNS])


def from_checkpoints(
    workspace: Workspace, groups: Sequence[Group], prompts: Sequence[str], seed: int
) -> tuple[dict[str, Row], dict[str, NDArray[Any]]]:
    """Label to images of its shown run; and the teacher's, by caption.

    Raises:
        WorkbenchError: a run's folder or checkpoint is not on this machine.
    """
    from workbench.reports.drawn_images import Asked, draw_models

    asked = []
    for group in groups:
        run = shown_run(group)
        folder = own_folder(run)
        if folder is None:
            raise WorkbenchError(f"The folder of {run.row.name} is not on this machine.")
        asked.append(Asked(str(folder), caption=group.label))
    drawn = draw_models(workspace, asked, prompts, seed)
    students = {each.caption: Row(each.images, each.kimg or 0.0) for each in drawn[-len(asked) :]}
    return students, {each.caption: each.images for each in drawn[: -len(asked)]}


def from_pictures(
    tracking_uri: str, groups: Sequence[Group], prompts: Sequence[str]
) -> dict[str, Row]:
    """Label to the images that its shown run logged.

    Raises:
        RequestError: a prompt that runs log no image of.
        WorkbenchError: a run has logged none.
    """
    from workbench.reports.logged_images import logged_images, logged_prompts

    rows = {}
    for group in groups:
        known = logged_prompts(shown_run(group))
        missing = [prompt for prompt in prompts if prompt not in known]
        if missing:
            raise RequestError(
                f"{shown_run(group).row.name} logs no image of {missing[0]!r}, only of "
                f"{', '.join(map(repr, known))}."
            )
        places = [known.index(prompt) for prompt in prompts]
        images, kimg = logged_images(shown_run(group), tracking_uri)
        rows[group.label] = Row(images[places], kimg)
    return rows


def teacher_scores(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Caption of a teacher's row ("teacher, 50 steps") to its scores, where the runs have them.

    Those of plain Euler steps, which the images beside them are drawn by.
    """
    from workbench.reports.curves import level_frame

    levels = level_frame(groups)
    levels = levels[levels["model"] == TEACHER]
    found: dict[str, dict[str, float]] = {}
    for row in levels.drop_duplicates(["steps", "metric"]).itertuples():
        caption = sampler_name(TEACHER, row.steps)
        found.setdefault(caption, {})[str(row.metric)] = float(row.value)
    return found


def draw(options: argparse.Namespace) -> Drawing:
    if options.source == "logged" and options.seed is not None:
        raise RequestError(_NO_SEED)
    workspace = open_workspace(options.workspace)
    uri = options.tracking_uri or default_uri(workspace.root)
    selection = select(uri, workspace, [options.experiment], finished=True)
    groups, notes = in_order(selection.groups), list(selection.notes)
    prompts = options.prompt or default_prompts(groups)
    teacher: dict[str, NDArray[Any]] = {}
    try:
        if options.source == "logged":
            raise WorkbenchError("")
        rows, teacher = from_checkpoints(workspace, groups, prompts, options.seed or 0)
    except WorkbenchError as error:
        if options.source == "checkpoints":
            raise
        if options.seed is not None:
            raise RequestError(f"{error} {_NO_SEED}") from error
        rows = from_pictures(uri, groups, prompts)
        notes += [f"Images are from the runs' logged pictures: {error}"] if str(error) else []
    frame = collect(groups)
    reached = float(frame["kimg"].iloc[0])
    notes += [
        f"Images of {label} are of {row.kimg:g} kimg, its scores of {reached:g}."
        for label, row in rows.items()
        if row.kimg != reached
    ]
    scores = teacher_scores(groups)
    above = {caption: (shown, scores.get(caption, {})) for caption, shown in teacher.items()}
    figure = plot(frame, {label: row.images for label, row in rows.items()}, prompts, above)
    return Drawing({"": figure}, {"": frame}, notes=tuple(notes))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        nargs="+",
        default=[],
        help=f"one a column (default: the first {COLUMNS} that the runs show)",
    )
    parser.add_argument("--seed", type=int, help="of the first column's noise (default: 0)")
    parser.add_argument(
        "--source",
        choices=("auto", "checkpoints", "logged"),
        default="auto",
        help="auto: checkpoints if all are there, else logged pictures",
    )


SCRIPT = Script("t_range", __doc__, draw, experiment=EXPERIMENT, add_options=add_options)
main = SCRIPT.main


if __name__ == "__main__":
    raise SystemExit(main())
