"""The stock call with encodings, noise and any network, held against the unmodified pipeline."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.flow import NoiseSource
from workbench.teachers import Conditioning, PipelineTeacher, load_pipeline_teacher, sample_teacher
from workbench.teachers.flux import pack, unpack
from workbench.teachers.guidance import describe_euler
from workbench.teachers.stock import (
    StockCall,
    stock_call,
    stock_guidance_default,
    stock_steps_default,
)
from workbench.teachers.weights import sharing_memory
from workbench.training.config import LoraConfig
from workbench.training.launch import launch
from workbench.training.lora import AdapterBase, AdapterNetwork
from workbench.training.parallel import Sharding, init_distributed, parallelize

PROMPTS = ["a seven", "the number two", "zero"]
STEPS = 4
MakeScheduler = Callable[[], Any]


def shift_3() -> Any:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def dpm_solver() -> Any:
    """As in SANA's published pipelines."""
    return DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )


def dynamic() -> Any:
    """As in FLUX's published pipeline."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)


def renoising() -> Any:
    return FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)


SCHEDULERS: dict[str, tuple[MakeScheduler | None, ...]] = {
    "SanaPipeline": (None, shift_3, dpm_solver, FlowMatchHeunDiscreteScheduler, renoising),
    "SanaSprintPipeline": (None,),
    "StableDiffusion3Pipeline": (
        None,
        shift_3,
        dpm_solver,
        dynamic,
        FlowMatchHeunDiscreteScheduler,
    ),
    "FluxPipeline": (None, shift_3, dynamic),
}
"""With which schedulers a pipeline works; None: with its own."""

CASES = [
    pytest.param(name, make, id=f"{name}-{make.__name__ if make else 'own'}")
    for name, all_made in SCHEDULERS.items()
    for make in all_made
]


def variant(teacher: PipelineTeacher, scheduler: Any = None, **call: Any) -> PipelineTeacher:
    """The same teacher with another scheduler and more arguments of its call."""
    pipeline = copy.copy(teacher.pipeline)
    pipeline.scheduler = scheduler if scheduler is not None else copy.deepcopy(pipeline.scheduler)
    return PipelineTeacher("variant", pipeline, teacher.family, teacher.folder, call)


def bare(teacher: PipelineTeacher) -> PipelineTeacher:
    """As a run holds it: without text encoders, and with a transformer that has no weights."""
    pipeline = copy.copy(teacher.pipeline)
    pipeline.transformer = copy.deepcopy(pipeline.transformer)
    held = PipelineTeacher("bare", pipeline, teacher.family, teacher.folder)
    held.call_arguments = teacher.call_arguments
    held.release_text_encoders()
    held.release_network()
    return held


def noise_for(teacher: PipelineTeacher, count: int = len(PROMPTS)) -> Tensor:
    return NoiseSource(3).normal("stock", 0, count, teacher.latent_shape)


def generators(count: int = len(PROMPTS)) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(20 + place) for place in range(count)]


def plain(teacher: PipelineTeacher, steps: int = STEPS, **more: Any) -> Tensor:
    """The unmodified pipeline on plain text."""
    noise = noise_for(teacher)
    packed = teacher.family.pipeline_class == "FluxPipeline"
    if teacher.family.pipeline_class == "SanaSprintPipeline" and steps != 2:
        more["intermediate_timesteps"] = None
    latents: Tensor = teacher.pipeline(
        **{
            **teacher.call_arguments,
            "prompt": PROMPTS,
            "num_inference_steps": steps,
            "latents": pack(noise) if packed else noise,
            "generator": generators(),
            "output_type": "latent",
            **more,
        }
    ).images
    return unpack(latents, *teacher.latent_shape[1:]) if packed else latents


def ours(call: StockCall, source: PipelineTeacher, network: Any = None) -> Tensor:
    """The stock call of our own; ``source`` still has text encoders and weights."""
    return call.latents(
        source.network if network is None else network,
        source.encode(PROMPTS),
        source.uncond(),
        noise_for(source),
        generators(),
    )


def close(mine: Tensor, theirs: Tensor, error: float = 1e-5) -> None:
    """To a share of the largest value: what is computed in other batches differs by rounding."""
    largest = max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(mine, theirs, atol=error * largest, rtol=0)


@pytest.fixture
def load(teacher_folders: Callable[[str], Path]) -> Callable[[str], PipelineTeacher]:
    return lambda name: load_pipeline_teacher(name, teacher_folders(name))


@pytest.fixture
def sd3(load: Callable[[str], PipelineTeacher]) -> PipelineTeacher:
    return load("StableDiffusion3Pipeline")


@pytest.mark.parametrize("guidance", [None, 1.0, 4.5])
@pytest.mark.parametrize(("name", "make"), CASES)
def test_it_is_the_plain_call(
    load: Callable[[str], PipelineTeacher],
    name: str,
    make: MakeScheduler | None,
    guidance: float | None,
) -> None:
    teacher = load(name)
    if make is not None:
        teacher = variant(teacher, make())
    network, held = copy.deepcopy(teacher.network), bare(teacher)
    call = stock_call(held, STEPS, guidance)
    told = {} if guidance is None else {"guidance_scale": guidance}
    theirs = plain(teacher, **told)
    mine = ours(call, teacher, network)
    assert theirs.abs().max() > 0.1
    assert mine.dtype == torch.float32
    assert not mine.requires_grad
    close(mine, theirs, 3e-5)  # guidance of 4.5 over 2 evaluations a step magnifies rounding
    other = ours(stock_call(held, STEPS, 3.0), teacher, network)
    takes_guidance = name != "FluxPipeline" or network.distilled_guidance is not None
    assert ((other - mine).abs().max() > 1e-4) == takes_guidance, "guidance matters"


def test_the_teachers_own_call_decides_what_is_not_told(family_teacher: PipelineTeacher) -> None:
    told = variant(family_teacher, num_inference_steps=3, guidance_scale=2.0)
    assert (stock_steps_default(told), stock_guidance_default(told)) == (3, 2.0)
    call = stock_call(told)
    assert (call.steps, call.guidance) == (3, 2.0)
    close(ours(call, told), plain(told, 3))


def test_without_one_the_pipelines_defaults_decide(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    family, pipeline = family_teacher.family, family_teacher.pipeline
    teacher = PipelineTeacher("no notes", pipeline, family, tmp_path)
    assert (stock_steps_default(teacher), stock_guidance_default(teacher)) == {
        "SanaPipeline": (20, 4.5),
        "SanaSprintPipeline": (2, 4.5),
        "StableDiffusion3Pipeline": (28, 7.0),
        "FluxPipeline": (28, 3.5),
    }[family.pipeline_class]


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize(("name", "make"), CASES)
def test_evaluations_are_counted_before_any_is_made(
    load: Callable[[str], PipelineTeacher], name: str, make: MakeScheduler | None, guidance: float
) -> None:
    teacher = load(name)
    if make is not None:
        teacher = variant(teacher, make())
    call = stock_call(teacher, STEPS, guidance)
    network, rows = copy.deepcopy(teacher.network), []
    count = lambda _, inputs, named: rows.append(len(inputs[0]))  # noqa: E731
    network.module.register_forward_pre_hook(count, with_kwargs=True)
    ours(call, teacher, network)
    assert sum(rows) == call.nfe * len(PROMPTS) == network.evaluations
    each = 2 * STEPS - 1 if make is FlowMatchHeunDiscreteScheduler else STEPS
    doubled = guidance > 1 and name in ("SanaPipeline", "StableDiffusion3Pipeline")
    assert call.nfe == (2 * each if doubled else each)
    assert call.draws_noise == (make is renoising or name == "SanaSprintPipeline")


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_sample_does_not_depend_on_its_batch(
    load: Callable[[str], PipelineTeacher], name: str, make: MakeScheduler | None
) -> None:
    teacher = load(name)
    if make is not None:
        teacher = variant(teacher, make())
    call, noise, cond = stock_call(teacher, STEPS), noise_for(teacher), teacher.encode(PROMPTS)
    together = ours(call, teacher)
    alone = call.latents(
        teacher.network, cond.select(slice(1, 2)), teacher.uncond(), noise[1:2], generators()[1:2]
    )
    close(alone, together[1:2], 1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["SanaPipeline", "StableDiffusion3Pipeline", "FluxPipeline"])
def test_the_schedulers_shift_changes_the_samples(
    load: Callable[[str], PipelineTeacher], name: str
) -> None:
    teacher = load(name)
    shifted = variant(teacher, shift_3())
    call = stock_call(shifted, STEPS)
    found = ours(call, shifted)
    assert (found - ours(stock_call(teacher, STEPS), teacher)).abs().max() > 1e-2
    euler = sample_teacher(
        teacher.network, teacher.encode(PROMPTS), teacher.uncond(), noise_for(teacher), STEPS
    )
    assert (found - euler).abs().max() > 1e-2


def test_the_teacher_is_left_as_it_was(family_teacher: PipelineTeacher) -> None:
    pipeline = family_teacher.pipeline
    before = dict(pipeline.components), dict(pipeline.config), pipeline.scheduler.timesteps.clone()
    random = torch.get_rng_state()
    ours(stock_call(family_teacher, 3), family_teacher)
    assert pipeline.components == before[0]
    assert dict(pipeline.config) == before[1]
    assert torch.equal(pipeline.scheduler.timesteps, before[2])
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sprint_takes_its_intermediate_time_at_two_steps_alone(
    load: Callable[[str], PipelineTeacher], steps: int
) -> None:
    teacher = load("SanaSprintPipeline")
    call = stock_call(teacher, steps)
    assert call.nfe == steps
    close(ours(call, teacher), plain(teacher, steps))
    if steps == 2:
        other = plain(teacher, steps, intermediate_timesteps=None)
        assert (ours(call, teacher) - other).abs().max() > 1e-3


def test_flux_guides_against_the_empty_prompt_where_its_call_says_so(
    load: Callable[[str], PipelineTeacher],
) -> None:
    teacher = variant(load("FluxPipeline"), true_cfg_scale=2.5, negative_prompt="")
    call = stock_call(teacher, STEPS, 3.5)
    assert call.nfe == 2 * STEPS
    theirs = plain(teacher, guidance_scale=3.5, negative_prompt=[""] * len(PROMPTS))
    close(ours(call, teacher), theirs)
    assert call.description == "FlowMatchEuler, shift 1, embedded guidance 3.5, guidance 2.5"
    silent = variant(load("FluxPipeline"), true_cfg_scale=2.5)
    with pytest.raises(RequestError, match=r"^true_cfg_scale 2.5 does nothing .* negative_prompt"):
        stock_call(silent, STEPS)


def test_sd3_skips_layers_where_its_call_says_so(sd3: PipelineTeacher) -> None:
    skipping = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.2,
        "skip_layer_guidance_stop": 0.8,
    }
    teacher = variant(sd3, **skipping)
    call = stock_call(teacher, STEPS, 4.5)
    assert call.nfe == 2 * STEPS + 3
    theirs = plain(teacher, guidance_scale=4.5)
    close(ours(call, teacher), theirs)
    assert (ours(stock_call(sd3, STEPS, 4.5), sd3) - theirs).abs().max() > 1e-4
    assert call.description == "FlowMatchEuler, shift 1, guidance 4.5, skip-layer guidance 2.8"


def in_half(teacher: PipelineTeacher) -> PipelineTeacher:
    parts = {name: copy.deepcopy(part) for name, part in teacher.pipeline.components.items()}
    pipeline = type(teacher.pipeline)(**parts).to(torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    return PipelineTeacher("half", pipeline, teacher.family, teacher.folder)


def test_weights_in_half_precision_are_the_pipeline_in_half_precision(
    family_teacher: PipelineTeacher,
) -> None:
    half = in_half(family_teacher)
    call = stock_call(half, STEPS, 4.5)
    mine = ours(call, half)
    assert mine.dtype == torch.float32
    assert torch.equal(mine, plain(half, guidance_scale=4.5).float())
    kept = [  # encodings may be kept in another precision
        row.map(lambda x: x.float() if x.is_floating_point() else x)
        for row in (half.encode(PROMPTS), half.uncond())
    ]
    again = call.latents(half.network, *kept, noise_for(half), generators())
    assert torch.equal(again, mine)
    assert not torch.equal(mine, plain(family_teacher, guidance_scale=4.5))


def test_a_network_with_its_adapters_off_is_the_teacher(sd3: PipelineTeacher) -> None:
    base = AdapterBase(sharing_memory(sd3.network), LoraConfig(rank=2), ["generator"])
    for name, weight in base.module.named_parameters():
        if ".lora_" in name:
            nn.init.ones_(weight)
    call = stock_call(sd3, STEPS)
    exact = ours(call, sd3)
    off = AdapterNetwork(base, None)
    assert torch.equal(ours(call, sd3, off), exact)
    on = AdapterNetwork(base, "generator")
    assert (ours(call, sd3, on) - exact).abs().max() > 1e-2
    assert on.evaluations == call.nfe * len(PROMPTS)


def sharded_samples(folder: Path) -> list[tuple[Tensor, bool]]:
    """Runs on every rank: the samples, and whether every weight was sharded; plain, with LoRA."""
    drawn = []
    with init_distributed() as ranks:
        sharding = Sharding.of(ranks, torch.float32)
        for adapters in (False, True):
            teacher = load_pipeline_teacher("sharded", folder)
            cond, uncond, noise = teacher.encode(PROMPTS), teacher.uncond(), noise_for(teacher)
            network = whole = copy.deepcopy(teacher.network)
            if adapters:
                whole = AdapterBase(network, LoraConfig(rank=2), ["generator"])
                network = AdapterNetwork(whole, None)
            parallelize(whole, network.blocks(), sharding)
            teacher.release_network()
            samples = stock_call(teacher, STEPS).latents(network, cond, uncond, noise)
            drawn.append((samples, all(hasattr(p, "full_tensor") for p in network.parameters())))
    return drawn


def test_a_sharded_network_draws_the_same(sd3: PipelineTeacher) -> None:
    exact = ours(stock_call(sd3, STEPS), sd3)
    for samples, sharded in launch(sharded_samples, 2, sd3.folder):
        assert sharded
        close(samples, exact)


DESCRIPTIONS = [
    ("SanaPipeline", None, 1.0, "FlowMatchEuler, shift 1, guidance 1"),
    ("SanaPipeline", dpm_solver, 4.5, "DPMSolverMultistep, shift 3, guidance 4.5"),
    ("SanaSprintPipeline", None, 4.5, "SCM, embedded guidance 4.5"),
    ("StableDiffusion3Pipeline", shift_3, 7.0, "FlowMatchEuler, shift 3, guidance 7"),
    ("FluxPipeline", dynamic, 3.5, "FlowMatchEuler, dynamic shift, embedded guidance 3.5"),
]


@pytest.mark.parametrize(("name", "make", "guidance", "text"), DESCRIPTIONS)
def test_a_call_says_how_it_samples(
    load: Callable[[str], PipelineTeacher],
    name: str,
    make: MakeScheduler | None,
    guidance: float,
    text: str,
) -> None:
    teacher = load(name)
    teacher = teacher if make is None else variant(teacher, make())
    assert stock_call(teacher, STEPS, guidance).description == text
    assert describe_euler(1.0, 3.0) == "Euler, shift 3, guidance 1"


def test_everything_that_changes_samples_changes_the_identity(sd3: PipelineTeacher) -> None:
    calls = [
        stock_call(sd3),
        stock_call(sd3, 27),
        stock_call(sd3, guidance=6.5),
        stock_call(variant(sd3, shift_3())),
        stock_call(variant(sd3, dpm_solver())),
        stock_call(variant(sd3, FlowMatchHeunDiscreteScheduler())),
        stock_call(variant(sd3, skip_guidance_layers=[1])),
    ]
    identities = [json.dumps(call.identity, sort_keys=True) for call in calls]
    assert len(set(identities)) == len(calls)
    again = json.dumps(stock_call(bare(sd3)).identity, sort_keys=True)
    assert again == identities[0]


def test_schedulers_that_a_pipeline_cannot_use_are_refused(
    load: Callable[[str], PipelineTeacher],
) -> None:
    cases = {
        ("SanaPipeline", dynamic): "SanaPipeline cannot use its FlowMatchEuler.* `mu` must be",
        ("SanaSprintPipeline", shift_3): "SanaSprintPipeline cannot use its FlowMatchEuler",
        ("FluxPipeline", renoising): "FluxPipeline gives it no generator",
        ("StableDiffusion3Pipeline", renoising): "draws noise, but .* gives it no generator",
        ("FluxPipeline", diffusers.EulerDiscreteScheduler): "FluxPipeline cannot use its Euler",
    }
    for (name, make), reason in cases.items():
        with pytest.raises(RequestError, match=reason) as caught:
            stock_call(variant(load(name), make()), STEPS)
        assert "\n" not in str(caught.value)


def test_requests_that_do_nothing_or_cannot_be_are_refused(
    load: Callable[[str], PipelineTeacher], sd3: PipelineTeacher
) -> None:
    with pytest.raises(RequestError, match=r"guides above 1 only: guidance_scale 0.5 .* Use 1"):
        stock_call(sd3, guidance=0.5)
    with pytest.raises(RequestError, match="must be at least 0 and finite, not nan"):
        stock_call(sd3, guidance=float("nan"))
    with pytest.raises(RequestError, match="at least 1 step, not 0"):
        stock_call(sd3, 0)
    with pytest.raises(RequestError, match=r"sets negative_prompt='blurry', which its stock"):
        stock_call(variant(sd3, negative_prompt="blurry"))
    with pytest.raises(RequestError, match=r"sets sigmas=\[1.0, 0.5\]"):
        stock_call(variant(sd3, sigmas=[1.0, 0.5]))
    call, cond = stock_call(sd3, STEPS, 7.0), sd3.encode(PROMPTS)
    with pytest.raises(RequestError, match="guidance_scale 7 needs the encoding of the empty"):
        call.latents(sd3.network, cond, None, noise_for(sd3))
    off = stock_call(sd3, STEPS, 1.0)
    assert off.latents(sd3.network, cond, None, noise_for(sd3)).shape == noise_for(sd3).shape
    with pytest.raises(RequestError, match="3 samples need as many generators: 2"):
        call.latents(sd3.network, cond, sd3.uncond(), noise_for(sd3), generators(2))
    sprint = load("SanaSprintPipeline")
    with pytest.raises(RequestError, match="SCMScheduler draws noise: it needs a generator"):
        stock_call(sprint).latents(sprint.network, sprint.encode(PROMPTS), None, noise_for(sprint))


def test_a_guidance_of_0_in_a_call_means_off(sd3: PipelineTeacher) -> None:
    """Diffusers guides above 1; turbo models' cards say 0."""
    teacher = variant(sd3, guidance_scale=0.0)
    assert stock_guidance_default(teacher) == 1
    call = stock_call(teacher, STEPS)
    close(ours(call, teacher), plain(teacher))
    assert call.nfe == STEPS


