"""The complete, frozen description of a run: nothing else changes its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from workbench.data.pairs import PairsConfig
from workbench.data.prompts import PromptsConfig
from workbench.errors import RequestError, unknown_name
from workbench.hashing import fingerprint
from workbench.methods import (
    METHODS,
    GeneratorConfig,
    Method,
    MethodConfig,
    SiDConfig,
    make_method,
    method_type,
)
from workbench.settings import FrozenConfig
from workbench.teachers.catalog import default_teacher
from workbench.training import formats
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.events import total_images
from workbench.training.stability import StabilityConfig

Precision = Literal["fp32", "bf16-mixed"]


class AdamConfig(FrozenConfig):
    """Adam as in the published runs: beta1 = 0."""

    lr: float = Field(5e-4, gt=0, description="learning rate")
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)


class LoraConfig(FrozenConfig):
    """Low-rank adapters over the frozen teacher; without dropout, and starting at zero."""

    rank: int = Field(64, ge=1, description="rank of each adapter")
    scale: float = Field(1.0, gt=0, description="of the adapter's output; LoRA's alpha / rank")
    targets: Literal["blocks"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "blocks",
        description="blocks: all linear layers of the transformer blocks; or ends of layer names",
    )

    @property
    def alpha(self) -> float:
        """The scale as files and libraries write it."""
        return self.scale * self.rank


class TrainingConfig(FrozenConfig):
    """Budget, batch, optimizers and numerics.

    Durations are in kimg, thousand generated images: an iteration counts one batch, that of its
    update of the generator, whatever its other updates draw.
    """

    kimg: float = Field(64.0, gt=0, description="duration")
    batch_size: int = Field(128, ge=1, description="global batch: all ranks, all micro-batches")
    micro_batch_size: int | None = Field(
        None, ge=1, description="samples per forward pass and rank; none = the rank's whole batch"
    )
    optimizers: Mapping[str, AdamConfig] = Field(
        {"generator": AdamConfig(), "fake_score": AdamConfig()}, description="one per trained role"
    )
    ema_halflife_kimg: float = Field(4.4, ge=0, description="of the generator's average; 0 = off")
    ema_rampup: float | None = Field(
        0.25,
        gt=0,
        description="that half-life is at most this share of the images so far, as in "
        "EDM, so that the average forgets the teacher early; none = constant",
    )
    precision: Precision = Field(
        "fp32",
        description="bf16-mixed: weights that are trained, moments and reductions in fp32, "
        "all computing and frozen weights in bf16",
    )
    gradient_checkpointing: bool = False
    compile: bool = Field(
        False, description="torch.compile each transformer block; slow to start, faster on a GPU"
    )
    shards: int | None = Field(
        None,
        ge=1,
        description="ranks that share one copy of the weights; none = those of one machine",
    )
    sync_every_micro_batch: bool = Field(
        False,
        description="reduce gradients over the ranks at every micro-batch: slower, but no rank "
        "holds a whole gradient",
    )
    lora: LoraConfig | None = Field(
        None, description="adapters over one frozen copy of the teacher; none = full copies"
    )
    max_nonfinite: int = Field(10, ge=1, description="skipped updates in a row before stopping")
    stability: StabilityConfig = StabilityConfig()


class ScheduleConfig(FrozenConfig):
    """When to log, evaluate and checkpoint, in kimg."""

    log_kimg: float = Field(0.64, gt=0)
    evaluate_kimg: float = Field(6.4, gt=0)
    checkpoint_kimg: float = Field(6.4, gt=0)
    keep_checkpoints: int = Field(2, ge=1, description="last ones kept, besides the best average")


class RunConfig(FrozenConfig):
    """One run: an experiment's variant with a seed."""

    format: Literal[4] = 4
    experiment: str = Field("adhoc", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    variant: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**63)
    teacher: str = Field(default_factory=default_teacher, description="name, folder or hub id")
    resolution: int | None = Field(
        None, ge=8, description="height and width of its images in pixels; none = its own"
    )
    teacher_guidance: float | None = Field(
        None, description="guidance fed to a teacher that takes one as an input; none = its own"
    )
    prompts: PromptsConfig = PromptsConfig()
    data: PairsConfig | None = Field(
        None, description="image-text pairs, for the methods that learn from them"
    )
    start: str | None = Field(
        None,
        min_length=1,
        description="generator starts at a run (RUN, RUN@KIMG) or an exported student's folder; in "
        "an experiment's file also variant:NAME, of the same seed; none = at the teacher",
    )
    generator: GeneratorConfig = GeneratorConfig()
    method: MethodConfig = Field(SiDConfig(), discriminator="name")
    training: TrainingConfig = TrainingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("method", mode="before")
    @classmethod
    def _method_has_a_name(cls, method: Any) -> Any:
        """Settings without a name are the default method's."""
        return {"name": SiDConfig().name, **method} if isinstance(method, Mapping) else method

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        method = method_type(self.method)
        self._refuse_sources(method)
        if self.generator.noise not in method.noise_types:
            raise ValueError(
                f"method {self.method.name!r} makes students for generator.noise "
                f"{' or '.join(method.noise_types)}, not {self.generator.noise}"
            )
        warmup_kimg = make_method(self.method, self.generator).warmup_kimg()
        if warmup_kimg and warmup_kimg >= self.training.kimg:
            raise ValueError(
                f"method {self.method.name!r} has warm-ups of {warmup_kimg:g} kimg, and "
                f"training.kimg is {self.training.kimg:g}: a part of it would never begin"
            )
        optimizers = _optimizers(self.method, self.training.optimizers)
        training = self.training.model_copy(update={"optimizers": optimizers})
        object.__setattr__(self, "training", training)  # pydantic: self, or nothing is validated
        partial = [k for k in self.student_steps if k != self.generator.steps]
        if partial and not method.partial_steps:
            raise ValueError(
                f"method {self.method.name!r} makes samples only after all generator.steps = "
                f"{self.generator.steps}; evaluation.student_steps has {partial}"
            )
        too_many = [k for k in self.student_steps if k > self.generator.steps]
        if too_many:
            raise ValueError(
                f"evaluation.student_steps {too_many} exceed generator.steps = "
                f"{self.generator.steps}: the student was never trained there"
            )
        return self

    def _refuse_sources(self, method: type[Method]) -> None:
        """Refuse data that the method does not use, or the lack of data that it needs.

        Raises:
            ValueError: says which.
        """
        if method.needs_pairs and self.data is None:
            raise ValueError(
                f"method {self.method.name!r} learns from image-text pairs and data is not set; "
                "set data.source, to a folder of captioned images, for example"
            )
        if self.data is not None and not method.needs_pairs:
            raise ValueError(
                f"method {self.method.name!r} learns without data, but data.source is "
                f"{self.data.source!r}"
            )

    @property
    def drawn_evaluation(self) -> EvaluationConfig:
        """The evaluation's settings with the seed that samples are drawn from."""
        settings = self.evaluation
        return settings.at_seed(self.seed) if settings.seed is None else settings

    @property
    def teacher_call(self) -> dict[str, Any]:
        """Arguments of the teacher's stock call that the settings override."""
        size, guidance = self.resolution, self.teacher_guidance
        wanted = {"height": size, "width": size, "guidance_scale": guidance}
        return {name: value for name, value in wanted.items() if value is not None}

    @property
    def total_nimg(self) -> int:
        """Generated images of the whole run: kimg rounded up to whole batches."""
        return total_images(self.training.kimg, self.training.batch_size)

    @property
    def student_steps(self) -> tuple[int, ...]:
        """The step counts at which the student is measured: K and its halves by default.

        Only K for a method whose student makes samples only after all its steps.
        """
        if self.evaluation.student_steps is not None:
            return self.evaluation.student_steps
        halves = [self.generator.steps]
        while halves[-1] > 1 and method_type(self.method).partial_steps:
            halves.append(halves[-1] // 2)
        return tuple(halves)

    def fingerprint(self) -> str:
        """Eight hex digits, equal exactly for equal settings.

        A setting that format 1 lacked counts only if it differs from what its absence meant, so
        that a new setting leaves the fingerprints of earlier runs unchanged.
        """
        return fingerprint(formats.as_format_1(self.model_dump(mode="json")), digits=8)

    def variant_fingerprint(self) -> str:
        """The fingerprint without the seed: equal for repetitions of one variant."""
        return self.model_copy(update={"seed": 0}).fingerprint()

    def recipe_fingerprint(self) -> str:
        """The fingerprint of what decides the weights at a given number of images."""
        kept = formats.as_format_1(self.model_dump(mode="json"))
        training = {k: v for k, v in kept["training"].items() if k not in _NOT_WEIGHTS}
        return fingerprint(
            {
                "seed": self.seed,
                "teacher_call": self.teacher_call,
                "start": self.start,
                "generator": kept["generator"],
                "method": kept["method"],
                "training": training,
                **self._decides_rollbacks(),
            },
            digits=8,
        )

    def _decides_rollbacks(self) -> dict[str, Any]:
        """With roll-backs, these settings decide the weights too."""
        if not self.training.stability.rollback:
            return {}
        schedule, evaluation = self.schedule, self.evaluation
        return {
            "stability": self.training.stability.model_dump(mode="json"),
            "watched": [schedule.log_kimg, schedule.evaluate_kimg, schedule.checkpoint_kimg],
            "max_nonfinite": self.training.max_nonfinite,
            "judged": [evaluation.samples, evaluation.seed, *self._judged_by()],
        }

    def _judged_by(self) -> list[Any]:
        """What selects the best checkpoint, where it differs from format 1."""
        kept = formats.as_format_1(self.model_dump(mode="json"))["evaluation"]
        return [{key: kept[key] for key in ("reference", "metrics", "primary") if key in kept}] * (
            not {"reference", "metrics", "primary"}.isdisjoint(kept)
        )

    def flat(self) -> dict[str, str]:
        """Dotted key -> value as text, for parameter tables."""
        return dict(_flatten(self.model_dump(mode="json")))


_NOT_WEIGHTS = (
    "kimg",
    "micro_batch_size",
    "max_nonfinite",
    "stability",
    "shards",
    "sync_every_micro_batch",
)
"""Settings of training that do not decide the weights at a given number of images."""


def trained_names(method: MethodConfig) -> tuple[str, ...]:
    """The roles and heads that a method trains, each with an optimizer."""
    kind = method_type(method)
    return (*kind.roles, *kind.heads)


def _optimizers(method: MethodConfig, given: Mapping[str, AdamConfig]) -> Mapping[str, AdamConfig]:
    """One optimizer for everything that a method trains, with default settings if not given.

    Raises:
        ValueError: settings for a role that the method does not train.
    """
    names = trained_names(method)
    foreign = [role for role, adam in given.items() if role not in names and adam != AdamConfig()]
    if foreign:
        raise ValueError(
            f"method {method.name!r} trains {', '.join(names)}, but training.optimizers has "
            f"settings for {', '.join(foreign)}"
        )
    ordered = [role for role in given if role in names]
    ordered += [role for role in names if role not in given]
    return {role: given.get(role, AdamConfig()) for role in ordered}


def load_config(path: Path) -> RunConfig:
    """A configuration from the JSON file that a run saved.

    Raises:
        RequestError: unreadable, not JSON, or not a valid configuration.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"Cannot read a run configuration from {path}: {error}.") from error
    if not isinstance(values, dict):
        raise RequestError(f"{path} does not hold a run configuration (a JSON object).")
    values.pop("origins", None)  # of a dry run's document, which can be run as it is
    return validated(values)


def validated(values: Mapping[str, Any]) -> RunConfig:
    """A configuration from plain values.

    Raises:
        RequestError: one line that names each wrong key, what was given and what is expected.
    """
    try:
        return RunConfig.model_validate(formats.upgraded(values))
    except ValidationError as error:
        raise _readable(error) from None


def known_keys() -> list[str]:
    """Every dotted key that a configuration has by default, with any method."""
    methods = [{"method": method().model_dump(mode="json")} for method in METHODS.values()]
    return sorted({*RunConfig().flat(), *(key for each in methods for key, _ in _flatten(each))})


def _flatten(node: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(node, dict):
        return [
            pair
            for key, child in node.items()
            for pair in _flatten(child, f"{prefix}.{key}" if prefix else key)
        ]
    return [(prefix, node if isinstance(node, str) else json.dumps(node))]


def _readable(error: ValidationError) -> RequestError:
    parts = []
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        if place[:1] == ["method"] and len(place) > 1 and place[1] in METHODS:
            del place[1]  # pydantic names the method between its key and its setting
        where = ".".join(place)
        if item["type"] == "extra_forbidden":
            return unknown_name("configuration key", where, known_keys())
        message = item["msg"].removeprefix("Value error, ")
        given = "" if isinstance(item["input"], dict | BaseModel) else f" (got {item['input']!r})"
        parts.append(f"{where}: {message}{given}" if where else message)
    return RequestError("Invalid configuration: " + "; ".join(parts) + ".")
