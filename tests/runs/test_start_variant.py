"""Variants that start where another variant of their experiment ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.drill import BRIEF
from workbench.errors import RequestError, WorkbenchError
from workbench.launching.pool import Watcher, run_jobs
from workbench.registry import Experiment, get_experiment, make_plan
from workbench.runs.execution import execute
from workbench.runs.spec import RunSpec
from workbench.runs.start_variant import StartVariant, settle_starts, starts_at, with_starts
from workbench.runs.state import RunState
from workbench.tracking import default_uri
from workbench.training.events import StopFlag
from workbench.training.overrides import with_overrides
from workbench.training.run_folder import run_folder
from workbench.workspace import Workspace, open_workspace

SETTINGS = dict(text.split("=", 1) for text in BRIEF)


def experiment(**starts: str | None) -> Experiment:
    """Variants by name, each starting at another one or at the teacher."""
    variants = {
        name: {**SETTINGS, **({"start": f"variant:{s}"} if s else {})} for name, s in starts.items()
    }
    return Experiment("tree", "?", "", variants)


def test_a_variant_is_bound_to_the_settings_of_its_start() -> None:
    plan = make_plan(experiment(last="middle", middle="base", base=None))
    base = plan.variants["base"]
    assert plan.variants["middle"].start == f"variant:base#{base.variant_fingerprint()}"
    other = make_plan(experiment(last="middle", middle="base", base=None), ["training.kimg=0.048"])
    changed = {name for name in plan.hashes if plan.hashes[name] != other.hashes[name]}
    assert changed == {"base", "middle", "last"}
    assert other.variants["last"].start != plan.variants["last"].start
    assert with_starts(plan.variants, ["last"]) == ["base", "middle", "last"]
    assert with_starts(plan.variants, ["base", "last"]) == ["base", "middle", "last"]


def test_a_start_is_of_the_same_seed_and_the_seed_is_not_in_the_hash() -> None:
    plan = make_plan(experiment(base=None, more="base"))
    one, two = plan.config("more", 1), plan.config("more", 2)
    assert one.variant_fingerprint() == two.variant_fingerprint() == plan.hashes["more"]
    assert starts_at(one, plan.config("base", 1))
    assert not starts_at(one, plan.config("base", 2))
    assert not starts_at(plan.config("base", 1), one)
    assert not starts_at(one, with_overrides(plan.config("base", 1), ["method.sid_alpha=1.2"]))


def test_what_cannot_be_started_at_is_told() -> None:
    tree = experiment(a="b", b="a")
    with pytest.raises(RequestError, match="start at each other: a -> b -> a"):
        settle_starts({name: tree.variant(name) for name in tree.variants})
    with pytest.raises(RequestError, match=r"that a starts at 'bse'\. Did you mean 'base'"):
        make_plan(experiment(a="bse", base=None))


class Launcher:
    """Starts nothing; a job's folder has results once its turn has come, unless it is to fail."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.log: list[str] = []

    def start(self, job: RunSpec) -> Handle:
        self.log.append(f"{job.config.variant}{job.config.seed}")
        return Handle(self, job)


class Handle:
    def __init__(self, launcher: Launcher, job: RunSpec) -> None:
        self.launcher, self.job, self.looks = launcher, job, 0

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 3:
            return None
        if self.job.config.variant == self.launcher.failing:
            return 1
        file = self.job.folder.results_file
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        self.launcher.log.append(f"{self.job.config.variant}{self.job.config.seed} done")
        return 0

    def stop(self) -> None: ...


def jobs(root: Path) -> list[RunSpec]:
    plan = make_plan(experiment(base=None, more="base", other=None, most="more"))
    return [
        RunSpec(plan.config(name, seed), Workspace(root), "")
        for seed in (0, 1)
        for name in plan.variants
    ]


def test_side_by_side_a_variant_waits_for_its_start(tmp_path: Path) -> None:
    launcher = Launcher()
    views = run_jobs(jobs(tmp_path), launcher, 8, Watcher(), StopFlag(), interval=0.0)
    assert {view.state for view in views} == {RunState.FINISHED}
    assert set(launcher.log[:4]) == {"base0", "other0", "base1", "other1"}  # at once
    for seed in (0, 1):
        for before, after in (("base", "more"), ("more", "most")):
            done = launcher.log.index(f"{before}{seed} done")
            assert done < launcher.log.index(f"{after}{seed}")


def test_what_starts_at_a_failed_run_fails_with_it(tmp_path: Path) -> None:
    launcher = Launcher(failing="base")
    views = run_jobs(jobs(tmp_path), launcher, 1, Watcher(), StopFlag(), interval=0.0)
    states = {view.spec.config.variant: view.state for view in views}
    assert states == {
        "base": RunState.FAILED,
        "more": RunState.FAILED,
        "most": RunState.FAILED,
        "other": RunState.FINISHED,
    }
    assert "more0" not in launcher.log
    assert views[1].problem == "it starts at variant base, which failed"


def test_a_run_starts_at_the_weights_of_its_variant(
    tmp_path: Path, evaluation_cache: Path, digits_teacher_dir: Path
) -> None:
    place = open_workspace(tmp_path / "workspace")
    shutil.copytree(evaluation_cache, place.cache)
    plan = make_plan(
        experiment(base=None, more="base"), [f"teacher={digits_teacher_dir}", "recipe=digits"]
    )
    requests = {
        name: RunSpec(plan.config(name, 3), place, default_uri(place.root))
        for name in plan.variants
    }
    with pytest.raises(WorkbenchError, match="'base', seed 3, which is not finished") as error:
        execute(requests["more"])
    assert "workbench run tree --variant base --seed 3" in str(error.value)
    assert not run_folder(place, plan.config("more", 3)).path.exists()
    base = execute(requests["base"])
    more = execute(requests["more"])
    assert more.results["start"]["source"] == f"{base.folder.name} at 0.032 kimg"
    unbound = requests["more"].config.model_copy(update={"start": "variant:base"})
    with pytest.raises(RequestError, match="name a run instead"):
        execute(RunSpec(unbound, place, default_uri(place.root)))


def test_data_aided_variants_have_one_start_and_one_budget() -> None:
    plan = make_plan(get_experiment("data_aided"))
    base = plan.variants["base"]
    total = 2 * base.training.kimg
    for name, config in plan.variants.items():
        start = StartVariant.of(config)
        if name != "base":
            before = base.training.kimg if start is not None else 0.0
            assert before + config.training.kimg == total
        if start is not None:
            assert starts_at(config, base)
