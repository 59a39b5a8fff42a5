"""The teacher as its users run it: the stock pipeline's own call, scheduler and guidance.

Only three things are not the users': prompts are encoded already, the noise is given, and the
network is any copy of the teacher's (sharded, say), while the pipeline's own may be gone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.family import CallArguments, Family
from workbench.teachers.folder import quiet_libraries
from workbench.teachers.pipeline import PipelineTeacher

_GIVEN_HERE = (
    "prompt",
    "negative_prompt",
    "ip_adapter",
    "negative_ip_adapter",
    "latents",
    "generator",
    "sigmas",
    "timesteps",
    "num_images_per_prompt",
)
"""Prefixes of arguments that are set here, which a teacher's call must not set."""

_RunModule = Callable[..., tuple[Tensor, ...]]
"""A transformer's call: (its input (B, ...), the other arguments by name) -> its outputs."""


@dataclass(frozen=True)
class StockCall:
    """A teacher's stock call with a number of steps, found to be possible by :func:`stock_call`.

    Attributes:
        guidance: the call's ``guidance_scale``; 1 = off where it is classifier-free.
        nfe: network evaluations for each image.
        draws_noise: whether the scheduler draws noise, for which it needs generators.
    """

    teacher: PipelineTeacher
    steps: int
    guidance: float
    nfe: int
    draws_noise: bool

    def latents(
        self,
        network: VelocityNetwork,
        cond: Conditioning,
        uncond: Conditioning | None,
        noise: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Samples, float32 (B, *latent_shape), on the device of the noise.

        Weights of half precision make it the call of a pipeline in half precision; in mixed
        precision the network alone is.

        Args:
            network: the teacher's, or a copy of it.
            cond: encoded prompts, B rows.
            uncond: the empty prompt, one row; only classifier-free guidance needs it.
            noise: standard normal (B, *latent_shape); sample i depends on row i alone.
            generators: one for each sample, of any device; only :attr:`draws_noise` needs them.

        Raises:
            RequestError: guidance without an unconditional encoding, or no generator for each
                sample where there must be one.
        """
        if generators is not None and len(generators) != len(noise):
            raise RequestError(f"{len(noise)} samples need as many generators: {len(generators)}.")
        device, dtype = noise.device, network.weights_dtype
        config = self.teacher.pipeline.transformer.config
        stand_in = _StandIn(network.call_module, config, dtype, device)
        texts = _as(dtype, cond), None if uncond is None else _as(dtype, uncond)
        return _run(self.teacher, self._arguments, stand_in, texts, noise, generators)

    @property
    def description(self) -> str:
        """For tables: ``DPMSolverMultistep, shift 3, guidance 4.5``."""
        scheduler = self.teacher.pipeline.scheduler
        parts = [
            type(scheduler).__name__.removesuffix("Scheduler").removesuffix("Discrete"),
            *_shift(scheduler.config),
            *_guidances(self.teacher, self._arguments),
        ]
        return ", ".join(parts)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides samples besides weights, encodings and noise, as plain JSON."""
        family, scheduler = self.teacher.family, self.teacher.pipeline.scheduler
        settings = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        defaults = family.stock_arguments()
        changed = {k: v for k, v in self._arguments.items() if v != defaults.get(k)}
        return {
            "pipeline": family.pipeline_class,
            "scheduler": type(scheduler).__name__,
            "scheduler_settings": settings,
            "call": changed,
            "steps": self.steps,
            "guidance": self.guidance,
        }

    @property
    def _arguments(self) -> CallArguments:
        return _call_arguments(self.teacher, self.steps, self.guidance)


def stock_steps_default(teacher: PipelineTeacher) -> int:
    """The number of steps of the teacher's call, or of its pipeline's."""
    steps: int = teacher.call_arguments["num_inference_steps"]
    return steps


def stock_guidance_default(teacher: PipelineTeacher) -> float:
    """The ``guidance_scale`` of the teacher's call, or of its pipeline's; 1 = none."""
    scale: float = teacher.call_arguments["guidance_scale"]
    if teacher.network.distilled_guidance is not None:
        return scale
    return max(1.0, scale) if teacher.family.cfg_argument == "guidance_scale" else 1.0


def stock_call(
    teacher: PipelineTeacher, steps: int | None = None, guidance: float | None = None
) -> StockCall:
    """The teacher's stock call, tried out on one sample without evaluating the network.

    Args:
        steps: of the call; the teacher's own unless told.
        guidance: its ``guidance_scale``; the teacher's own unless told.

    Raises:
        RequestError: the pipeline cannot use its scheduler so, or the guidance does nothing.
    """
    steps = stock_steps_default(teacher) if steps is None else steps
    if steps < 1:
        raise RequestError(f"The stock call needs at least 1 step, not {steps}.")
    guidance = stock_guidance_default(teacher) if guidance is None else float(guidance)
    _check_guidance(teacher, guidance)
    _check_told(teacher)
    arguments = _call_arguments(teacher, steps, guidance)
    try:
        evaluations, drawn = _tried_out(teacher, arguments)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        # How diffusers refuses: pipelines and schedulers say what they can do only by their code.
        reason = " ".join(str(error).split())[:300]
        kind, scheduler = teacher.family.pipeline_class, teacher.pipeline.scheduler
        raise RequestError(f"{kind} cannot use its {type(scheduler).__name__}: {reason}") from error
    return StockCall(teacher, steps, guidance, evaluations, drawn)


def _tried_out(teacher: PipelineTeacher, arguments: CallArguments) -> tuple[int, bool]:
    """Try the call with a network that returns 0: its evaluations per sample, and whether the
    scheduler draws noise.

    Raises:
        RequestError: as :func:`_run`; what diffusers refuses is raised as it is.
    """
    config, device = teacher.pipeline.transformer.config, teacher.pipeline.vae.device
    shapes = teacher.family.encoding_shapes(teacher.folder, config, teacher.call_arguments)
    row = Conditioning({n: torch.zeros(1, *shape, device=device) for n, shape in shapes.items()})
    noise, generator = torch.zeros(1, *teacher.latent_shape, device=device), torch.Generator()
    stand_in = _StandIn(_answer_zero(config), config, torch.float32, device)
    before = generator.get_state()
    _run(teacher, arguments, stand_in, (row, row), noise, [generator])
    return stand_in.evaluations, not torch.equal(before, generator.get_state())


class _StandIn(nn.Module):
    """Replaces a pipeline's transformer; counts one evaluation per sample."""

    def __init__(
        self, run: _RunModule, config: Any, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.run, self.config, self.dtype, self.device = run, config, dtype, device
        self.evaluations = 0

    def forward(self, hidden_states: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
        self.evaluations += len(hidden_states)
        return self.run(hidden_states, **arguments)

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """Contexts of caches between steps, which no network here has."""
        return nullcontext()


def _as(dtype: torch.dtype, cond: Conditioning) -> Conditioning:
    """An encoding in the precision of the weights; masks stay what they are."""
    return cond.map(lambda x: x.to(dtype) if x.is_floating_point() else x)


def _answer_zero(config: Any) -> _RunModule:
    """A transformer whose velocity is 0: of latents (B, C, H, W), or tokens (B, tokens, C)."""

    def run(hidden_states: Tensor, **_: Any) -> tuple[Tensor, ...]:
        shape = list(hidden_states.shape)
        shape[1 if len(shape) == 4 else 2] = config.out_channels or config.in_channels
        return (hidden_states.new_zeros(shape),)

    return run


def _run(
    teacher: PipelineTeacher,
    arguments: CallArguments,
    transformer: _StandIn,
    texts: tuple[Conditioning, Conditioning | None],
    noise: Tensor,
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    """Run the call on a copy of the pipeline; the teacher's is not modified.

    Raises:
        RequestError: guidance without an unconditional encoding, or noise of no one sample.
    """
    family, (cond, uncond) = teacher.family, texts
    scale = _cfg_scale(family, arguments)
    if scale > 1 and uncond is None:
        raise RequestError(
            f"{family.cfg_argument} {scale:g} needs the encoding of the empty prompt, and there is "
            "none. Use 1 (off)."
        )
    empty = uncond.expand(len(noise)) if uncond is not None and scale > 1 else None
    pipeline = copy.copy(teacher.pipeline)
    pipeline.transformer = transformer
    pipeline.scheduler = copy.deepcopy(teacher.pipeline.scheduler)
    inputs = family.stock_inputs(cond, empty, noise, arguments)
    fixed = {"generator": None if generators is None else list(generators), "output_type": "latent"}
    before = _global_state(noise.device)
    with quiet_libraries():
        output = pipeline(**{**arguments, **inputs, **fixed}).images
    if _global_state(noise.device) != before:
        raise _homeless_noise(teacher, generators is not None)
    latents: Tensor = family.from_stock(output, teacher.latent_shape).float()
    return latents


def _global_state(device: torch.device) -> list[bytes]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [state.numpy().tobytes() for state in states]


def _homeless_noise(teacher: PipelineTeacher, given: bool) -> RequestError:
    kind, family = type(teacher.pipeline.scheduler).__name__, teacher.family.pipeline_class
    if not given:
        return RequestError(f"{kind} draws noise: it needs a generator for each sample.")
    return RequestError(
        f"{kind} draws noise, but {family} gives it no generator: its samples would depend on "
        "their batch. Use a deterministic scheduler."
    )


def _call_arguments(teacher: PipelineTeacher, steps: int, guidance: float) -> CallArguments:
    return {
        **teacher.call_arguments,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }


def _cfg_scale(family: Family, arguments: CallArguments) -> float:
    """The scale of the call's classifier-free guidance, which is active above 1."""
    scale: float = 1.0 if family.cfg_argument is None else arguments[family.cfg_argument]
    return scale


def _check_guidance(teacher: PipelineTeacher, guidance: float) -> None:
    """Refuse a guidance that the call would ignore."""
    kind = teacher.family.pipeline_class
    if not 0 <= guidance < math.inf:
        raise RequestError(f"guidance_scale must be at least 0 and finite, not {guidance:g}.")
    if teacher.network.distilled_guidance is not None:
        return
    if teacher.family.cfg_argument != "guidance_scale" and guidance != 1:
        raise RequestError(
            f"This {kind}'s network takes no guidance: guidance_scale {guidance:g} would do "
            "nothing. Use 1 (off)."
        )
    if guidance < 1:
        raise RequestError(
            f"A {kind} guides above 1 only: guidance_scale {guidance:g} would do nothing. "
            "Use 1 (off)."
        )


def _check_told(teacher: PipelineTeacher) -> None:
    """Refuse a teacher whose call sets arguments that are set here."""
    defaults = teacher.family.stock_arguments()
    for name, value in teacher.call_arguments.items():
        if name.startswith(_GIVEN_HERE) and value and value != defaults.get(name):
            raise RequestError(
                f"The call of {teacher.name} sets {name}={value!r}, which its stock samples cannot "
                "follow: prompts, noise and steps are given. Leave it out of the teacher's call."
            )


def _shift(settings: Any) -> list[str]:
    """A scheduler's flow shift as text; empty if it has none."""
    if settings.get("use_dynamic_shifting"):
        return ["dynamic shift"]
    shift = settings.get("flow_shift" if settings.get("use_flow_sigmas") else "shift")
    return [] if shift is None else [f"shift {shift:g}"]


def _guidances(teacher: PipelineTeacher, arguments: CallArguments) -> list[str]:
    """All guidance of a call as text."""
    parts = []
    if teacher.network.distilled_guidance is not None:
        parts.append(f"embedded guidance {arguments['guidance_scale']:g}")
    scale = _cfg_scale(teacher.family, arguments)
    if scale > 1 or teacher.family.cfg_argument == "guidance_scale":
        parts.append(f"guidance {scale:g}")
    if arguments.get("skip_guidance_layers"):
        parts.append(f"skip-layer guidance {arguments['skip_layer_guidance_scale']:g}")
    return parts or ["no guidance"]
