"""An experiment's findings as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.errors import RequestError
from workbench.metrics import title_of
from workbench.registry import Plan, attach_to_plan, load_plan
from workbench.registry.rows import as_options, plan_key
from workbench.reports.comparison import AT_KIMG, Comparison, compare
from workbench.reports.figures.variants import draw
from workbench.reports.groups import Group
from workbench.reports.references import select
from workbench.reports.samples import sample_grid, shown_run
from workbench.reports.tables import (
    difference,
    drift_table,
    judged_score,
    measured_scores,
    number,
    score_table,
    side_table,
    spread_table,
)
from workbench.reports.verdicts import Verdict
from workbench.rounding import rounded
from workbench.tracking import run_address, without_user
from workbench.workspace import Workspace

FOLDER = "report"
"""Of the plan's artifacts."""

_NAMES = ("experiment", "variant", "seed")
_VERSIONS = "version."


@dataclass(frozen=True)
class ReportRequest:
    """Which plan of an experiment, and what counts.

    ``changes`` are the plan's own, by ``--teacher`` and ``--set``.
    """

    name: str
    changes: tuple[str, ...] = ()
    metric: str | None = None
    against: str | None = None
    finished: bool = False
    allow_mixed: bool = False

    @property
    def file_name(self) -> str:
        """Of the page, where no other is wished."""
        return f"{self.name}-{plan_key(self.changes)}.html" if self.changes else f"{self.name}.html"


def write_report(
    request: ReportRequest, path: Path, tracking_uri: str, workspace: Workspace
) -> str:
    """Write the page to ``path``, and store it with the plan; returns its name there.

    Only that plan's own runs are in it, not those of ``--teacher`` and ``--set``, whose plans are
    others.

    Raises:
        RequestError: the experiment is not registered, nothing is evaluated yet, runs that do not
            compare, or a file that cannot be written.
        WorkbenchError: the store does not answer.
    """
    plan = load_plan(tracking_uri, request.name, request.changes)
    selection = select(
        tracking_uri,
        workspace,
        [request.name],
        finished=request.finished,
        allow_mixed=request.allow_mixed,
        hashes=set(plan.hashes.values()),
    )
    text = render(
        plan, compare(selection, request.metric, request.against), selection.groups, tracking_uri
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"Cannot write {path}: {error.strerror}.") from None
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copyfile(path, Path(folder) / request.file_name)
        attach_to_plan(tracking_uri, request.name, copy, FOLDER, request.changes)
    return f"{FOLDER}/{request.file_name}"


def render(plan: Plan, comparison: Comparison, groups: Sequence[Group], tracking_uri: str) -> str:
    """The page's HTML; ``groups`` in the order of the figures' colours."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("workbench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    metric = comparison.metric
    others = [name for name in measured_scores(comparison) if _is_drawable(comparison, name)]
    context = {
        "plan": plan,
        "options": as_options(plan.changes),
        "comparison": comparison,
        "metric": title_of(metric),
        "now": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "facts": _facts(plan, comparison),
        "figures": [
            (title_of(name), _figure(groups, name)) for name in dict.fromkeys([metric, *others])
        ],
        "scores": score_table(comparison),
        "spread": spread_table(comparison),
        "side": side_table(comparison),
        "drift": drift_table(comparison),
        "judged": judged_score(comparison),
        "verdicts": _bars(comparison.verdicts),
        "samples": [_sample(group, tracking_uri) for group in comparison.groups],
        "settings": _settings(comparison.groups),
        "notes": [*comparison.notes, *_missing(plan, comparison.groups)],
        "runs": _runs(comparison, tracking_uri),
        "versions": _versions(comparison.groups),
        "protocols": sorted({run.protocol for group in comparison.groups for run in group.runs}),
    }
    return template.render(context)


def _is_drawable(comparison: Comparison, score: str) -> bool:
    found = [result.get(score, AT_KIMG) for result in comparison.results]
    return any(own is not None and math.isfinite(own.mean) for own in found)


def _facts(plan: Plan, comparison: Comparison) -> list[tuple[str, str]]:
    """The few numbers to read first."""
    best = comparison.results[0]
    runs = sum(len(group.runs) for group in comparison.groups)
    told = [verdict.told_apart for verdict in comparison.verdicts]
    return [
        (f"best {title_of(comparison.metric)}", number(best.get(comparison.metric, AT_KIMG))),
        ("by", best.group.label),
        (
            "told apart, not, no verdict",
            f"{told.count(True)}, {told.count(False)}, {told.count(None)}",
        ),
        ("runs", str(runs)),
        ("compared at", f"{comparison.kimg:g} kimg"),
        ("plan", f"v{plan.version}"),
    ]


def _figure(groups: Sequence[Group], metric: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _inline(draw(groups, metric, Path(folder) / "figure.svg").read_bytes(), "svg+xml")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _bars(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Differences as text, and as places on a common scale in percent of its width."""
    ends = [0.0]
    for verdict in verdicts:
        ends += verdict.difference.interval or (verdict.difference.mean,)
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(2 + 96 * (value - low) / span, 2)

    bars = []
    for verdict in verdicts:
        mean, interval = difference(verdict.difference)
        ends_of = verdict.difference.interval
        left, right = (place(end) for end in ends_of) if ends_of else (0.0, 0.0)
        bars.append(
            {
                "label": verdict.label,
                "mean": mean,
                "interval": interval,
                "words": verdict.words,
                "p": "-" if verdict.p is None else f"{verdict.p:.2g}",
                "apart": verdict.told_apart,
                "point": place(verdict.difference.mean),
                "left": left,
                "width": round(right - left, 2),
                "zero": place(0.0),
            }
        )
    return bars


