"""The model card of an exported student: a README.md that the hub understands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.methods import method_type, step_times
from workbench.metrics import in_order, title_of
from workbench.runs.student import StudentRecord
from workbench.teachers import PipelineTeacher
from workbench.teachers.hub import revision_of
from workbench.teachers.hub_catalog import find_hub_teacher
from workbench.teachers.student_pipeline import STUDENT_RECORD

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LICENCE = re.compile(r"^license(?:_name)?:\s*(\S.*?)\s*$", re.MULTILINE)
_UNSAID = ["experiment", "variant", "schedule", "evaluation"]


@dataclass(frozen=True)
class ImageCheck:
    """Images by the stock pipeline against workbench's own sampler.

    Attributes:
        difference: the largest one of a channel, of values in [0, 1].
        device: where both ran.
    """

    images: int
    prompt: str
    difference: float
    device: str


@dataclass(frozen=True)
class Card:
    """What a card is made of."""

    record: StudentRecord
    teacher: PipelineTeacher
    folder: Path
    prompt: str
    check: ImageCheck | None
    results: Mapping[str, Any] | None

    @property
    def fewer_steps(self) -> int | None:
        """The first half of the student's steps; None where it is no sample after them."""
        config = self.record.config
        partial = config.generator.steps > 1 and method_type(config.method).any_step
        return config.generator.steps // 2 if partial else None

    @property
    def renoised(self) -> bool:
        """Whether the scheduler draws noise after the first."""
        generator = self.record.config.generator
        return generator.noise == "fresh" and generator.steps > 1


def model_card(card: Card) -> str:
    """Markdown with YAML front matter; its code samples run as they are."""
    parts = [
        _front_matter(card),
        _introduction(card),
        _usage(card),
        _limits(card),
        _adapter(card),
        _scores(card.results),
        _look(card.results),
        _settings(card),
        _origin(card),
    ]
    return "\n".join(part for part in parts if part)


def teacher_licence(teacher: str, folder: Path) -> str | None:
    """The teacher's licence as its own card or the catalogue says; None if neither does."""
    readme = folder / "README.md"
    if readme.is_file():
        front = _FRONT_MATTER.match(readme.read_text(encoding="utf-8", errors="replace"))
        found = _LICENCE.findall(front[1]) if front else []
        if found:
            return str(found[-1])
    known = find_hub_teacher(teacher)
    return known.licence if known else None


def _licence(card: Card) -> str | None:
    name = card.record.teacher.name
    return teacher_licence(name, card.teacher.folder)


def _front_matter(card: Card) -> str:
    licence = _licence(card)
    hub_id, local = _teacher_place(card)
    values: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": hub_id or local.name,
        "base_model_relation": "finetune",
        **({"license": "other", "license_name": licence} if licence else {}),
        "tags": ["few-step", "distillation", card.record.config.method.name],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _teacher_place(card: Card) -> tuple[str | None, Path]:
    """The teacher's repository on the hub, if it is of one, and its folder here."""
    name, folder = card.record.teacher.name, card.teacher.folder
    known = find_hub_teacher(name)
    if known:
        return known.hub_id, folder
    return (name.partition("@")[0] if revision_of(folder) else None), folder


def _introduction(card: Card) -> str:
    record, generator = card.record, card.record.config.generator
    return (
        f"# {card.folder.name}\n\n"
        f"A text-to-image generator of {generator.steps} steps, distilled from "
        f"`{record.teacher.name}` with the method `{record.config.method.name}` on "
        f"{record.nimg / 1000:g} thousand generated images by workbench {record.workbench}.\n"
    )


def _usage(card: Card) -> str:
    lines = [
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({str(card.folder.resolve())!r}{_dtype(card)})",
        *_drawing(card, card.record.call),
    ]
    return "## Use\n\n" + _code(lines)


def _dtype(card: Card) -> str:
    return ", torch_dtype=torch.bfloat16" if card.record.dtype == "bf16" else ""


