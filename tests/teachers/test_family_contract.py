"""What every family of teachers promises, held against the stock pipeline itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.data.bundled import DIGITS
from workbench.errors import RequestError
from workbench.flow import NoiseSource, TrigFlow, uniform_times
from workbench.methods import FewStepSampler, GeneratorConfig
from workbench.teachers import (
    Conditioning,
    PipelineTeacher,
    load_pipeline_teacher,
    sample_teacher,
)
from workbench.teachers.flux import pack, unpack
from workbench.teachers.folder import TeacherNotes

PROMPTS = ["the digit 7", "a handwritten two", "zero written by hand"]


@pytest.fixture
def teacher(family_teacher: PipelineTeacher) -> PipelineTeacher:
    return family_teacher


def noise_for(teacher: PipelineTeacher, count: int) -> Tensor:
    return NoiseSource(5).normal("contract", 0, count, teacher.latent_shape)


def stock(teacher: PipelineTeacher, noise: Tensor, cfg_scale: float, output: str) -> Tensor:
    """The unmodified diffusers pipeline at four steps, called as its user would."""
    call = {"prompt": PROMPTS, "num_inference_steps": 4, "output_type": output}
    latents, extra = STOCK[teacher.family.pipeline_class](noise, cfg_scale)
    arguments = {**teacher.call_arguments, **call, **extra, "latents": latents}
    images: Tensor = teacher.pipeline(**arguments).images
    # FluxPipeline takes and gives packed latents.
    if output == "latent" and images.ndim == 3:
        return unpack(images, *teacher.latent_shape[1:])
    return images


SIGMAS = uniform_times(4)[:-1].tolist()
STOCK: dict[str, Callable[[Tensor, float], tuple[Tensor, dict[str, Any]]]] = {
    "SanaPipeline": lambda x, k: (x, {"sigmas": SIGMAS, "guidance_scale": k}),
    # No second pass there: the scale is an input of the network.
    "SanaSprintPipeline": lambda x, k: (
        x,
        {"intermediate_timesteps": None, "guidance_scale": k, "generator": seeded()},
    ),
    "StableDiffusion3Pipeline": lambda x, k: (x, {"sigmas": SIGMAS, "guidance_scale": k}),
    "FluxPipeline": lambda x, k: (
        pack(x),
        {"sigmas": SIGMAS, "true_cfg_scale": k, "negative_prompt": [""] * len(PROMPTS)},
    ),
}
"""How each stock call takes noise and guidance."""


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def ours(teacher: PipelineTeacher, noise: Tensor, cfg_scale: float) -> Tensor:
    """The same samples through workbench's own samplers."""
    cond, uncond = teacher.encode(PROMPTS), teacher.uncond()
    if teacher.family.pipeline_class != "SanaSprintPipeline":
        return sample_teacher(teacher.network, cond, uncond, noise, 4, cfg_scale)
    # TrigFlow's angles through the calculus; the stock scheduler re-noises from its generator.
    generator, path = seeded(), TrigFlow()
    angles = torch.linspace(1.57080, 0, 5)[:-1]
    fresh = [noise, *(torch.randn(noise.shape, generator=generator) for _ in angles)]
    network = copy.deepcopy(teacher.network)
    network.distilled_guidance = cfg_scale
    sampler = FewStepSampler(GeneratorConfig(steps=4, noise="fresh"))
    sampler.times = path.to_rectified(angles).tolist()
    with torch.no_grad():
        return sampler.sample(network, cond, fresh.__getitem__)


@pytest.mark.parametrize("cfg_scale", [1.0, 4.5])
def test_sampling_reproduces_the_stock_pipeline(teacher: PipelineTeacher, cfg_scale: float) -> None:
    noise = noise_for(teacher, len(PROMPTS))
    theirs = stock(teacher, noise, cfg_scale, "latent")
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours(teacher, noise, cfg_scale), theirs, atol=1e-5, rtol=0)


def test_guidance_changes_the_samples(teacher: PipelineTeacher) -> None:
    noise = noise_for(teacher, len(PROMPTS))
    off, on = (stock(teacher, noise, scale, "latent") for scale in (1.0, 4.5))
    assert (off - on).abs().max() > 1e-3


def test_distilled_guidance_is_an_input_of_the_network_that_has_one(
    teacher: PipelineTeacher,
) -> None:
    x_t, t, cond = noise_for(teacher, 3), torch.rand(3), teacher.encode(PROMPTS)
    network = copy.deepcopy(teacher.network)
    before = network(x_t, t, cond)
    assert network.distilled_guidance in (None, teacher.call_arguments["guidance_scale"])
    takes_it = getattr(teacher.pipeline.transformer.config, "guidance_embeds", False)
    assert (network.distilled_guidance is not None) == takes_it
    if takes_it:
        network.distilled_guidance = 3.5
        assert not torch.equal(network(x_t, t, cond), before)


