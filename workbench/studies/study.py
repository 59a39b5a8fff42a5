"""A study by its name: created once, found again, continued only as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.errors import RequestError, unknown_name
from workbench.studies.samplers import calm_optuna, make_pruner
from workbench.studies.spec import VERSION, StudySpec, differences, spec_from_json
from workbench.studies.storage import StudyStorage

if TYPE_CHECKING:
    from optuna import Study

SPEC = "spec"
"""The study's user attribute that holds its spec."""

_SHOWN_DIFFERENCES = 6


def create_or_continue(
    storage: StudyStorage, spec: StudySpec, *, new_version: bool = False
) -> StudySpec:
    """The spec as it stands in the storage: created, or found to search alike.

    Versions of a name are studies of their own, ``NAME``, ``NAME.v2``, ...; the newest one counts.

    Raises:
        RequestError: the study of this name searches something else (shows what), or was made by
            another program.
        WorkbenchError: the storage does not answer.
    """
    spec.check()
    rdb = storage.rdb
    with storage.lock("create"), calm_optuna():
        found = _versions(study_names(storage), spec.name)
        if found and not new_version:
            wanted = replace(spec, name=found[-1])
            existing = _load(storage, wanted.name)
            if not _is_half_made(existing, wanted):
                _check_same(_read_spec(existing), wanted)
            existing.set_user_attr(SPEC, wanted.to_json())
            return wanted
        name = f"{spec.name}.v{_number(found[-1]) + 1}" if found else spec.name
        wanted = replace(spec, name=name)
        import optuna

        study = optuna.create_study(
            study_name=name, storage=rdb, directions=[o.direction for o in spec.objectives]
        )
        study.set_metric_names([objective.title for objective in spec.objectives])
        study.set_user_attr(SPEC, wanted.to_json())
    return wanted


def load_spec(storage: StudyStorage, name: str) -> StudySpec:
    """The spec of the study with this name, its newest version unless ``NAME.vN`` names one.

    Raises:
        RequestError: no such study (names the nearest), or one of another program.
        WorkbenchError: the storage does not answer, or the spec is of another version.
    """
    names = study_names(storage)
    exact = VERSION.fullmatch(name)
    if exact and exact[2] == "1":
        name = exact[1] if exact[1] in names else name
    elif not exact and (found := _versions(names, name)):
        name = found[-1]
    if name not in names:
        raise unknown_name(f"study in {storage.shown}", name, names)
    with calm_optuna():
        return _read_spec(_load(storage, name))


def exact_name(name: str) -> str:
    """A reference that means this version, whatever newer ones there will be."""
    return name if VERSION.fullmatch(name) else f"{name}.v1"


def load_study(storage: StudyStorage, spec: StudySpec) -> Study:
    """Optuna's study with its pruner; each trial brings its own sampler.

    Raises:
        RequestError: it was deleted.
        WorkbenchError: the storage does not answer.
    """
    with calm_optuna():
        study = _load(storage, spec.name)
        study.pruner = make_pruner(spec.pruner, spec.rungs)
    return study


def open_study(url: str, name: str) -> tuple[StudyStorage, StudySpec]:
    """A study's storage and its spec.

    Raises:
        RequestError: no such study.
        WorkbenchError: the storage does not answer.
    """
    storage = StudyStorage(url)
    return storage, load_spec(storage, name)


def study_names(storage: StudyStorage) -> list[str]:
    """Every study of a storage; a file that does not exist has none, and is not made.

    Raises:
        WorkbenchError: the storage does not answer.
    """
    import optuna

    if not storage.exists:
        return []
    with calm_optuna():
        return optuna.study.get_all_study_names(storage=storage.rdb)


def _load(storage: StudyStorage, name: str) -> Study:
    import optuna

    try:
        return optuna.load_study(
            study_name=name, storage=storage.rdb, sampler=optuna.samplers.RandomSampler()
        )
    except KeyError:
        raise RequestError(f"The study {name!r} in {storage.shown} is gone.") from None


def _is_half_made(study: Study, spec: StudySpec) -> bool:
    """Whether whoever created the study died before it could say what it is."""
    directions = [direction.name.lower() for direction in study.directions]
    empty = SPEC not in study.user_attrs and not study.get_trials(deepcopy=False)
    return empty and directions == [objective.direction for objective in spec.objectives]


def _read_spec(study: Study) -> StudySpec:
    content = study.user_attrs.get(SPEC)
    if content is None:
        raise RequestError(
            f"The study {study.study_name!r} was made by another program; choose another --name."
        )
    return spec_from_json(content)


def _check_same(old: StudySpec, new: StudySpec) -> None:
    changes = list(differences(old, new))
    if not changes:
        return
    shown = "; ".join(changes[:_SHOWN_DIFFERENCES])
    more = len(changes) - _SHOWN_DIFFERENCES
    raise RequestError(
        f"Study {old.name!r} searches otherwise: {shown}{f'; and {more} more' if more > 0 else ''}"
        ". Its trials would not compare: --new-version starts another beside it, or --name."
    )


def _versions(names: Sequence[str], name: str) -> list[str]:
    own = [n for n in names if n == name or ((m := VERSION.fullmatch(n)) and m[1] == name)]
    return sorted(own, key=_number)


def _number(name: str) -> int:
    found = VERSION.fullmatch(name)
    return int(found[2]) if found else 1
