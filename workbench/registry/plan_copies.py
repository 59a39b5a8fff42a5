"""Copies of a plan, and what follows from them: one that holds both, or the next version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.errors import RequestError
from workbench.registry.plan import Plan, differences

_SHOWN_DIFFERENCES = 6


@dataclass(frozen=True)
class Registered:
    """A plan as it stands registered, with the seeds it is to be run with."""

    plan: Plan
    seeds: tuple[int, ...]
    run_id: str | None = None


def continued(
    mine: Registered | None,
    theirs: Registered | None,
    plan: Plan,
    seeds: Sequence[int],
    new_version: bool,
) -> Registered:
    """What stands once a plan joins the workspace's copy and the store's.

    Raises:
        RequestError: a name would change its settings, or has two in the copies; with
            ``new_version`` the next version begins instead.
    """
    split = new_version and _contradict(mine, theirs)
    current = theirs if split else _both(mine, theirs)
    if current is None:
        return Registered(plan, tuple(seeds))
    # Of copies that contradict each other the next version continues neither.
    joined = _next(current.plan, plan) if split else _merged(current.plan, plan, new_version)
    if joined.version > current.plan.version:
        return Registered(joined, tuple(seeds))
    return Registered(joined, tuple(sorted({*current.seeds, *seeds})), current.run_id)


def _contradict(mine: Registered | None, theirs: Registered | None) -> bool:
    """Whether two copies of one version give a name different settings."""
    if mine is None or theirs is None or mine.plan.version != theirs.plan.version:
        return False
    return bool(_changed_variants(theirs.plan, mine.plan))


def _both(mine: Registered | None, theirs: Registered | None) -> Registered | None:
    """The newer of two copies; of one version, what both hold together.

    Raises:
        RequestError: they give one name different settings.
    """
    if mine is None or theirs is None:
        return mine or theirs
    if mine.plan.version != theirs.plan.version:
        return max(mine, theirs, key=lambda found: found.plan.version)
    seeds = tuple(sorted({*mine.seeds, *theirs.seeds}))
    return Registered(_merged(theirs.plan, mine.plan, False), seeds, theirs.run_id)


def _merged(old: Plan, new: Plan, new_version: bool) -> Plan:
    """The plan that both together are.

    Raises:
        RequestError: a variant would change under its name.
    """
    odd = _changed_variants(old, new)
    if not odd:
        variants = {**old.variants, **new.variants}
        return new.model_copy(update={"version": old.version, "variants": variants})
    if new_version:
        return _next(old, new)
    lines = [line for line in differences(old, new) if line.partition(":")[0] in odd]
    shown = "; ".join(lines[:_SHOWN_DIFFERENCES])
    more = len(lines) - _SHOWN_DIFFERENCES
    raise RequestError(
        f"{new.experiment} is registered as version {old.version} with other settings under the "
        f"same name: {shown}{f'; and {more} more' if more > 0 else ''}. Give the variant another "
        "name, or continue with --new-version (the old runs stay, and are told apart)."
    )


def _changed_variants(old: Plan, new: Plan) -> list[str]:
    before, after = old.hashes, new.hashes
    return [name for name, hash_ in after.items() if before.get(name, hash_) != hash_]


def _next(old: Plan, new: Plan) -> Plan:
    return new.model_copy(update={"version": old.version + 1})
