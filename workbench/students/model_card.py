"""The model card of an exported student: a README.md that the hub understands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.methods import step_times
from workbench.metrics import in_order, title_of
from workbench.students.student import StudentRecord
from workbench.teachers import PipelineTeacher
from workbench.teachers.hub import revision_of
from workbench.teachers.hub_catalog import find_hub_teacher
from workbench.teachers.student_pipeline import STUDENT_RECORD, plain_loading, plain_module

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LICENCE = re.compile(r"^license(?:_name)?:\s*(\S.*?)\s*$", re.MULTILINE)
_UNSAID = ["experiment", "variant", "schedule", "evaluation"]


@dataclass(frozen=True)
class ImageCheck:
    """Images by the stock pipeline and by the folder's module against workbench's own sampler.

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
    def name(self) -> str:
        """The folder's own, without where it lies."""
        return self.folder.resolve().name

    @property
    def fewer_steps(self) -> int | None:
        """The first half of the student's steps; None where it is no sample after them."""
        steps = self.record.config.generator.steps
        return steps // 2 if self.record.fewest_steps < steps else None

    @property
    def renoised(self) -> bool:
        """Whether the scheduler draws noise after the first."""
        generator = self.record.config.generator
        return generator.noise == "fresh" and generator.steps > 1


def model_card(card: Card) -> str:
    """Markdown with YAML front matter; its code samples run as they are."""
    parts = [
        _front_matter(card),
        _start(card),
        _introduction(card),
        _usage(card),
        _stock_class(card),
        _adapter(card),
        _scores(card.results),
        _look(card.results),
        _settings(card),
        _origin(card),
    ]
    return "\n".join(part for part in parts if part)


def teacher_license(teacher: str, folder: Path) -> str | None:
    """The teacher's licence as its own card or the catalogue says; None if neither does."""
    readme = folder / "README.md"
    if readme.is_file():
        front = _FRONT_MATTER.match(readme.read_text(encoding="utf-8", errors="replace"))
        found = _LICENCE.findall(front[1]) if front else []
        if found:
            return str(found[-1])
    known = find_hub_teacher(teacher)
    return known.licence if known else None


def _license(card: Card) -> str | None:
    name = card.record.teacher.name
    return teacher_license(name, card.teacher.folder)


def _front_matter(card: Card) -> str:
    licence = _license(card)
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


def _teacher_name(card: Card) -> str:
    """As it was asked for; a folder without where it lay."""
    hub_id, _ = _teacher_place(card)
    name = card.record.teacher.name
    return name if hub_id else Path(name).name


def _start(card: Card) -> str:
    """A whole program, and what the folder cannot tell diffusers by itself."""
    stock, module = card.teacher.family.student_class, plain_module(card.teacher.family)
    defaults = ", ".join(f"`{key}={value!r}`" for key, value in card.record.call.items())
    return (
        f"# {card.name}\n\n"
        f"{_program([*_loading(card), *_drawing(card, {}, 'image.png', seed=None)])}\n"
        "`custom_pipeline` and `trust_remote_code` are both needed, for this folder as for a copy "
        f"on the hub: only then does diffusers run its `{module}.py`, a short file of code (read "
        f"it before you trust it) that gives `{stock}` the student's times and its own defaults "
        f"({defaults}). Without them the folder opens as the stock `{stock}`, with a warning that "
        "`student` is ignored, and a plain call has that class's defaults, which are wrong for "
        "the student: see [below](#the-stock-class). Code that cannot pass them may put the "
        f"folder on `sys.path` and import `StudentPipeline` from `{module}`.\n"
    )


def _introduction(card: Card) -> str:
    record, generator = card.record, card.record.config.generator
    return (
        f"A text-to-image generator of {generator.steps} steps, distilled from "
        f"`{_teacher_name(card)}` with the method `{record.config.method.name}` on "
        f"{record.nimg / 1000:g} thousand generated images by workbench {record.workbench}.\n"
    )


def _loading(card: Card) -> list[str]:
    """The student with its own defaults."""
    return _loaded(
        "DiffusionPipeline", _folder(card), [*_dtype(card), *plain_loading(card.teacher.family)]
    )


def _folder(card: Card) -> str:
    """The line that names it: programs run beside the folder, or after a change of that line."""
    return f"folder = {_quoted(card.name)}  # this folder, or its name on the hub"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dtype(card: Card) -> list[str]:
    return ["dtype=torch.bfloat16"] if card.record.dtype == "bf16" else []


def _loaded(class_name: str, places: str, arguments: Sequence[str], *others: str) -> list[str]:
    """A pipeline from the place that the last line of ``places`` names."""
    place = places.splitlines()[-1].partition(" = ")[0]
    return [
        f"from diffusers import {', '.join((class_name, *others))}",
        "",
        *places.splitlines(),
        *_call(f"pipe = {class_name}.from_pretrained", [place, *arguments]),
    ]


def _drawing(
    card: Card, call: Mapping[str, Any], file: str, seed: str | None = "generator"
) -> list[str]:
    """One image, saved.

    Args:
        seed: what makes it the one of seed 0: the call's generator, torch's global one, or nothing.
    """
    arguments = [repr(card.prompt), *(f"{key}={value!r}" for key, value in call.items())]
    if seed == "generator":
        arguments.append("generator=torch.Generator().manual_seed(0)")
    return [
        *(["torch.manual_seed(0)"] if seed == "global" else []),
        *_call("image = pipe", arguments, ".images[0]"),
        f'image.save("{file}")',
    ]


