"""A plan as the tracking store shows it: a tag for its table of runs, and a page for people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from workbench.errors import RequestError
from workbench.registry.plan import Plan
from workbench.registry.rows import PLAN_KIND, PLAN_TAG
from workbench.tracking import KIND, environment_tags

_LONGEST = 7500  # MLflow keeps 8000 characters of a tag


def plan_tags(plan: Plan, seeds: Sequence[int]) -> dict[str, str]:
    """What the store's table tells of a plan, in one tag, which :func:`plan_rows` reads.

    Raises:
        RequestError: more than a tag holds, which MLflow would cut without a word.
    """
    told = {
        "key": plan.key,
        "version": plan.version,
        "changes": plan.changes,
        "seeds": tuple(seeds),
        "question": plan.question,
        "hypothesis": plan.hypothesis,
        "hashes": plan.hashes,
        "hash": plan.content_hash,
    }
    text = json.dumps(told, ensure_ascii=False)
    if len(text) > _LONGEST:
        raise RequestError(
            f"The plan of {plan.experiment} is too large: its hashes, question and hypothesis "
            f"have {len(text)} characters, of at most {_LONGEST}. Divide it into several "
            "experiments."
        )
    return {KIND: PLAN_KIND, "experiment": plan.experiment, PLAN_TAG: text, **environment_tags()}


def description(plan: Plan) -> str:
    """The plan in Markdown: question, hypothesis, and what its variants differ in."""
    flat = {name: config.flat() for name, config in plan.variants.items()}
    keys = sorted({key for values in flat.values() for key in values})
    own = [key for key in keys if len({values.get(key) for values in flat.values()}) > 1]
    own = [key for key in own if key != "variant"]
    head = " | ".join(["variant", *own])
    lines = [
        f"**{plan.question}**\n\nExpected: {plan.hypothesis}\n",
        f"| {head} |",
        f"|{'---|' * (1 + len(own))}",
    ]
    for name, values in flat.items():
        lines.append(f"| {' | '.join([name, *(values.get(key, '-') for key in own)])} |")
    if plan.changes:
        untouched = plan.untouched
        told = (
            f"{change} (but {', '.join(untouched[change])})" if change in untouched else change
            for change in plan.changes
        )
        lines.append(f"\nChanged for all: {', '.join(told)}")
    return "\n".join(lines)