def _drawing(card: Card, call: Mapping[str, Any]) -> list[str]:
    """Lines that draw one image from seed 0 and save it."""
    arguments = [repr(card.prompt), *(f"{key}={value!r}" for key, value in call.items())]
    seeded = ["torch.manual_seed(0)"]
    if not card.renoised or card.teacher.family.gives_generator:
        seeded = []
        arguments.append("generator=torch.Generator().manual_seed(0)")
    body = [f"    {argument}," for argument in arguments]
    return [*seeded, "image = pipe(", *body, ").images[0]", 'image.save("image.png")']


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```", ""])


def _limits(card: Card) -> str:
    record, generator = card.record, card.record.config.generator
    times = step_times(generator.steps, generator.flow_shift)
    sigmas = ", ".join(f"{t:g}" for t in times.tolist())
    k = generator.steps
    said = [
        f"The scheduler's settings give sigmas {sigmas} at `num_inference_steps={k}`, the times "
        f"of training, and {'new noise at every step' if card.renoised else 'plain Euler steps'}. "
        "Another number of steps gives other sigmas, at which the student was not trained.",
        f"`guidance_scale={record.call['guidance_scale']:g}` is what the student was trained with; "
        "guidance is distilled into it, negative prompts do nothing.",
    ]
    if card.renoised and not card.teacher.family.gives_generator:
        said.append(
            "This pipeline class gives its `generator` to the first noise only; the scheduler "
            "draws from torch's global state. `torch.manual_seed` sets both. On a GPU that is the "
            "GPU's own state, so the same seed gives other images than on a CPU."
        )
    if k > 1 and card.fewer_steps is None:
        said.append(
            f"A student of method `{record.config.method.name}` makes samples only after all its "
            f"{k} steps, not after the first of them."
        )
    if record.dtype != "fp32":
        said.append("The weights are rounded to bfloat16: images differ a little from float32's.")
    text = "\n".join(f"- {line}" for line in said) + "\n"
    fewer = card.fewer_steps
    return text if fewer is None else f"{text}\n{_fewer_steps(card, fewer)}"


def _fewer_steps(card: Card, fewer: int) -> str:
    """The student after the first steps of its K, with the sigmas given in the call."""
    generator, k = card.record.config.generator, card.record.config.generator.steps
    times = step_times(k, generator.flow_shift)[:fewer].tolist()
    call = {**card.record.call, "num_inference_steps": fewer, "sigmas": times}
    lines = [
        "from diffusers import FlowMatchEulerDiscreteScheduler",
        "",
        "settings = pipe.scheduler.config",
        "pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(",
        "    settings, shift=1.0, shift_terminal=None",
        ")",
        *_drawing(card, call),
    ]
    text = f"The first {fewer} of its {k} steps, for which it was trained too:\n\n"
    return text + _code(lines)


def _adapter(card: Card) -> str:
    lora = card.record.config.training.lora
    if lora is None:
        return ""
    family = card.teacher.family
    text = (
        "## Adapter\n\n"
        f"Trained as a LoRA of rank {lora.rank} and alpha {lora.alpha:g} (targets: {lora.targets})."
        " It is merged into the transformer here; `adapter` holds it alone, for "
        "`pipe.load_lora_weights` on the teacher's pipeline.\n"
    )
    if family.pipeline_class != family.student_class:
        return text
    folder, revision = str(card.folder.resolve()), card.record.teacher.revision
    hub_id, local = _teacher_place(card)
    pinned = f", revision={revision!r}" if hub_id and revision else ""
    lines = [
        "from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({hub_id or str(local)!r}{pinned})",
        f"pipe.load_lora_weights({folder + '/adapter'!r})",
        "pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(",
        f"    {folder!r}, subfolder='scheduler'",
        ")",
    ]
    return f"{text}\n{_code(lines)}"


def _scores(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "## Scores\n\nNone: the run has measured none of these weights to its end.\n"
    rows: list[Mapping[str, Any]] = results["table"]
    other = ("fingerprint", "model", "steps", "nfe", "how")
    names = list(dict.fromkeys(key for row in rows for key in row if key not in other))
    if not names:
        return "## Scores\n\nNone: the run was asked to measure none.\n"
    head = ["model", "sampler", "steps", "NFE", *names, "fingerprint"]
    body = [
        [
            str(row["model"]),
            str(row.get("how", "")),
            str(row["steps"]),
            str(row["nfe"]),
            *(f"{row[name]:.4g}" if name in row else "" for name in names),
            f"`{row['fingerprint']['id']}`",
        ]
        for row in rows
    ]
    return (
        "## Scores\n\n"
        + _table(head, body)
        + "\nThe fingerprint identifies everything but the weights that decides a score (metrics, "
        "prompts, samples, seed, versions); the scores are of the run, before the export.\n"
    )


def _look(results: Mapping[str, Any] | None) -> str:
    """How its samples' look and variety differ from the teacher's, where the run measured it."""
    drift: Mapping[str, Mapping[str, Any]] = (results or {}).get("drift") or {}
    if not drift:
        return ""
    told = [
        f"{title_of(name)} {found['value']:.2f}"
        + ("" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})")
        for name in in_order(drift)
        for found in [drift[name]]
    ]
    text = ", ".join(told)
    return (
        "## Look\n\n"
        f"{text[0].upper()}{text[1:]} of the teacher's, on the same prompts and noise: 1 is no "
        "difference; in brackets the 95 % interval over prompts.\n"
    )


def _settings(card: Card) -> str:
    flat = card.record.config.flat()
    rows = [
        [f"`{key}`", f"`{value}`"]
        for key, value in flat.items()
        if key.split(".")[0] not in _UNSAID
    ]
    return "## Settings\n\n" + _table(["setting", "value"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _origin(card: Card) -> str:
    record, teacher = card.record, card.record.teacher
    revision = f", hub revision `{teacher.revision}`" if teacher.revision else ""
    checked = "The images of this folder were not checked when it was exported."
    if card.check is not None:
        checked = (
            f"Checked at the export: {card.check.images} images of {card.check.prompt!r} by the "
            f"stock pipeline and by workbench's sampler, in float32 on {card.check.device}, differ "
            f"by at most {card.check.difference:.1g} (values from 0 to 1)."
        )
    licence = _licence(card)
    terms = (
        f"The teacher's licence applies: {licence}."
        if licence
        else "The teacher's licence applies; it is not known here."
    )
    return (
        "## Origin\n\n"
        f"- Teacher: `{teacher.name}`, fingerprint `{teacher.fingerprint}`{revision}.\n"
        f"- Run: `{record.run}` at {record.nimg / 1000:g} kimg, averaged weights "
        f"`{record.weights}`, stored as {record.dtype}. All of it in `{STUDENT_RECORD}`.\n"
        f"- {checked}\n"
        f"- {terms}\n"
    )
