"""Tables 1 and 2: the published rows, and ours beside them, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from workbench.data.bundled import BUNDLED
from workbench.errors import RequestError, unknown_name
from workbench.metrics import EVAL, METRICS, title_of
from workbench.reports.groups import Group
from workbench.reports.measured import (
    Measured,
    Sources,
    measured,
    several_ways,
)
from workbench.reports.references import Chosen
from workbench.reports.score_files import ScoreFiles
from workbench.reports.scores import reference_of
from workbench.reports.statistics import Estimate
from workbench.reports.tables import number
from workbench.samplers import CELL, STOCK, STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd

HEADINGS = {
    "fid": "FID",
    "clip": "CLIP",
    "geneval": "GenEval",
    "aesthetic": "Aesthetic",
    "hpsv2": "HPSv2",
    "imagereward": "ImageReward",
    "pickscore": "PickScore",
}
"""The published scores, by the names that our evaluation and imports have for them."""

FAMILIES = {
    "sana-0.6b-512": "SANA 0.6B",
    "sana-1.6b-512": "SANA 1.6B",
    "sana-1.6b-1024": "SANA 1.6B",
    "sana-sprint-0.6b": "SANA TrigFlow 0.6B",
    "sana-sprint-1.6b": "SANA TrigFlow 1.6B",
    "sd3-medium": "SD3-Medium",
    "sd3.5-medium": "SD3.5-Medium",
    "sd3.5-large": "SD3.5-Large",
    "flux.1-dev-512": "FLUX.1",
    "flux.1-dev-1024": "FLUX.1",
}
"""Published teacher -> its family in the paper's tables."""

METHODS = {"sid": "SiD-DiT", "sid2a": "SiD2a-DiT"}
"""Our method's name -> the paper's."""

EMBEDDED_NOTE = (
    "on a small teacher and data of this package; FID and CLIP score are of small networks "
    "trained on such data and do not compare with the published ones"
)

_KEYS = ["table", "family", "model", "steps", "params_b"]
_RENAMED = {"image_reward": "imagereward"}
"""Columns of the published file whose scores we have by another name."""