def test_decoding_reproduces_the_stock_pipeline(teacher: PipelineTeacher) -> None:
    noise = noise_for(teacher, len(PROMPTS))
    latents = stock(teacher, noise, 1.0, "latent")
    images = teacher.decode(latents)
    assert images.shape == (len(PROMPTS), 3, teacher.resolution, teacher.resolution)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    torch.testing.assert_close(images, stock(teacher, noise, 1.0, "pt"), atol=1e-5, rtol=0)


def test_images_survive_the_autoencoder_at_the_stock_scale(teacher: PipelineTeacher) -> None:
    """Latents have unit scale and no offset, and decoding undoes the scale and the shift."""
    images = DIGITS.images(teacher.resolution)[::20]
    latents = teacher.encode_images(images)
    assert latents.shape == (len(images), *teacher.latent_shape)
    assert latents.std().item() == pytest.approx(1, abs=0.15)
    error = (teacher.decode(latents) - images).square().mean()
    assert error < 0.5 * images.var()


def test_a_reloaded_teacher_is_the_same_bit_for_bit(
    teacher: PipelineTeacher, tmp_path: Path
) -> None:
    teacher.pipeline.save_pretrained(tmp_path)
    (tmp_path / "teacher.json").write_bytes((teacher.folder / "teacher.json").read_bytes())
    again = load_pipeline_teacher("again", tmp_path)
    x_t, t = noise_for(teacher, 3), torch.tensor([1.0, 0.5, 0.01])
    before, after = (one.velocity(x_t, t, one.encode(PROMPTS)) for one in (teacher, again))
    assert torch.equal(before, after)
    assert torch.equal(teacher.uncond()["embeds"], again.uncond()["embeds"])


def test_a_prompt_means_the_same_at_any_batch_size(teacher: PipelineTeacher) -> None:
    many = [f"{prompt} number {i % 10}" for i in range(70) for prompt in PROMPTS][:130]
    together, alone = teacher.encode(many), teacher.encode([many[97]])
    assert len(together) == len(many)
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(together[name][97:98], tensor, atol=1e-5, rtol=1e-5)


def test_different_prompts_differ(teacher: PipelineTeacher) -> None:
    cond = teacher.encode(PROMPTS)
    x_t, t = noise_for(teacher, 1).expand(3, *teacher.latent_shape), torch.full((3,), 0.7)
    velocity = teacher.velocity(x_t, t, cond)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (velocity[i] - velocity[j]).abs().max() > 1e-3


def test_the_empty_prompt_is_one_row_that_is_attended_to(teacher: PipelineTeacher) -> None:
    uncond = teacher.uncond()
    assert len(uncond) == 1
    assert uncond.tensors.keys() == teacher.encode(PROMPTS).tensors.keys()
    if "mask" in uncond.tensors:
        assert uncond["mask"].sum() > 0


def test_the_teacher_is_frozen_but_lets_gradients_through(teacher: PipelineTeacher) -> None:
    x_t = noise_for(teacher, 3).requires_grad_()
    teacher.velocity(x_t, torch.rand(3), teacher.encode(PROMPTS)).square().sum().backward()
    assert x_t.grad is not None
    assert x_t.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in teacher.network.parameters())


def test_training_a_copy_leaves_the_teacher_alone(teacher: PipelineTeacher) -> None:
    x_t, t, cond = noise_for(teacher, 3), torch.rand(3), teacher.encode(PROMPTS)
    before = teacher.velocity(x_t, t, cond)
    student = copy.deepcopy(teacher.network).requires_grad_(True)
    assert torch.equal(student(x_t, t, cond), before)
    student(x_t, t, cond).square().mean().backward()
    torch.optim.SGD(student.parameters(), lr=1.0).step()
    assert not torch.equal(student(x_t, t, cond), before)
    assert torch.equal(teacher.velocity(x_t, t, cond), before)


def test_half_precision_weights_answer_in_float32(teacher: PipelineTeacher) -> None:
    x_t, t, cond = noise_for(teacher, 3), torch.rand(3), teacher.encode(PROMPTS)
    exact = teacher.velocity(x_t, t, cond)
    half = copy.deepcopy(teacher.network).to(torch.bfloat16)
    velocity = half(x_t, t, cond)
    assert velocity.dtype == torch.float32
    assert not torch.equal(velocity, exact)
    torch.testing.assert_close(velocity, exact, atol=0.1, rtol=0.1)


