"""Where a run's generator starts instead of at its teacher: another run, or an exported student.

The weights are looked up once, before the run's first step, and kept in the run's folder. So it
resumes from the same ones whatever becomes of their source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from workbench.errors import MachineError, RequestError
from workbench.runs.start_variant import start_reference
from workbench.students.export import ADAPTER
from workbench.students.models import LoadedStudent, load_student, run_generator
from workbench.students.student import weights_fingerprint
from workbench.students.text import load_run_teacher
from workbench.teachers import PipelineTeacher
from workbench.teachers.analytic import is_analytic, load_mixture
from workbench.teachers.base import Distillable, VelocityNetwork, starting_network
from workbench.training.config import RunConfig
from workbench.training.lora import merged_network
from workbench.training.networks import student_network
from workbench.workspace import Workspace, written_aside

_FILE = "start.safetensors"
_CPU = torch.device("cpu")
_Found = tuple[str, Mapping[str, Tensor]]  # where from, in words, and weights


@dataclass(frozen=True)
class Start:
    """A generator to start from.

    Attributes:
        source: run or folder, and the images that it was trained on.
        weights: fingerprint of the weights.
    """

    network: VelocityNetwork
    source: str
    weights: str

    def as_dict(self) -> dict[str, str]:
        return {"source": self.source, "weights": self.weights}


def keep_start(workspace: Workspace, config: RunConfig, folder: Path, run: Path) -> None:
    """Copy the weights that ``config.start`` names into the run's folder, unless they are there.

    Args:
        folder: of the run's own teacher.

    Raises:
        RequestError: no such run or folder, a teacher, another architecture or latent shape than
            the run's teacher has, or no adapter of the run's settings over the same teacher.
        WorkbenchError: the run to start from has no whole checkpoint yet.
        MachineError: the disk is full.
    """
    if config.start is None or (run / _FILE).exists():
        return
    reference = start_reference(workspace, config) or config.start
    find = _of_points if is_analytic(folder) else _of_images
    source, found = find(workspace, config, folder, reference)
    state = {name: value.contiguous() for name, value in found.items()}
    facts = {"source": source, "weights": weights_fingerprint(state)}
    try:
        with written_aside(run / _FILE) as partial:
            save_file(state, partial, metadata={"start": json.dumps(facts)})
    except (OSError, SafetensorError) as error:
        raise MachineError(f"Could not write {run / _FILE}: {error}.") from error


def _of_images(workspace: Workspace, config: RunConfig, folder: Path, reference: str) -> _Found:
    model = load_student(workspace, reference, _CPU, text=False)
    teacher = model.teacher
    if model.record is not None or not _same_teacher(model.config, config):
        teacher = load_run_teacher(config, folder, _CPU, text=False)
    _check_fit(model, teacher, config)
    return _in_words(model.name, model.nimg), _state(model, teacher, config)


def _of_points(workspace: Workspace, config: RunConfig, folder: Path, reference: str) -> _Found:
    """A run of the same analytic teacher: nothing else has such a network."""
    model = run_generator(workspace, reference, load_mixture(config.teacher, folder))
    return _in_words(model.run.name, model.nimg), model.network.state_dict()


def _in_words(name: str, nimg: int) -> str:
    return f"{name} at {nimg / 1000:g} kimg"


def load_start(config: RunConfig, run: Path, teacher: Distillable) -> Start | None:
    """The kept generator; None for a run that starts at its teacher."""
    if config.start is None:
        return None
    try:
        with safe_open(run / _FILE, framework="pt") as file:
            facts: dict[str, str] = json.loads(file.metadata()["start"])
        state = load_file(run / _FILE)
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{run / _FILE} is damaged ({error}); --fresh copies the weights again."
        ) from error
    network = student_network(starting_network(teacher), config)
    network.load_state_dict(state, assign=True)  # the teacher may have no weights yet
    return Start(network, **facts)


def _same_teacher(one: RunConfig, other: RunConfig) -> bool:
    return (one.teacher, one.teacher_call) == (other.teacher, other.teacher_call)


def _check_fit(model: LoadedStudent, teacher: PipelineTeacher, config: RunConfig) -> None:
    expected: Any = teacher.network.module
    if model.record is not None:
        expected = teacher.family.student_transformer(teacher.network)
    theirs, ours = (_architecture(module) for module in (model.teacher.network.module, expected))
    odd = [name for name in theirs if theirs[name] != ours.get(name)]
    if odd:
        raise RequestError(
            f"start={config.start} has another architecture than the teacher {config.teacher}: "
            f"{odd[0]} is {theirs[odd[0]]!r}, not {ours.get(odd[0])!r}."
        )
    if model.teacher.latent_shape != teacher.latent_shape:
        theirs_shape, our_shape = (
            " x ".join(map(str, shape))
            for shape in (model.teacher.latent_shape, teacher.latent_shape)
        )
        raise RequestError(
            f"start={config.start} has latents of {theirs_shape}, the teacher {config.teacher} of "
            f"{our_shape}: they must be equal."
        )
    lora, source = config.training.lora, model.config.training.lora
    if lora is not None and model.taught_by.fingerprint != teacher.fingerprint:
        raise RequestError(
            f"start={config.start} is an adapter over another teacher than {config.teacher} "
            f"({model.taught_by.fingerprint}, not {teacher.fingerprint}): on this one it would be "
            "another function."
        )
    if lora is not None and lora != source:
        had = "training.lora=null" if source is None else f"training.lora {source}"
        raise RequestError(
            "A LoRA student starts at its teacher or at a LoRA student of equal settings: "
            f"start={config.start} has {had}, this run {lora}."
        )


def _architecture(module: Any) -> dict[str, Any]:
    settings = {key: value for key, value in module.config.items() if not key.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(settings))  # tuples as they are after a reload
    return {"class": type(module).__name__, **plain}


def _state(
    model: LoadedStudent, teacher: PipelineTeacher, config: RunConfig
) -> Mapping[str, Tensor]:
    """Weights of the run's generator role: a full network's, or an adapter's."""
    if config.training.lora is None:
        full = merged_network(model.network).module.state_dict()
        if model.record is not None:
            full = _unexported(full, teacher, config)
        return {f"module.{name}": value for name, value in full.items()}
    if model.record is None:
        return model.network.state_dict()
    stored = load_file(model.teacher.folder / ADAPTER / "pytorch_lora_weights.safetensors")
    return {f"adapter.{name.removeprefix('transformer.')}": value for name, value in stored.items()}


def _unexported(
    state: Mapping[str, Tensor], teacher: PipelineTeacher, config: RunConfig
) -> dict[str, Tensor]:
    network = teacher.network
    if network.distilled_guidance is not None:
        network.distilled_guidance = config.generator.distilled_guidance
    return dict(teacher.family.student_state(state, network))