def test_a_flux_without_an_embedded_guidance_has_none(
    load: Callable[[str], PipelineTeacher],
) -> None:
    """As FLUX.1-schnell's."""
    flux = load("FluxPipeline")
    config = {**flux.pipeline.transformer.config, "guidance_embeds": False}
    pipeline = copy.copy(flux.pipeline)
    torch.manual_seed(0)
    pipeline.transformer = diffusers.FluxTransformer2DModel.from_config(config).eval()
    teacher = PipelineTeacher("schnell", pipeline, flux.family, flux.folder)
    assert stock_guidance_default(teacher) == 1
    call = stock_call(teacher, STEPS)
    assert call.description == "FlowMatchEuler, shift 1, no guidance"
    close(ours(call, teacher), plain(teacher))
    with pytest.raises(RequestError, match=r"takes no guidance: guidance_scale 3.5 would do nothi"):
        stock_call(teacher, STEPS, 3.5)


def test_padding_is_masked_as_the_pipeline_masks_it(
    load: Callable[[str], PipelineTeacher],
) -> None:
    teacher = load("SanaPipeline")
    cond = teacher.encode(PROMPTS)
    padding = (cond["mask"] == 0)[..., None]
    assert padding.any()
    spoilt = Conditioning({"embeds": cond["embeds"] + 3.0 * padding, "mask": cond["mask"]})
    call, noise = stock_call(teacher, STEPS), noise_for(teacher)
    clean, dirty = (
        call.latents(teacher.network, c, teacher.uncond(), noise) for c in (cond, spoilt)
    )
    close(dirty, clean)
