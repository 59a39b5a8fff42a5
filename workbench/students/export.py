"""A run's student as a folder that stock diffusers opens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from workbench import __version__
from workbench.data.pairs import read_pairs
from workbench.data.prompts import read_prompts
from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.methods import GeneratorConfig, method_type
from workbench.students.model_card import Card, ImageCheck, model_card
from workbench.students.models import Drawing, LoadedStudent, load_student
from workbench.students.sampling import sample_model
from workbench.students.student import StudentRecord
from workbench.teachers.folder import quiet_libraries
from workbench.teachers.student_pipeline import (
    plain_module,
    plain_pipeline,
    plain_pipeline_source,
    student_call,
    student_pipeline,
    student_scheduler,
)
from workbench.training.config import RunConfig
from workbench.training.lora import merged_network, save_adapter
from workbench.training.run_folder import find_run
from workbench.workspace import Workspace, partial_path

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
ADAPTER = "adapter"

_RENOISES: Mapping[str, bool] = {"fresh": True, "ddim": False}
_TOLERANCE = 1e-4  # of images in [0, 1]


@dataclass(frozen=True)
class Export:
    """A written folder, its record, and how its images were checked (None: they were not)."""

    folder: Path
    record: StudentRecord
    check: ImageCheck | None


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to."""

    run: str
    folder: Path
    dtype: str = "fp32"
    prompt: str | None = None
    check: bool = True


def export_student(workspace: Workspace, request: ExportRequest) -> Export:
    """Write a run's averaged generator as a stock pipeline, with a model card and a record.

    The folder appears whole or not at all. Everything but transformer and scheduler is the
    teacher's. A module there gives a plain call the student's own defaults, which no setting of a
    stock class can. A LoRA student's adapter is merged there, and kept apart in ``adapter``.

    Raises:
        RequestError: the folder is not empty, no such run, an unknown type of weights, or a
            sampler that no stock scheduler has.
        WorkbenchError: the pipeline's images are not the student's, or the disk is full.
    """
    if request.dtype not in DTYPES:
        raise unknown_name("type of weights", request.dtype, DTYPES)
    _refuse_used(request.folder)
    # Its text encoders are saved too: in the precision of their own files, fp16 would lose bits.
    model = load_student(workspace, request.run, text=torch.float32)
    if model.record is not None:
        raise RequestError(f"{request.run} is an exported student already; name a run.")
    generator = model.config.generator
    pipeline = _pipeline(model, _renoises(model.name, generator))
    guidance = generator.distilled_guidance
    call = student_call(model.teacher, pipeline, generator.steps, guidance)
    record = StudentRecord(
        workbench=__version__,
        run=model.name,
        nimg=model.nimg,
        teacher=model.taught_by,
        weights=model.weights,
        dtype=request.dtype,
        call=call,
        config=model.config,
    )
    prompt = request.prompt or _first_prompt(model.config)
    results = find_run(workspace, model.name).results()
    if results is not None and results["nimg"] != model.nimg:
        results = None  # those scores belong to other weights
    student = _defaults(record, model)
    with _aside(request.folder) as partial:
        module = partial / f"{plain_module(model.teacher.family)}.py"
        module.write_text(plain_pipeline_source(model.teacher.family), encoding="utf-8")
        check = None
        if request.check:
            own = plain_pipeline(module, pipeline, student)
            check = _check_images(model, pipeline, own, record, prompt)
        _write(pipeline, model, record, student, partial)
        record.save(partial)
        card = Card(record, model.teacher, request.folder, prompt, check, results)
        (partial / "README.md").write_text(model_card(card), encoding="utf-8")
    return Export(request.folder, record, check)


def _refuse_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file; an export needs a new or an empty folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise RequestError(f"{folder} is not empty; an export needs a new or an empty folder.")


def _renoises(name: str, generator: GeneratorConfig) -> bool:
    if generator.steps == 1:
        return False  # the only noise is the first one
    if generator.noise not in _RENOISES:
        raise RequestError(
            f"{name} was trained with noise={generator.noise}, which no stock scheduler has: none "
            f"keeps the first noise. Can be exported: {', '.join(_RENOISES)}, and any noise at "
            "generator.steps=1."
        )
    return _RENOISES[generator.noise]


def _pipeline(model: LoadedStudent, renoise: bool) -> Any:
    generator = model.config.generator
    network = merged_network(model.network)
    scheduler = student_scheduler(
        model.teacher.family, generator.steps, generator.flow_shift, renoise
    )
    with quiet_libraries():
        pipeline = student_pipeline(model.teacher, network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _first_prompt(config: RunConfig) -> str:
    """The first one that the student has learnt from."""
    if config.data is not None and not method_type(config.method).needs_prompts:
        return read_pairs(config.data).prompts[0]
    return read_prompts(config.prompts.model_copy(update={"limit": 1})).prompts[0]


def _defaults(record: StudentRecord, model: LoadedStudent) -> dict[str, Any]:
    """The ``student`` of model_index.json: its defaults, and whether steps draw new noise."""
    renoise = _renoises(model.name, model.config.generator)
    return {**record.defaults(model.teacher.family), "renoise": renoise}


def _check_images(
    model: LoadedStudent, stock: Any, own: Any, record: StudentRecord, prompt: str
) -> ImageCheck:
    """Images by the stock class, told everything, by the folder's, and by workbench's sampler.

    Before the weights are rounded and saved.

    Args:
        stock: the pipeline that is saved.
        own: the same by the folder's module, whose first steps are drawn too.

    Raises:
        WorkbenchError: they differ by more than rounding.
    """
    steps = record.config.generator.steps
    fewer = max(record.fewest_steps, steps // 2)

    def sampled(images: int, steps: int) -> Tensor:
        # As the pipelines draw: weights and sampler are what is compared.
        drawing = Drawing([prompt] * images, steps, 0, precision="fp32")
        return sample_model(model, drawing, stock.device.type)

    expected = [*sampled(2, steps)]
    drawn = [_drawn(stock, prompt, seed, record.call) for seed in (0, 1)]
    expected.append(expected[0])
    drawn.append(_drawn(own, prompt, 0, {}))
    if fewer < steps:
        expected.append(sampled(1, fewer)[0])
        drawn.append(_drawn(own, prompt, 0, {"num_inference_steps": fewer}))
    difference = (torch.stack(drawn) - torch.stack(expected)).abs().max().item()
    if not difference <= _TOLERANCE:
        raise WorkbenchError(
            f"Nothing was exported: the stock pipeline's images differ by {difference:.2g} from "
            f"those of {model.name} (allowed: {_TOLERANCE:g})."
        )
    return ImageCheck(len(drawn), prompt, difference, stock.device.type)


def _drawn(pipeline: Any, prompt: str, seed: int, call: Mapping[str, Any]) -> Tensor:
    """One image, from torch's global noise."""
    devices = [pipeline.device] if pipeline.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        images: Tensor = pipeline(prompt, output_type="pt", **call).images
    return images[0].float().cpu()


def _write(
    pipeline: Any,
    model: LoadedStudent,
    record: StudentRecord,
    student: Mapping[str, Any],
    folder: Path,
) -> None:
    with quiet_libraries():
        pipeline.to(DTYPES[record.dtype])
        pipeline.register_to_config(student=student)
        pipeline.save_pretrained(folder, safe_serialization=True)
        if model.config.training.lora is not None:
            save_adapter(model.network, folder / ADAPTER, model.teacher.family.pipeline_type())


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to write in, which becomes ``folder`` at the end, or vanishes."""
    partial = partial_path(folder)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise WorkbenchError(f"Could not write {folder}: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