def test_times_are_never_rounded(teacher: PipelineTeacher) -> None:
    """0.999 and 0.7491 are 1 and 0.75 in bfloat16: the sinusoids must see what they are."""
    half = copy.deepcopy(teacher.network).to(torch.bfloat16)
    t = torch.tensor([0.999, 0.7491, 0.5003])
    seen: list[Tensor] = []
    for module in half.modules():
        if type(module).__name__ == "Timesteps":
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    half(noise_for(teacher, 3), t, teacher.encode(PROMPTS))
    scale = seen[0][2] / t[2]
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0] / scale, t, rtol=1e-6, atol=0)


def test_blocks_are_the_transformer_s_layers(teacher: PipelineTeacher) -> None:
    config = teacher.pipeline.transformer.config
    layers = config.num_layers + getattr(config, "num_single_layers", 0)
    assert len(list(teacher.network.blocks())) == layers


def test_checkpointed_gradients_are_the_same(teacher: PipelineTeacher) -> None:
    x_t, t, cond = noise_for(teacher, 3), torch.rand(3), teacher.encode(PROMPTS)
    gradients = []
    for checkpointing in (False, True):
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        if checkpointing:
            network.enable_gradient_checkpointing()
        network(x_t, t, cond).square().mean().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1])


def test_padding_does_not_reach_the_velocity(digits_teacher: PipelineTeacher) -> None:
    cond = digits_teacher.encode(PROMPTS)
    padding = (cond["mask"] == 0)[..., None]
    assert padding.any()
    spoilt = Conditioning(
        {"embeds": cond["embeds"] + 3.0 * padding, "mask": cond["mask"]},
    )
    x_t, t = noise_for(digits_teacher, 3), torch.rand(3)
    clean, dirty = (digits_teacher.velocity(x_t, t, c) for c in (cond, spoilt))
    torch.testing.assert_close(clean, dirty, atol=1e-6, rtol=1e-5)


def test_an_instruction_prefixes_prompts_but_not_the_empty_one(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    """As large SANA models use it ("complex human instruction"), against the stock pipeline."""
    TeacherNotes(
        {**digits_teacher.call_arguments, "complex_human_instruction": ["the number", "of a"]}
    ).save(tmp_path)
    instructed = PipelineTeacher("x", digits_teacher.pipeline, digits_teacher.family, tmp_path)
    assert not torch.equal(
        instructed.encode(PROMPTS)["embeds"], digits_teacher.encode(PROMPTS)["embeds"]
    )
    assert torch.equal(instructed.uncond()["embeds"], digits_teacher.uncond()["embeds"])
    noise = noise_for(instructed, len(PROMPTS))
    theirs = stock(instructed, noise, 4.5, "latent")
    torch.testing.assert_close(ours(instructed, noise, 4.5), theirs, atol=1e-5, rtol=0)


def test_a_patch_is_the_grid_of_the_transformers_tokens(teacher: PipelineTeacher) -> None:
    tokens: list[int] = []

    def seen(block: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        tokens.append((inputs[0] if inputs else named["hidden_states"]).shape[1])

    network = copy.deepcopy(teacher.network)
    next(network.blocks()).register_forward_pre_hook(seen, with_kwargs=True)
    network(noise_for(teacher, 3), torch.rand(3), teacher.encode(PROMPTS))
    patch = teacher.family.pixels_per_patch(teacher.pipeline)
    assert tokens == [(teacher.resolution // patch) ** 2]


def test_another_resolution_is_a_setting(teacher: PipelineTeacher) -> None:
    """Sizes that patches do not divide, or beyond the known positions, name the nearest."""
    native, folder = teacher.resolution, teacher.folder
    step = teacher.family.size_multiple(teacher.pipeline)
    with pytest.raises(RequestError, match=rf"need a multiple of {step}\. Nearest: {native}\."):
        load_pipeline_teacher("x", folder, call={"height": native + 1, "width": native + 1})
    with pytest.raises(RequestError, match="only square ones"):
        load_pipeline_teacher("x", folder, call={"width": 2 * native})
    largest = teacher.family.largest_resolution(teacher.pipeline)
    size = {"height": 2 * native, "width": 2 * native}
    if largest is not None:
        with pytest.raises(RequestError, match=f"positions up to {largest}"):
            load_pipeline_teacher("x", folder, call=size)
        return
    larger = load_pipeline_teacher("x", folder, call=size)
    channels, height, width = teacher.latent_shape
    assert larger.latent_shape == (channels, 2 * height, 2 * width)
    noise = noise_for(larger, len(PROMPTS))
    theirs = stock(larger, noise, 1.0, "latent")
    torch.testing.assert_close(ours(larger, noise, 1.0), theirs, atol=1e-5, rtol=0)
