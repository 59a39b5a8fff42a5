"""What the shell completes is what there is: each list against the one that commands use."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import optuna
import pytest
import typer

from workbench.bundled import experiment_files
from workbench.cli import completion
from workbench.data.bundled import BUNDLED
from workbench.metrics import METRICS
from workbench.registry import find_experiments
from workbench.studies.storage import default_storage
from workbench.teachers import KNOWN_TEACHERS
from workbench.workspace import open_workspace


class Context:
    def __init__(self, **params: object) -> None:
        self.params = params


def completed(names: completion.Completer, start: str = "", **params: object) -> set[str]:
    return set(names(cast(typer.Context, Context(**params)), start))


def test_completed_names_are_those_that_commands_take(tmp_path: Path) -> None:
    experiments = find_experiments().experiments
    assert completed(completion.experiments) == {*experiments}
    for name in ("t_range", "analytic"):
        given = {"experiment": name}
        assert completed(completion.variants, **given) == {*experiments[name].variants}
        assert completed(completion.variants, experiment=[name]) == {*experiments[name].variants}
    assert completed(completion.teachers) == {*KNOWN_TEACHERS}
    assert completed(completion.recipes) == {*experiment_files("recipes", ".toml")}
    assert completed(completion.metrics) == {*METRICS}
    assert completed(completion.metrics, "fi") == {name for name in METRICS if name[:2] == "fi"}
    place = {"workspace": open_workspace(tmp_path).root}
    named = completed(completion.references, **place)
    assert {"digits", "coco", "truth"} <= named <= {*BUNDLED, "coco", "truth"}
    assert completed(completion.studies, **place) == set()
    optuna.create_study(storage=default_storage(tmp_path), study_name="rates")
    assert completed(completion.studies, **place) == {"rates"}


def test_what_is_broken_completes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optuna.db").write_text("no database")
    assert completed(completion.studies, workspace=tmp_path) == set()
    place = open_workspace(tmp_path / "theirs")
    (place.runs / "asked" / "one").mkdir(parents=True)
    (place.runs / "asked" / "one" / "config.json").touch()
    (tmp_path / "workbench.toml").write_text('workspace = "theirs"\n')
    monkeypatch.delenv("WORKBENCH_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert completed(completion.runs) == {"asked/one"}
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(tmp_path / "nowhere"))
    assert completed(completion.experiments) == set()
