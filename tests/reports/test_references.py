"""Everything that a person may name, asked of a real store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.populate import Shape, populate
from workbench.errors import RequestError
from workbench.reports import Selection, select
from workbench.tracking import default_uri, list_runs, load_record
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.workspace import Workspace, open_workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    """Experiment "one" (a, b; two seeds) and "two" (a): the first run of one/a was set aside."""
    workspace = open_workspace(tmp_path_factory.mktemp("references") / "workspace")
    shutil.copy(fresh_store, workspace.root)
    uri = default_uri(workspace.root)

    def configs(experiment: str, *names: str) -> list[RunConfig]:
        base = [f"experiment={experiment}", "training.kimg=12.8"]
        pairs = [name.split("/") for name in names]
        return [with_overrides(RunConfig(), [*base, f"variant={v}", f"seed={s}"]) for v, s in pairs]

    first = configs("one", "a/0")
    populate(uri, workspace, first)
    (folder,) = (workspace.runs / "one").iterdir()
    folder.rename(folder.with_name(f"{folder.name}~1"))
    populate(uri, workspace, configs("one", "a/0", "a/1", "b/0", "b/1"), {"b": Shape(floor=0.6)})
    other = with_overrides(configs("two", "a/0")[0], ["evaluation.samples=500"])
    populate(uri, workspace, [other])
    return workspace


def ask(place: Workspace, *references: str, **options: bool) -> Selection:
    return select(default_uri(place.root), place, references, **options)


def labels(selection: Selection) -> dict[str, tuple[int, ...]]:
    return {group.label: group.seeds for group in selection.groups}


def test_an_experiment_a_variant_and_runs(place: Workspace) -> None:
    everything = {"a": (0, 1), "a (set aside)": (0,), "b": (0, 1)}
    assert labels(ask(place, "one")) == everything
    assert labels(ask(place, "one/b")) == {"b": (0, 1)}
    assert labels(ask(place, "one/b", "one")) == everything
    assert labels(ask(place, "one/b-seed1")) == {"b-seed1": (1,)}
    assert labels(ask(place, "one/b", "one/a-seed1")) == {"b": (0, 1), "a-seed1": (1,)}


def test_a_run_by_every_name_that_is_printed(place: Workspace) -> None:
    (row,) = [r for r in list_runs(default_uri(place.root), "one") if r.name == "b-seed1"]
    folder = Path(row.tags["folder"])
    names = [f"one/{folder.name}", folder.name, str(folder), row.run_id, row.run_id[:8], row.name]
    for name in names:
        (group,) = ask(place, name).groups
        assert [run.row.run_id for run in group.runs] == [row.run_id], name


def test_a_run_that_was_set_aside_is_found_by_its_new_folder(place: Workspace) -> None:
    (folder,) = (place.runs / "one").glob("*~1")
    record = load_record(folder)
    (group,) = ask(place, f"one/{folder.name}").groups
    assert record is not None
    assert [run.row.run_id for run in group.runs] == [record.run_id]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("on", r"'on'.*Did you mean 'one'.*Known: one, two"),
        ("one/c", r"'one/c'.*Known: one/a, one/b\."),
        ("one/b-seed7", r"Unknown experiment, variant or run 'one/b-seed7'"),
        ("ffff", "Unknown experiment"),
    ],
)
def test_unknown_names_say_what_is_near(place: Workspace, reference: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ask(place, reference)


def test_runs_of_two_evaluations_are_not_compared_unasked(place: Workspace) -> None:
    uri = default_uri(place.root)
    from workbench.tracking.store import open_store

    (row,) = list_runs(uri, "two")
    open_store(uri).set_tag(row.run_id, "evaluation", "another")
    with pytest.raises(RequestError) as refused:
        ask(place, "one", "two")
    text = str(refused.value)
    assert "evaluated in 2 ways" in text
    assert "two/a by another (samples 500" in text
    assert "--allow-mixed" in text
    mixed = ask(place, "one/a", "two", allow_mixed=True)
    assert set(labels(mixed)) == {"one/a", "one/a (set aside)", "two/a"}
    assert any("do not compare" in note for note in mixed.notes)


def test_nothing_evaluated_yet(place: Workspace, tmp_path: Path) -> None:
    empty = open_workspace(tmp_path / "empty")
    with pytest.raises(RequestError, match="Known: none"):
        ask(empty, "one")
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(place.root, copy.root)
    from workbench.tracking.store import open_store

    store = open_store(default_uri(copy.root))
    for row in list_runs(default_uri(copy.root), "two"):
        store.delete_tag(row.run_id, "curve")
    with pytest.raises(RequestError, match="'two': there is no evaluated run"):
        ask(copy, "two")