def published() -> pd.DataFrame:
    """Tables 1 and 2 of arXiv 2509.25127, every cell as printed there, "" where it has none."""
    import pandas as pd

    with (files("workbench") / "published" / "tables.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False).rename(columns=_RENAMED)


def known_families() -> dict[str, str]:
    """Teacher -> family of the paper's tables; an embedded teacher's is of what it stands for."""
    from workbench.teachers.catalog import embedded_teachers

    embedded = {name: FAMILIES.get(known.stands_for) for name, known in embedded_teachers().items()}
    return {**FAMILIES, **{name: family for name, family in embedded.items() if family}}


def collect(
    groups: Sequence[Group],
    families: Mapping[str, str] | None = None,
    sources: Sources = Sources(),  # noqa: B008 frozen
) -> pd.DataFrame:
    """Published rows and ours below them, family by family.

    Columns: table, family, model, steps, params_b, source ("published", "ours" or "embedded"),
    seeds (0 for published), then each score and its 95 % interval's half width over seeds
    (``_half``).
    ``attrs["notes"]`` says what was left out.

    Raises:
        RequestError: a family that the published tables do not have.
    """
    import pandas as pd

    families = known_families() if families is None else families
    rows = published()
    for family in families.values():
        if family not in set(rows["family"]):
            raise unknown_name("published family", family, set(rows["family"]))
    own = ours_only(groups)
    found = [
        (group, measured(group, sources, {*HEADINGS, *own}))
        for group in groups
        if group.teacher in families
    ]
    ours: list[dict[str, Any]] = []
    for group, its_scores in found:
        same = [other for its, other in found if its.teacher == group.teacher]
        rows_of = _ours(group, its_scores, same, families[group.teacher])
        ours += [row for row in rows_of if row not in ours]
    tables = dict(zip(rows["family"], rows["table"], strict=True))
    parts: list[dict[str, Any]] = []
    for family, table in tables.items():
        for row in rows[rows["family"] == family].to_dict("records"):
            values = {name: float(row[name]) if row[name] else None for name in HEADINGS}
            start = {"source": "published", "seeds": 0, "table": int(table), "family": family}
            who = {"model": row["model"], "steps": int(row["steps"])}
            parts.append({**start, **who, "params_b": float(row["params_b"]), **values})
        parts += [{**row, "table": int(table)} for row in ours if row["family"] == family]
    scores = [*HEADINGS, *(name for name in own if any(name in row for row in ours))]
    columns = [*_KEYS, "source", "seeds", *scores, *(f"{name}_half" for name in scores)]
    frame = pd.DataFrame(parts, columns=columns)
    frame = frame.astype(dict.fromkeys(columns[len(_KEYS) + 2 :], float))
    notes = [note for _, its_scores in found for note in its_scores.notes]
    frame.attrs["notes"] = (*notes, *several_ways([its_scores for _, its_scores in found]))
    return frame


def ours_only(groups: Sequence[Group]) -> list[str]:
    """The scores of the runs' own tables that the paper does not have: columns behind its own."""
    keys = {key for group in groups for run in group.runs for key in run.row.metrics}
    names = {cell[3] for key in keys if (cell := CELL.fullmatch(key)) is not None}
    return [n for n, info in METRICS.items() if n in names - {*HEADINGS} and info.group == EVAL]


def _ours(
    group: Group, scores: Measured, same: Sequence[Measured], family: str
) -> list[dict[str, Any]]:
    """A row for each model, step count and reference that the group was measured at.

    Args:
        same: of all groups on its teacher. Where they all say the same of it, its row is the same.
    """
    from workbench.teachers.catalog import embedded_teachers

    method = group.runs[0].row.tags.get("method", "")
    names = {STOCK: "ours: {}, its pipeline's call", TEACHER: "ours: {}"}
    names[STUDENT] = f"ours: {METHODS.get(method, method)} of {{}}"
    own = reference_of(group.runs[0])
    rows = []
    order = sorted(scores.cells, key=lambda at: (at.model == STUDENT, -at.steps, at.reference))
    for place in order:
        cells = scores.cells[place]
        others = [other.cells[place] for other in same if place in other.cells]
        shared = place.model != STUDENT and all(other == cells for other in others)
        aside = f" ({group.label})" if len(same) > 1 and not shared else ""
        against = "" if place.reference == own else f", against {place.reference}"
        means = {key: cell.found for key, cell in cells.items() if cell.found is not None}
        embedded = place.reference in BUNDLED or group.teacher in embedded_teachers()
        rows.append(
            {
                "family": family,
                "model": names[place.model].format(group.teacher + aside) + against,
                "steps": place.steps,
                "params_b": _billions(group.teacher),
                "source": "embedded" if embedded else "ours",
                "seeds": max((found.n for found in means.values()), default=0),
                **{key: found.mean for key, found in means.items()},
                **{f"{key}_half": found.half for key, found in means.items()},
            }
        )
    return rows


def _billions(teacher: str) -> float | None:
    from workbench.teachers.catalog import KNOWN_TEACHERS

    spec = KNOWN_TEACHERS.get(teacher)
    return None if spec is None or not spec.parameters else spec.parameters / 1e9


def count_missing(frame: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """For published rows and ours: empty cells among the published scores, of how many."""
    theirs = frame["source"] == "published"
    found = {}
    for name, rows in (("published", frame[theirs]), ("ours", frame[~theirs])):
        cells = rows[list(HEADINGS)]
        found[name] = int(cells.isna().sum().sum()), int(cells.size)
    return found


def text_rows(frame: pd.DataFrame, table: int) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one table: published ones as printed, ours with their intervals."""
    raw: Any = published().set_index(["table", "family", "model", "steps"])
    beside = [name for name in METRICS if name in frame and name not in HEADINGS]
    titles = {name: title_of(name) for name in beside}
    scores = {**HEADINGS, **{name: title[0].upper() + title[1:] for name, title in titles.items()}}
    rows = []
    shown: Any = frame[frame["table"] == table].to_dict("records")
    for row in shown:
        own = row["source"] != "published"
        mark = "†" if row["source"] == "embedded" else ""
        start = [row["family"], row["model"] + mark, str(row["steps"]), _size(row["params_b"])]
        if own:
            cells = [_own_cell(row, name) for name in scores]
        else:
            printed = raw.loc[(str(table), row["family"], row["model"], str(row["steps"]))]
            cells = [*(str(printed[name]) for name in HEADINGS), *("" for _ in beside)]
        rows.append(start + cells)
    return ["Family", "Model", "Steps", "Parameters", *scores.values()], rows


def _own_cell(row: Mapping[str, Any], name: str) -> str:
    mean, half = row[name], row[f"{name}_half"]
    if mean != mean:
        return ""
    return number(Estimate(mean, None if half != half else half, (mean,)))


def _size(billions: float) -> str:
    if billions != billions:
        return ""
    return f"{billions:g} B" if billions >= 0.1 else f"{billions * 1e3:.2f} M"


def foot(frame: pd.DataFrame) -> list[str]:
    """Where the rows come from, and what is missing."""
    lines = ["Published: arXiv 2509.25127, tables 1 and 2. Ours: mean over seeds ± 95 % interval."]
    if (frame["source"] == "embedded").any():
        lines.append(f"† Ours, {EMBEDDED_NOTE}.")
    missing = count_missing(frame)
    parts = [f"{name} {empty} of {cells}" for name, (empty, cells) in missing.items()]
    lines.append(f"Empty cells of the published scores: {', '.join(parts)}.")
    return lines


def markdown(frame: pd.DataFrame) -> str:
    parts = []
    for table in sorted(set(frame["table"])):
        headings, rows = text_rows(frame, table)
        lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)], *rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**Table {table}**\n\n{body}\n")
    return "\n".join([*parts, "\n\n".join(foot(frame)), ""])


def latex(frame: pd.DataFrame, table: int) -> str:
    """A ``tabular`` for booktabs; ours in italics, families apart by rules."""
    headings, rows = text_rows(frame, table)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{ll{'r' * (len(headings) - 2)}}}",
        "\\toprule",
        f"{' & '.join(map(_tex, headings))} \\\\",
    ]
    family = None
    sources = list(frame[frame["table"] == table]["source"])
    for source, row in zip(sources, rows, strict=True):
        if row[0] != family:
            lines.append("\\midrule")
        shown = [_tex(cell) for cell in row]
        shown[0] = "" if row[0] == family else shown[0]
        if source != "published":
            shown[1] = f"\\emph{{{shown[1]}}}"
        family = row[0]
        lines.append(f"{' & '.join(shown)} \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", *(f"% {line}" for line in foot(frame)), ""]
    return "\n".join(lines)


def _tex(text: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text)
    return escaped.replace("±", "$\\pm$").replace("†", "$^\\dagger$")


def collect_all(chosen: Chosen, families: Sequence[str], protocols: Sequence[str]) -> pd.DataFrame:
    """As :func:`collect`, with all that the workspace and the store keep of the chosen runs.

    Args:
        families: further teachers' families, as ``TEACHER=FAMILY``.
        protocols: beginnings of the protocols that count where there are several.

    Raises:
        RequestError: as :func:`collect`, or a family that is no such assignment.
    """
    groups = chosen.selection.groups
    known = {**known_families(), **dict(map(_assignment, families))}
    scored = ScoreFiles(chosen.uri, chosen.workspace)
    frame = collect(groups, known, Sources(chosen.workspace, scored, tuple(protocols)))
    strangers = dict.fromkeys(g.teacher for g in groups if g.teacher not in known)
    frame.attrs["notes"] = (
        *chosen.selection.notes,
        *frame.attrs["notes"],
        *(f"No file of a score: {problem}" for problem in dict.fromkeys(scored.problems)),
        *(f"{name} belongs to no published family; --family {name}=NAME" for name in strangers),
    )
    return frame


def _assignment(text: str) -> tuple[str, str]:
    teacher, separator, family = text.partition("=")
    if not separator or not teacher or not family:
        raise RequestError(f"--family takes TEACHER=FAMILY, as in my-sd3=SD3-Medium, not {text!r}.")
    return teacher, family


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family",
        nargs="+",
        default=[],
        metavar="TEACHER=FAMILY",
        help="under which published family another teacher's rows stand",
    )
    parser.add_argument(
        "--protocol",
        nargs="+",
        default=[],
        metavar="ID",
        help="of a score that was measured in several ways, the one that counts",
    )
