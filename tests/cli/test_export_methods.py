"""Exported students of the methods that no family of test_export.py has, of one teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cli.exports import (
    SETTINGS,
    Drawn,
    Exports,
    Quiet,
    assert_plain_call,
    assert_step_counts,
    draw,
)
from workbench.methods import METHODS
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.workspace import open_workspace

OTHER_METHODS: Mapping[str, tuple[str, ...]] = {
    "sid2a": (
        "data.source=digits",
        "method.adversarial.generator_start_kimg=0",
        "method.adversarial.adversarial_start_kimg=0",
    ),
    "dmd": (),
    "f_distill": ("data.source=digits",),
    "meanflow": ("data.source=digits",),
}


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory,
    teacher_folders: Callable[[str], Path],
    evaluation_cache: Path,
) -> Exports:
    root = tmp_path_factory.mktemp("exports")
    workbench = Quiet(root / "workspace", teacher_folders("SanaPipeline"))
    shutil.copytree(evaluation_cache, open_workspace(workbench.workspace).cache)
    for name, settings in OTHER_METHODS.items():
        workbench(*workbench.brief(name, f"method.name={name}", *settings))
        workbench("export", f"{name}/", str(root / name))
    return Exports(workbench, root, teacher_folders)


@pytest.fixture(scope="module")
def drawn(exports: Exports) -> Mapping[str, Drawn]:
    return draw(exports, list(OTHER_METHODS))


def test_every_method_is_exported() -> None:
    configs = [with_overrides(RunConfig(), settings) for settings in SETTINGS.values()]
    assert {config.method.name for config in configs} | set(OTHER_METHODS) == set(METHODS)


@pytest.mark.parametrize("name", OTHER_METHODS)
def test_the_plain_call_draws_the_students_images(
    exports: Exports, drawn: Mapping[str, Drawn], name: str
) -> None:
    assert_plain_call(exports, drawn, name)


@pytest.mark.parametrize("name", OTHER_METHODS)
def test_every_step_count_of_the_student_is_right_and_others_are_refused(
    exports: Exports, drawn: Mapping[str, Drawn], name: str
) -> None:
    assert_step_counts(exports, drawn, name)


def test_a_method_of_pairs_alone_names_no_other_prompts(exports: Exports) -> None:
    assert exports.learnt_from("dmd") == ["prompts"]
    assert exports.learnt_from("meanflow") == ["pairs"]
    assert exports.learnt_from("f_distill") == ["prompts", "pairs"]