def _call(called: str, arguments: Sequence[str], then: str = "") -> list[str]:
    if len(arguments) == 1:
        return [f"{called}({arguments[0]}){then}"]
    return [f"{called}(", *(f"    {argument}," for argument in arguments), f"){then}"]


def _program(lines: Sequence[str]) -> str:
    needs_torch = any("torch." in line for line in lines)
    return "\n".join(["```python", *(["import torch"] * needs_torch), *lines, "```", ""])


def _usage(card: Card) -> str:
    record, generator = card.record, card.record.config.generator
    times = step_times(generator.steps, generator.flow_shift)
    sigmas = ", ".join(f"{t:g}" for t in times.tolist())
    k = generator.steps
    said = [
        f"It was trained at sigmas {sigmas}, with "
        f"{'new noise at each step' if card.renoised else 'plain Euler steps'}. The folder's code "
        "refuses numbers of steps that it does not have; the stock class does not.",
        f"`guidance_scale={record.call['guidance_scale']:g}` is what the student was trained with; "
        "guidance is distilled into it. Negative prompts are refused by the folder's code, and do "
        "nothing in the stock class.",
        "`generator` decides all noise of an image. Without one torch's global state does, which "
        "on a GPU is the GPU's own: the same seed gives other images there than on a CPU.",
        '`pipe.to("cuda")` after loading draws on an NVIDIA GPU. For large students, '
        "`workbench export --precision bf16` halves the weights.",
        "torchvision is not needed, but where one is installed, diffusers and transformers import "
        "it. If `import torchvision` fails beside the installed torch, so do these programs "
        '("Could not import module"), unless they begin with '
        '`import sys; sys.modules["torchvision"] = None`.',
    ]
    if k > 1 and card.fewer_steps is None:
        said.append(
            f"A student of method `{record.config.method.name}` makes samples only after all its "
            f"{k} steps, not after the first of them."
        )
    if record.dtype != "fp32":
        said.append("The weights are rounded to bfloat16: images differ a little from float32's.")
    text = "## Use\n\n" + "\n".join(f"- {line}" for line in said) + "\n"
    fewer = card.fewer_steps
    if fewer is None:
        return text
    name = f"image_{fewer}_step{'s' * (fewer > 1)}.png"
    lines = [*_loading(card), *_drawing(card, {"num_inference_steps": fewer}, name)]
    return f"{text}\nThe first {fewer} of its {k} steps, for which it was trained too:\n\n" + (
        _program(lines)
    )


def _stock_class(card: Card) -> str:
    """The same images without the folder's code."""
    stock, k = card.teacher.family.student_class, card.record.config.generator.steps
    lines = [
        *_loaded(stock, _folder(card), _dtype(card)),
        *_drawing(card, card.record.call, "image_stock.png", _stock_seed(card)),
    ]
    text = (
        "## The stock class\n\n"
        "Without the folder's code each of the student's defaults must be said, and only "
        f"`num_inference_steps={k}` is right: the scheduler's settings give these times, at "
        "another number of steps it gives others.\n\n"
    )
    if _stock_seed(card) == "global":
        text += (
            "This class gives its `generator` to the first noise only; the scheduler draws from "
            "torch's global state. `torch.manual_seed` sets both.\n\n"
        )
    return text + _program(lines)


def _stock_seed(card: Card) -> str:
    alone = card.renoised and not card.teacher.family.gives_generator
    return "global" if alone else "generator"


def _adapter(card: Card) -> str:
    lora = card.record.config.training.lora
    if lora is None:
        return ""
    family = card.teacher.family
    text = (
        "## Adapter\n\n"
        f"Trained as a LoRA of rank {lora.rank} and alpha {lora.alpha:g} (targets: {lora.targets})."
        " It is merged into the transformer here; `adapter` holds it alone, for "
        "`pipe.load_lora_weights` on the teacher's pipeline (which needs `peft`).\n"
    )
    if family.pipeline_class != family.student_class:
        return text
    hub_id, local = _teacher_place(card)
    revision = card.record.teacher.revision
    pinned = [f"revision={revision!r}"] if hub_id and revision else []
    scheduler = "FlowMatchEulerDiscreteScheduler"
    teacher = f"teacher = {_quoted(hub_id or local.name)}"
    teacher += "" if hub_id else "  # the teacher's folder"
    weights = ["folder", 'subfolder="adapter"', 'weight_name="pytorch_lora_weights.safetensors"']
    lines = [
        *_loaded("DiffusionPipeline", f"{_folder(card)}\n{teacher}", pinned, scheduler),
        *_call("pipe.load_lora_weights", weights),
        f'pipe.scheduler = {scheduler}.from_pretrained(folder, subfolder="scheduler")',
        *_drawing(card, card.record.call, "adapter.png", _stock_seed(card)),
    ]
    return f"{text}\n{_program(lines)}"


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
            "stock class and by the folder's code differ from those of workbench's sampler, in "
            f"float32 on {card.check.device}, by at most {card.check.difference:.1g} (values from "
            "0 to 1)."
        )
    licence = _license(card)
    terms = (
        f"The teacher's licence applies: {licence}."
        if licence
        else "The teacher's licence applies; it is not known here."
    )
    return (
        "## Origin\n\n"
        f"- Teacher: `{_teacher_name(card)}`, fingerprint `{teacher.fingerprint}`{revision}.\n"
        f"- Run: `{record.run}` at {record.nimg / 1000:g} kimg, averaged weights "
        f"`{record.weights}`, stored as {record.dtype}. All of it in `{STUDENT_RECORD}`.\n"
        f"- {checked}\n"
        f"- {terms}\n"
    )
