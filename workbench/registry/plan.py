"""A plan: an experiment as it was registered, with every variant resolved and hashed.

It is content-hashed as a whole, so that a plan changed by hand is noticed, and versioned, so that a
variant never means two things: other settings under an old name need a new version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from workbench.errors import RequestError
from workbench.registry.experiment import Experiment
from workbench.registry.rows import as_options, plan_hash, plan_key, plan_title, read_changes
from workbench.runs.start_variant import settle_starts
from workbench.settings import FrozenConfig
from workbench.training.config import RunConfig, validated
from workbench.training.overrides import concerns, method_after
from workbench.training.recipes import Resolved

_SHOWN_VARIANTS = 3


class Plan(FrozenConfig):
    """What an experiment means in one version.

    Attributes:
        changes: the person's settings over the experiment's file ("teacher=...",
            "training.kimg=6.4"), one for each key, sorted. Each set of changes has its own plan.
        variants: name -> configuration, with the changes applied and seed 0.
    """

    format: Literal[1] = 1
    experiment: str
    version: int = 1
    question: str
    hypothesis: str
    changes: tuple[str, ...] = ()
    variants: Mapping[str, RunConfig]

    @property
    def hashes(self) -> dict[str, str]:
        """Variant -> fingerprint of its configuration, whatever the seed."""
        return {name: config.variant_fingerprint() for name, config in self.variants.items()}

    @property
    def content_hash(self) -> str:
        """Of everything but the version: equal exactly for plans that mean the same."""
        return plan_hash(self.experiment, self.question, self.hypothesis, self.changes, self.hashes)

    @property
    def key(self) -> str:
        """Of the changes: the plans of one key are versions of each other."""
        return plan_key(self.changes)

    @property
    def untouched(self) -> dict[str, list[str]]:
        """The changes that some variants' methods have no setting for -> those variants."""
        found = {
            change: [
                name
                for name, config in self.variants.items()
                if not concerns(config.method.name, change)
            ]
            for change in self.changes
        }
        return {change: names for change, names in found.items() if names}

    @property
    def title(self) -> str:
        return plan_title(self.version, self.changes)

    def config(self, variant: str, seed: int) -> RunConfig:
        """The configuration of one run."""
        return self.variants[variant].model_copy(update={"seed": seed})

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the hashes that prove them."""
        return {**self.model_dump(mode="json"), "hashes": self.hashes, "hash": self.content_hash}


def make_plan(
    experiment: Experiment,
    assignments: Sequence[str] = (),
    asked: Collection[str] | None = None,
) -> Plan:
    """An experiment's plan in its first version, with a person's changes.

    "experiment=NAME" among them files the same variants under another name. A change of a setting
    that only some variants' methods have changes those alone (:attr:`Plan.untouched`).

    Args:
        asked: the variants that are to be run; all unless told. One of them alone may be changed
            into another.

    Raises:
        RequestError: an unknown key, a refused value, a setting that no variant's method has, a
            seed or name among the changes, or changes that make asked variants equal that differ.
    """
    other_name, changes = read_changes(assignments)
    name = other_name or experiment.name
    variants = _changed(experiment, name, changes)
    if changes:
        compared = {n: c for n, c in variants.items() if asked is None or n in asked}
        check_apart(experiment.name, _changed(experiment, name, ()), compared, changes)
    return Plan(
        experiment=name,
        question=experiment.question,
        hypothesis=experiment.hypothesis,
        changes=changes,
        variants=settle_starts(variants),
    )


def _changed(experiment: Experiment, name: str, changes: Sequence[str]) -> dict[str, RunConfig]:
    return {
        variant: resolved.config
        for variant, resolved in resolve_variants(experiment, name, changes).items()
    }


def resolve_variants(
    experiment: Experiment, name: str, changes: Sequence[str]
) -> dict[str, Resolved]:
    """Every variant with a person's changes, and where each setting comes from.

    Args:
        name: that the experiment is filed under.

    Raises:
        RequestError: as :meth:`Experiment.resolve`.
    """
    methods = {
        variant: method_after(experiment.variant(variant), changes)
        for variant in experiment.variants
    }
    # A change that no variant has is applied to all, to be refused in the usual words.
    nobodys = {c for c in changes if not any(concerns(method, c) for method in methods.values())}
    return {
        variant: experiment.resolve(
            variant,
            [
                *(c for c in changes if c in nobodys or concerns(method, c)),
                *([] if name == experiment.name else [f"experiment={name}"]),
            ],
        )
        for variant, method in methods.items()
    }


def read_plan(values: Mapping[str, Any], source: str) -> Plan:
    """A plan from the values that :meth:`Plan.to_json` made.

    Raises:
        RequestError: not a plan, or changed since it was written.
    """
    content = dict(values)
    try:
        claimed, hashes = content.pop("hash"), dict(content.pop("hashes"))
        variants = {name: validated(config) for name, config in content["variants"].items()}
        plan = Plan.model_validate({**content, "variants": variants})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{source} is not a plan of this workbench: {error}.") from None
    odd = [name for name, text in plan.hashes.items() if hashes.get(name) != text]
    if odd or claimed != plan.content_hash:
        what = f"variant {odd[0]!r}" if odd else "its text"
        raise RequestError(
            f"{source} was changed by hand ({what} does not match its hash). Undo the change, or "
            f"delete it and register {plan.experiment} again."
        )
    return plan


def differences(old: Plan, new: Plan) -> Iterator[str]:
    """What the new plan changes, one line a setting; nothing where they mean the same."""
    for name in old.variants:
        if name not in new.variants:
            yield f"{name}: is gone"
    for name, config in new.variants.items():
        if name not in old.variants:
            yield f"{name}: is new"
            continue
        before, after = old.variants[name].flat(), config.flat()
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield f"{name}: {key} {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
    for text in ("question", "hypothesis"):
        if getattr(old, text) != getattr(new, text):
            yield f"{text}: {getattr(old, text)!r} -> {getattr(new, text)!r}"


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
