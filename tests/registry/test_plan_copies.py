"""Where a plan stands: in the workspace's copy, in its own store, in another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import RequestError
from workbench.registry import Experiment, check_plan, load_plan, make_plan, plan_rows, register
from workbench.tracking import default_uri, list_runs
from workbench.workspace import Workspace, open_workspace


def experiment(end: float = 0.5) -> Experiment:
    ranges = {"low": [0.0, end], "high": [0.5, 1.0]}
    variants = {name: {"method.t_range": t} for name, t in ranges.items()}
    return Experiment("asked", "Which?", "The low one.", variants)


@pytest.fixture
def elsewhere(tmp_path: Path, fresh_store: Path) -> str:
    """The address of another store."""
    shutil.copy(fresh_store, tmp_path / "other.db")
    return f"sqlite:///{tmp_path / 'other.db'}"


def daily(place: Workspace, uri: str | None = None, seed: int = 0, **more: Any) -> Any:
    """As `workbench run` registers."""
    uri = uri or default_uri(place.root)
    return register(make_plan(experiment()), [seed], place, uri, **more)


def versions(uri: str) -> list[int]:
    return [row.version for row in plan_rows(list_runs(uri, where="tags.kind = 'plan'"))]


def test_a_plan_of_one_store_stands_in_no_other(place: Workspace, elsewhere: str) -> None:
    first = daily(place, elsewhere)
    own = daily(place)
    assert versions(elsewhere) == versions(default_uri(place.root)) == [1]
    assert own.run_id != first.run_id
    assert daily(place, elsewhere).run_id == first.run_id
    assert len(list_runs(elsewhere, "asked")) == 1


def test_a_store_that_was_replaced_gets_the_plan_again(
    place: Workspace, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workbench.registry.plan_store as storing

    written = daily(place)
    with monkeypatch.context() as patched:  # what the store holds is not written twice
        patched.setattr(storing, "_write", None)
        assert daily(place) == written
    shutil.copy(fresh_store, place.root / "mlflow.db")
    assert versions(default_uri(place.root)) == []
    daily(place)
    assert versions(default_uri(place.root)) == [1]


@pytest.mark.parametrize("end", [0.5, 0.4])
def test_a_new_version_leads_out_of_copies_that_contradict_each_other(
    place: Workspace, elsewhere: str, tmp_path: Path, end: float
) -> None:
    """Whichever of the two the person's settings are."""
    uri = default_uri(place.root)
    daily(place, elsewhere, seed=7)
    register(make_plan(experiment(0.4)), [0], open_workspace(tmp_path / "other"), uri)
    plan = make_plan(experiment(end))
    with pytest.raises(RequestError, match="--new-version"):
        register(plan, [1], place, uri)
    for settle in (check_plan, register, register):
        done = settle(plan, [1], place, uri, new_version=True)
        assert (done.plan.version, done.seeds) == (2, (1,))
        assert done.plan.hashes == plan.hashes
    assert load_plan(uri, "asked").version == 2
    assert load_plan(uri, "asked").hashes == plan.hashes


def test_plans_that_are_not_there_are_told_by_their_changes(place: Workspace) -> None:
    uri = default_uri(place.root)
    changes = ["teacher=digits-sd3", "method.sid_alpha=1.2"]
    register(make_plan(experiment(), changes), [0], place, uri)
    known = "Known: --set method.sid_alpha=1.2 --teacher digits-sd3."
    with pytest.raises(RequestError) as refused:
        load_plan(uri, "asked")
    assert str(refused.value) == f"Unknown plan of asked: 'without changes'. {known}"
    with pytest.raises(RequestError, match=r"'--set method\.sid_alpha=1\.3'\. Did you mean"):
        load_plan(uri, "asked", ["method.sid_alpha=1.3"])
    assert load_plan(uri, "asked", sorted(changes)).variants["low"].method.sid_alpha == 1.2
