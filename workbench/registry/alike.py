"""Changes after which an experiment has nothing to compare: its variants are equal with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.errors import RequestError
from workbench.registry.rows import as_options
from workbench.training.config import RunConfig

_SHOWN_VARIANTS = 3


def check_apart(
    experiment: str,
    before: Mapping[str, RunConfig],
    after: Mapping[str, RunConfig],
    changes: Sequence[str],
) -> None:
    """Refuse changes of an experiment's variants that make different ones equal.

    Raises:
        RequestError: names the changes and the variants, and says what to run instead.
    """
    equal: dict[str, list[str]] = {}
    for name, config in after.items():
        equal.setdefault(_content(config), []).append(name)
    for names in equal.values():
        if len({_content(before[name]) for name in names}) > 1:
            flat = {name: before[name].flat() for name in names}
            lost = _differing(flat)
            made = [text for text in changes if _decides(text, lost)] or list(changes)
            new = after[names[0]].flat()
            same = [n for n in names if all(flat[n].get(key) == new.get(key) for key in lost)]
            others = [text for text in changes if text not in made]
            instead = _instead(experiment, names[0], made, others, same)
            more = len(names) - _SHOWN_VARIANTS
            shown = ", ".join(names[:_SHOWN_VARIANTS]) + (f" and {more} more" if more > 0 else "")
            raise RequestError(
                f"{as_options(made)} makes variants of {experiment} equal, whose difference is its "
                f"question: {shown}. {instead}"
            )


def _content(config: RunConfig) -> str:
    """Of everything but the names and the seed."""
    return config.model_copy(update={"experiment": "", "variant": ""}).variant_fingerprint()


def _differing(flat: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The settings in which variants differ, their names aside."""
    keys = {key for values in flat.values() for key in values} - {"variant"}
    return {key for key in keys if len({values.get(key) for values in flat.values()}) > 1}


def _decides(change: str, keys: set[str]) -> bool:
    """Whether a change sets one of these settings, or a group that one is in."""
    own = change.partition("=")[0].strip()
    return any(key == own or key.startswith(f"{own}.") for key in keys)


def _instead(
    experiment: str,
    variant: str,
    made: Sequence[str],
    others: Sequence[str],
    same: Sequence[str],
) -> str:
    """What to run for the one variant that is left."""
    if same:
        command = f"workbench run {experiment} --variant {same[0]} {as_options(others)}".strip()
        return f"Variant {same[0]} has that setting already: `{command}`."
    options = as_options([*made, *others])
    return f"For a single run with it: `workbench run {experiment} --variant {variant} {options}`."
