"""The same prompts and noise by several models, a student's teacher first."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.errors import RequestError
from workbench.reports import drawn_images
from workbench.reports.drawn_images import Asked, draw_models, image_arrays, read_asked
from workbench.students.models import Drawing, LoadedModel, LoadedStudent, load_model
from workbench.students.sampling import sample_model
from workbench.teachers import PipelineTeacher
from workbench.training.config import RunConfig
from workbench.training.evaluation_config import EvaluationConfig
from workbench.workspace import Workspace, open_workspace

PROMPTS = ["the digit 7", "a handwritten two", "the digit 7"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "w")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quickstart", Asked("quickstart")),
        ("t_range/0-1@9.6", Asked("t_range/0-1@9.6")),
        ("sana:50", Asked("sana", 50)),
        ("a, b=run@3:2", Asked("run@3", 2, "a, b")),
    ],
)
def test_a_model_its_steps_and_its_caption(text: str, expected: Asked) -> None:
    assert read_asked(text) == expected


@pytest.mark.parametrize("text", ["", "a=", "x:0"])
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="CAPTION="):
        read_asked(text)


def test_images_are_those_of_sample_and_the_noise_is_shared(
    workspace: Workspace, digits_teacher_dir: Path
) -> None:
    folder = str(digits_teacher_dir)
    drawn = draw_models(workspace, [Asked(folder, 2), Asked(folder, 2, "again")], PROMPTS, seed=5)
    assert [each.caption for each in drawn] == [f"{digits_teacher_dir.name}, 2 steps", "again"]
    images = image_arrays(drawn)
    np.testing.assert_array_equal(*images.values())
    direct = sample_model(load_model(workspace, folder), Drawing(PROMPTS, 2, seed=5))
    np.testing.assert_array_equal(drawn[0].images, direct.numpy())
    (later,) = draw_models(workspace, [Asked(folder, 2)], PROMPTS[2:], seed=7)
    np.testing.assert_allclose(later.images[0], drawn[0].images[2], atol=1e-5)
    assert not np.allclose(drawn[0].images[0], drawn[0].images[2], atol=1e-2)
    with pytest.raises(RequestError, match="Two models are called"):
        draw_models(workspace, [Asked(folder, 2, "x"), Asked(folder, 1, "x")], PROMPTS)


@pytest.fixture
def student(
    monkeypatch: pytest.MonkeyPatch, digits_teacher: PipelineTeacher
) -> tuple[LoadedStudent, LoadedModel]:
    """Run "r" of K = 4, whose network differs from its teacher's, and the teacher."""
    config = RunConfig(evaluation=EvaluationConfig(teacher_steps=(3, 6)))
    network = copy.deepcopy(digits_teacher.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.05)
    made = LoadedStudent("e/r", digits_teacher, network, config, 12_800)
    teacher = LoadedModel(digits_teacher.name, digits_teacher, digits_teacher.network)
    known = {"r": made, digits_teacher.name: teacher}
    monkeypatch.setattr(drawn_images, "load_model", lambda workspace, name: known[name])
    return made, teacher


def test_a_students_teacher_comes_first(
    workspace: Workspace, student: tuple[LoadedStudent, LoadedModel]
) -> None:
    made, teacher = student
    drawn = draw_models(workspace, [Asked("r")], PROMPTS)
    assert [(each.caption, each.steps, each.kimg) for each in drawn] == [
        ("teacher, 6 steps", 6, None),
        ("teacher, 4 steps", 4, None),
        ("student, 4 steps", 4, 12.8),
    ]
    for each, model in zip(drawn, (teacher, teacher, made), strict=True):
        direct = sample_model(model, Drawing(PROMPTS, each.steps))
        np.testing.assert_array_equal(each.images, direct.numpy())
    alone = draw_models(workspace, [Asked("r")], PROMPTS, teachers=False)
    assert [each.caption for each in alone] == ["student, 4 steps"]
    named = draw_models(workspace, [Asked(teacher.name, 2), Asked("r", 1)], PROMPTS)
    assert [each.caption for each in named] == [f"{teacher.name}, 2 steps", "r, 1 step"]


def test_another_teacher_of_that_name_is_refused(
    workspace: Workspace,
    student: tuple[LoadedStudent, LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    was = student[0].taught_by.model_copy(update={"fingerprint": "another"})
    monkeypatch.setattr(LoadedStudent, "taught_by", was)
    with pytest.raises(RequestError, match="--no-teacher"):
        draw_models(workspace, [Asked("r")], PROMPTS)