def _sample(group: Group, tracking_uri: str) -> dict[str, Any]:
    run = shown_run(group)
    picture = sample_grid(run, tracking_uri)
    return {
        "label": group.label,
        "seed": run.seed,
        "state": str(run.state),
        "source": None if picture is None else _inline(picture, "png"),
    }


def _settings(groups: Sequence[Group]) -> dict[str, Any]:
    """What differs between the groups as a table, and what they share."""
    keys = sorted({key for group in groups for key in group.params} - set(_NAMES))
    values = {key: [group.params.get(key, "-") for group in groups] for key in keys}
    differing = [key for key in keys if len(set(values[key])) > 1]
    return {
        "keys": differing,
        "rows": [
            (group.label, [values[key][place] for key in differing])
            for place, group in enumerate(groups)
        ],
        "common": [(key, values[key][0]) for key in keys if key not in differing],
    }


def _missing(plan: Plan, groups: Sequence[Group]) -> list[str]:
    seen = {group.variant_hash for group in groups}
    absent = [name for name, hash_ in plan.hashes.items() if hash_ not in seen]
    return [f"Registered, but not in this page's numbers: {', '.join(absent)}."] if absent else []


def _runs(comparison: Comparison, tracking_uri: str) -> list[dict[str, Any]]:
    served = tracking_uri.startswith(("http://", "https://"))
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            row, tags = run.row, run.row.tags
            score = run.curve.last(comparison.metric)
            started = datetime.fromtimestamp(row.start_time / 1000, UTC)
            base = without_user(tracking_uri)
            dirty = " + changes" if tags.get("git.dirty") == "true" else ""
            rows.append(
                {
                    "label": group.label,
                    "seed": run.seed,
                    "state": str(run.state),
                    "kimg": f"{run.nimg / 1000:g}",
                    "score": "-" if score is None else rounded(score),
                    "started": started.strftime("%Y-%m-%d %H:%M"),
                    "host": tags.get("host", "-"),
                    "code": tags.get("git.commit", "-")[:8] + dirty,
                    "hash": group.variant_hash,
                    "protocol": run.protocol,
                    "run_id": row.run_id,
                    "address": run_address(base, row.experiment_id, row.run_id) if served else None,
                }
            )
    return rows


def _versions(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Package -> its versions over all runs."""
    found: dict[str, set[str]] = {}
    for group in groups:
        for run in group.runs:
            for key, value in run.row.tags.items():
                if key.startswith(_VERSIONS):
                    found.setdefault(key.removeprefix(_VERSIONS), set()).add(value)
    return [(name, ", ".join(sorted(values))) for name, values in sorted(found.items())]
