"""How samples are drawn when they are scored: precision, batch size, and what a run tells of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.evaluation import Evaluator, MeanMetric
from workbench.evaluation.extractors import FeatureExtractor
from workbench.methods import GeneratorConfig, make_method
from workbench.runs.execution import RunOutcome, execute
from workbench.runs.spec import RunSpec
from workbench.scoring.sources import Asked, open_source
from workbench.students import measure as measuring
from workbench.students.export import ExportRequest, export_student
from workbench.students.measure import EncodedPrompts, Measurement, Samplers
from workbench.students.models import Drawing, LoadedModel, LoadedStudent, load_model
from workbench.students.sampling import sample_model
from workbench.teachers import PipelineTeacher
from workbench.teachers.base import VelocityNetwork
from workbench.tracking import default_uri
from workbench.training.config import RunConfig
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.events import Listener, Listeners
from workbench.training.networks import DistillationInputs, Roles, build_networks, student_network
from workbench.training.parallel import Ranks, full_state_dict
from workbench.training.recipes import run_config
from workbench.workspace import Workspace, open_workspace

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
FRESH = ("student, 4 steps",) * 4
PROMPTS = ("the digit 7", "a handwritten two", "zero written by hand", "the digit 1")
LORA = 'training.lora={"rank":2,"scale":2}'


def settings(*overrides: str) -> RunConfig:
    return run_config("training.kimg=0.064", "training.batch_size=32", *overrides)


def roles(teacher: PipelineTeacher, config: RunConfig) -> Roles:
    student = DistillationInputs(teacher.network, teacher.latent_shape, None, teacher.uncond())
    return build_networks(student, config, make_method(config.method, config.generator), ALONE)


def images(teacher: PipelineTeacher, network: VelocityNetwork, precision: str) -> Tensor:
    samplers = Samplers(teacher, EvaluationConfig.model_validate({"precision": precision}), CPU)
    model = samplers.of_student(network, GeneratorConfig(), 4)
    return samplers.images(model, teacher.encode(PROMPTS), 3, len(PROMPTS))


@pytest.mark.parametrize("training", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_runs_student_draws_as_it_does_when_it_is_loaded_again(
    digits_teacher: PipelineTeacher, training: str, lora: bool
) -> None:
    """And so does its teacher: a run, evaluate, sample and export have one numerics."""
    config = settings(f"training.precision={training}", *([LORA] if lora else []))
    precision = "fp32" if training == "fp32" else "bf16"
    networks = roles(digits_teacher, config)
    fresh = student_network(digits_teacher.network, config)
    whole = {name: value.clone() for name, value in full_state_dict(networks.average).items()}
    fresh.load_state_dict(whole)
    for mine, loaded in ((networks.average, fresh), (networks.teacher, digits_teacher.network)):
        again = LoadedModel("again", digits_teacher, loaded).in_precision(precision).network
        drawn = images(digits_teacher, mine, precision)
        assert torch.equal(drawn, images(digits_teacher, again, precision))
        exact = images(digits_teacher, loaded, "fp32")
        assert torch.equal(drawn, exact) == (precision == "fp32")
        torch.testing.assert_close(drawn, exact, atol=0.3, rtol=0)


class Brightness(FeatureExtractor):
    name, fingerprint, dimension = "brightness", "0", 1

    def extract(self, images: Tensor, prompts: Any) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]


def measurement(
    teacher: PipelineTeacher, chosen: EvaluationConfig, ranks: Ranks = ALONE, tell: Any = None
) -> Measurement:
    evaluator = Evaluator((MeanMetric(Brightness(), "brightness"),), PROMPTS * 3)
    samplers, encoded = Samplers(teacher, chosen, CPU), EncodedPrompts(teacher, PROMPTS)
    return Measurement(evaluator, samplers, encoded, ranks, None, tell or (lambda *_: None))


class OtherRank(Ranks):
    """One of two whose peer has less memory: room for 5."""

    def gather(self, value: Any) -> list[Any]:
        return [value, 5] if isinstance(value, int) else [value]


def test_automatic_batches_are_what_fits_on_every_rank_and_stay(
    digits_teacher: PipelineTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = EvaluationConfig(batch_size="auto")
    assert Samplers(digits_teacher, auto, CPU).batch_size == 250  # as before on a CPU
    assert Samplers(digits_teacher, EvaluationConfig(batch_size=7), CPU).batch_size == 7
    heard: list[Any] = []
    told = lambda *place: heard.append(place)  # noqa: E731
    for chosen, ranks, steps in (
        (auto, ALONE, [0, 12]),
        (auto, OtherRank(0, 1, CPU), [0, 5, 10, 12]),
        (EvaluationConfig(batch_size=4), ALONE, [0, 4, 8, 12]),
    ):
        measured = measurement(digits_teacher, chosen, ranks, told)
        model = measured.samplers.of_teacher(digits_teacher.network, 2)
        heard.clear()
        row = measured.row(model)
        assert heard == [("teacher, 2 steps", done, 12) for done in steps]
        monkeypatch.setattr(measuring, "chunk_memory", lambda device: 1)
        heard.clear()
        assert measured.row(model).scores == row.scores  # chosen once: a later row is no other
        assert [done for _, done, _ in heard] == steps
        monkeypatch.undo()


def test_rows_say_what_precision_they_were_drawn_in(digits_teacher: PipelineTeacher) -> None:
    protocols = {}
    for precision in ("fp32", "bf16"):
        measured = measurement(
            digits_teacher, EvaluationConfig.model_validate({"precision": precision})
        )
        row = measured.row(measured.samplers.of_teacher(digits_teacher.network, 2))
        protocols[precision] = row.fingerprint["id"]
        assert row.fingerprint.get("precision", "fp32") == precision
        assert measured.evaluator.fingerprint(2)["id"] == row.fingerprint["id"]
    assert protocols["fp32"] != protocols["bf16"]


class Hearing(Listener):
    heard: list[tuple[str, int, int]] = []  # noqa: RUF012
    runs = Path()
    scratch: set[str] = set()  # noqa: RUF012

    def on_evaluation(self, what: str, done: int, total: int) -> None:
        self.heard.append((what, done, total))
        self.scratch.update(str(path.parent) for path in self.runs.glob("*/*/.evaluation-*"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    place = open_workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copy(fresh_store, place.root)
    return place


@pytest.fixture(scope="module")
def finished(
    workspace: Workspace, evaluation_cache: Path, digits_teacher_dir: Path
) -> Callable[[], RunOutcome]:
    """A short run that is scored in bf16, in automatic batches."""
    shutil.copytree(evaluation_cache, workspace.cache)
    config = settings(
        "schedule.evaluate_kimg=0.064",
        "evaluation.samples=60",
        "evaluation.teacher_steps=[2]",
        "evaluation.student_steps=[4]",
        "evaluation.batch_size=auto",
        "evaluation.precision=bf16",
        "training.precision=bf16-mixed",
    )
    config = config.model_copy(update={"teacher": str(digits_teacher_dir)})
    uri = default_uri(workspace.root)
    spec = RunSpec(config, workspace, uri)
    return lambda: execute(spec, make_listener=Hearing, find_teacher=lambda *_: digits_teacher_dir)


def test_a_run_tells_how_far_its_evaluations_are_and_leaves_no_scratch(
    finished: Callable[[], RunOutcome], workspace: Workspace
) -> None:
    Hearing.runs = workspace.runs
    outcome = finished()
    assert Hearing.scratch == {str(outcome.folder.path)}
    scored = [place for place in Hearing.heard if place[2] == 60]
    assert scored == [
        (what, done, 60)
        # At 0 kimg, at the end, the table, then the last and the best weights at fresh seeds.
        for what in ("student, 4 steps", "student, 4 steps", "teacher, 2 steps", *FRESH)
        for done in (0, 60)
    ]
    assert not [path for path in outcome.folder.path.iterdir() if path.name[0] == "."]
    for row in outcome.results["table"]:
        assert row["fingerprint"]["precision"] == "bf16"
    model = load_model(workspace, outcome.folder.name)
    assert isinstance(model, LoadedStudent)
    assert model.precision == "bf16"


def test_sample_and_evaluate_draw_a_student_as_its_run_scored_it(
    finished: Callable[[], RunOutcome], workspace: Workspace
) -> None:
    run = finished().folder.name
    source = open_source(workspace, Asked(run), CPU)
    assert source.precision == source.identity(4)["precision"] == "bf16"
    model = load_model(workspace, run)
    own, half, full = (
        sample_model(model, Drawing(PROMPTS, 4, precision=precision))
        for precision in (None, "bf16", "fp32")
    )
    assert torch.equal(own, half)
    assert not torch.equal(own, full)
    assert model.facts(Drawing(PROMPTS, 4))["precision"] == "bf16"
    seen = source.sampler(4, PROMPTS).draw(list(PROMPTS), 0, len(PROMPTS))
    samplers = Samplers(model.teacher, EvaluationConfig(precision="bf16"), CPU)
    half_network = model.in_precision("bf16").network
    drawn = samplers.of_student(half_network, model.config.generator, 4)
    assert torch.equal(seen, samplers.images(drawn, model.teacher.encode(PROMPTS), 0, 4))


def test_several_listeners_all_hear() -> None:
    Hearing.heard = []
    Listeners(Hearing(), Hearing()).on_evaluation("student", 1, 2)
    assert Hearing.heard == [("student", 1, 2)] * 2


def test_an_exported_student_keeps_the_precision_and_is_compared_in_fp32(
    finished: Callable[[], RunOutcome], workspace: Workspace, tmp_path: Path
) -> None:
    """The stock pipeline draws in fp32: in bf16 its images would differ by more than rounding."""
    run = finished().folder.name
    request = ExportRequest(run, tmp_path / "student", prompt=PROMPTS[0])
    assert export_student(workspace, request).check is not None
    exported = load_model(workspace, str(request.folder))
    assert exported.precision == "bf16"
    drawing = Drawing(PROMPTS, 4)
    own = sample_model(load_model(workspace, run), drawing)
    assert torch.equal(sample_model(exported, drawing), own)
