"""A student as a stock pipeline: the plain call against workbench's own sampler."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.methods import FewStepSampler, GeneratorConfig, step_times
from workbench.teachers import FAMILIES, PipelineTeacher, VelocityNetwork, load_pipeline_teacher
from workbench.teachers.student_pipeline import (
    STUDENT_RECORD,
    check_not_student,
    is_student,
    plain_module,
    plain_pipeline,
    plain_pipeline_source,
    stock_noise,
    student_call,
    student_pipeline,
    student_scheduler,
)

PROMPT = "the digit 7"
GUIDANCE = 2.5


@pytest.fixture
def student(family_teacher: PipelineTeacher) -> VelocityNetwork:
    """The teacher's network pushed off its weights, as training would, guidance included."""
    network = copy.deepcopy(family_teacher.network)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    if network.distilled_guidance is not None:
        network.distilled_guidance = GUIDANCE
    return network


def config(noise: str, steps: int = 4, flow_shift: float = 1.0) -> GeneratorConfig:
    return GeneratorConfig(
        noise=noise, steps=steps, flow_shift=flow_shift, distilled_guidance=GUIDANCE
    )


def ours(
    teacher: PipelineTeacher, network: VelocityNetwork, settings: GeneratorConfig, seed: int
) -> Tensor:
    noise = stock_noise(teacher.family, seed, teacher.latent_shape, settings.steps)
    cond = teacher.encode([PROMPT])
    with torch.no_grad():
        latents = FewStepSampler(settings).sample(network, cond, noise.__getitem__, settings.steps)
    return teacher.decode(latents)


def stock(
    teacher: PipelineTeacher, network: VelocityNetwork, settings: GeneratorConfig, seed: int
) -> tuple[Tensor, int]:
    """The image of the plain call, and how often it ran the transformer."""
    scheduler = student_scheduler(
        teacher.family, settings.steps, settings.flow_shift, settings.noise == "fresh"
    )
    pipeline = student_pipeline(teacher, network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    hook = pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(seed)
    call = student_call(teacher, pipeline, settings.steps, settings.distilled_guidance)
    image: Tensor = pipeline(PROMPT, output_type="pt", **call).images
    hook.remove()
    return image, len(calls)


@pytest.mark.parametrize(
    "settings",
    [
        config("fresh"),
        config("ddim"),
        config("fresh", flow_shift=3.0),
        config("ddim", steps=3, flow_shift=0.5),
        config("fixed", steps=1),
    ],
    ids=str,
)
def test_the_plain_call_draws_the_students_image(
    family_teacher: PipelineTeacher, student: VelocityNetwork, settings: GeneratorConfig
) -> None:
    theirs, calls = stock(family_teacher, student, settings, 11)
    assert calls == settings.steps
    assert theirs.std() > 0.01
    torch.testing.assert_close(
        theirs, ours(family_teacher, student, settings, 11), atol=1e-4, rtol=0
    )
    other = ours(family_teacher, student, settings, 12)
    assert (theirs - other).abs().max() > 1e-2, "the seed matters"


def test_noise_type_and_shift_matter(
    family_teacher: PipelineTeacher, student: VelocityNetwork
) -> None:
    """So the test above could fail."""
    images = [
        ours(family_teacher, student, settings, 11)
        for settings in (config("fresh"), config("ddim"), config("fresh", flow_shift=3.0))
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (images[a] - images[b]).abs().max() > 1e-3


def test_the_transformer_alone_is_the_network(
    family_teacher: PipelineTeacher, student: VelocityNetwork
) -> None:
    """Exactly, for every t: guidance that the stock call does not pass is in the weights."""
    pipeline = student_pipeline(
        family_teacher, student, student_scheduler(family_teacher.family, 4, 1.0, True)
    )
    exported = FAMILIES[type(pipeline).__name__].network(
        pipeline, {**family_teacher.call_arguments, "guidance_scale": GUIDANCE}
    )
    x_t, t = torch.randn(5, *family_teacher.latent_shape), torch.linspace(0, 1, 5)
    cond = family_teacher.encode([PROMPT]).expand(5)
    with torch.no_grad():
        velocity = student(x_t, t, cond)
        torch.testing.assert_close(exported(x_t, t, cond), velocity, atol=2e-5, rtol=0)
        other = copy.deepcopy(student)
        if other.distilled_guidance is not None:
            other.distilled_guidance = 1.0
            assert (other(x_t, t, cond) - velocity).abs().max() > 1e-3


def test_an_exported_transformer_goes_back_into_the_teachers_architecture(
    family_teacher: PipelineTeacher, student: VelocityNetwork
) -> None:
    family = family_teacher.family
    exported = family.student_transformer(student).state_dict()
    back = copy.deepcopy(family_teacher.network)
    if back.distilled_guidance is not None:
        back.distilled_guidance = GUIDANCE
    back.module.load_state_dict(family.student_state(exported, back))
    x_t, t = torch.randn(3, *family_teacher.latent_shape), torch.tensor([1.0, 0.5, 0.25])
    cond = family_teacher.encode([PROMPT]).expand(3)
    with torch.no_grad():
        torch.testing.assert_close(back(x_t, t, cond), student(x_t, t, cond), atol=2e-5, rtol=0)


@pytest.mark.parametrize("flow_shift", [0.1, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_saved_settings_alone_give_the_students_times(
    family_teacher: PipelineTeacher, tmp_path: Path, steps: int, flow_shift: float
) -> None:
    family = family_teacher.family
    made = student_scheduler(family, steps, flow_shift, renoise=True)
    made.save_pretrained(tmp_path)
    scheduler = type(made).from_pretrained(tmp_path)
    given = (
        {"sigmas": [1 - i / steps for i in range(steps)]}
        if family.gives_sigmas
        else {"num_inference_steps": steps}
    )
    scheduler.set_timesteps(**given)
    times = step_times(steps, flow_shift)
    torch.testing.assert_close(scheduler.sigmas[:-1], times, atol=1e-5, rtol=0)
    torch.testing.assert_close(scheduler.timesteps, 1000 * times, atol=1e-2, rtol=0)
    assert scheduler.sigmas[-1] == 0
    assert scheduler.config.stochastic_sampling


def test_times_that_no_settings_give_are_refused() -> None:
    with pytest.raises(RequestError, match="50 step times of flow_shift 100"):
        student_scheduler(FAMILIES["SanaPipeline"], 50, 100.0, renoise=True)


def test_modules_of_one_name_are_the_same() -> None:
    """diffusers copies those of all folders into one, where they replace each other."""
    modules = {
        (plain_module(family), plain_pipeline_source(family)) for family in FAMILIES.values()
    }
    assert len(modules) == len({name for name, _ in modules}) == 3


def test_a_student_is_refused_as_a_teacher(tmp_path: Path) -> None:
    """By its record, or as a copy that diffusers has saved without one."""
    index = tmp_path / "model_index.json"
    check_not_student("plain", tmp_path)
    index.write_text('{"_class_name": "SanaPipeline", "student": null}')
    check_not_student("plain", tmp_path)
    index.write_text('{"_class_name": "SanaPipeline", "student": {"sigmas": [1.0]}}')
    with pytest.raises(RequestError, match=r"mine is a few-step student \(model_index.json\), not"):
        check_not_student("mine", tmp_path)
    (tmp_path / STUDENT_RECORD).write_text("{}")
    with pytest.raises(RequestError, match=r"mine is a few-step student \(student.json\), not a"):
        check_not_student("mine", tmp_path)


@pytest.fixture
def plain(family_teacher: PipelineTeacher, student: VelocityNetwork, tmp_path: Path) -> Any:
    """The module's pipeline of a student of four steps with new noise at each."""
    return made_plain(family_teacher, student, tmp_path)


def made_plain(teacher: PipelineTeacher, network: VelocityNetwork, folder: Path) -> Any:
    pipeline = student_pipeline(
        teacher, network, student_scheduler(teacher.family, 4, 3.0, renoise=True)
    )
    call = student_call(teacher, pipeline, 4, GUIDANCE)
    module = folder / f"{plain_module(teacher.family)}.py"
    module.write_text(plain_pipeline_source(teacher.family))
    told = {"call": call, "fewest_steps": 1, "sigmas": step_times(4, 3.0).tolist(), "renoise": True}
    return plain_pipeline(module, pipeline, told)


def drawn(pipeline: Any, prompt: str | list[str] = PROMPT, seed: int = 11, **given: Any) -> Tensor:
    torch.manual_seed(seed)
    images: Tensor = pipeline(prompt, output_type="pt", **given).images
    return images


@pytest.mark.parametrize(
    "other", [{"use_dynamic_shifting": True}, {"use_karras_sigmas": True}, {"shift": 7.0}], ids=str
)
def test_another_scheduler_does_not_bend_the_times(
    family_teacher: PipelineTeacher, student: VelocityNetwork, plain: Any, other: dict[str, Any]
) -> None:
    settings = config("fresh", flow_shift=3.0)
    expected = ours(family_teacher, student, settings, 11)
    swapped = type(plain.scheduler).from_config(plain.scheduler.config, **other)
    plain.scheduler = swapped
    torch.testing.assert_close(drawn(plain), expected, atol=1e-4, rtol=0)
    assert plain.scheduler is swapped


def test_the_plain_call_refuses_what_the_student_was_not_trained_for(plain: Any) -> None:
    cfg = "true_cfg_scale" if FAMILIES[type(plain).__name__].gives_sigmas else "guidance_scale"
    refused = {
        cfg: 4.5,
        "negative_prompt": "blurry",
        "negative_prompt_embeds": torch.zeros(1, 2, 3),
        "sigmas": [1.0, 0.5],
        "timesteps": [1000, 500],
    }
    for name, value in refused.items():
        with pytest.raises(ValueError, match=rf"^{name} is fixed by this student's training"):
            drawn(plain, **{name: value})
    for steps in (0, 5, 2.0, "4", None):
        with pytest.raises(ValueError, match=f"1 to 4 steps; num_inference_steps={steps!r} is"):
            drawn(plain, num_inference_steps=steps)
    kept = {**dict.fromkeys(("sigmas", "negative_prompt_embeds")), cfg: 1.0}
    assert torch.equal(drawn(plain, negative_prompt="", **kept), drawn(plain))
    bare = type(plain)(**plain.components)
    with pytest.raises(ValueError, match="No `student` in this pipeline's settings"):
        drawn(bare)


def test_a_saved_copy_is_a_student_with_its_record(plain: Any, tmp_path: Path) -> None:
    """Saved from its folder into another one, and into itself."""
    plain.save_pretrained(tmp_path / "bare")
    assert is_student(tmp_path / "bare")
    for name in (STUDENT_RECORD, "README.md"):
        (tmp_path / "bare" / name).write_text(name)
    plain.register_to_config(_name_or_path=str(tmp_path / "bare"))
    for place in ("again", "bare"):
        plain.save_pretrained(tmp_path / place)
        (module,) = (tmp_path / place).glob("*_student.py")
        assert (tmp_path / place / STUDENT_RECORD).read_text() == STUDENT_RECORD
        assert (tmp_path / place / "README.md").read_text() == "README.md"
        assert json.loads((tmp_path / place / "model_index.json").read_text())["student"]
        plain = plain_pipeline(module, plain, plain.config.student)
        plain.register_to_config(_name_or_path=str(tmp_path / place))
        plain.save_pretrained(tmp_path / place)


def test_a_batch_is_its_images_one_by_one(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    pipeline = made_plain(digits_teacher, digits_teacher.network, tmp_path)
    prompts, seeds = ["the digit 7", "the digit 2"], (3, 4)
    given = [torch.Generator().manual_seed(seed) for seed in seeds]
    single = [
        drawn(pipeline, prompt, generator=torch.Generator().manual_seed(seed))
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    both = drawn(pipeline, prompts, seed=99, generator=given)
    assert (both[0] - both[1]).abs().max() > 0.01
    torch.testing.assert_close(both, torch.cat(single), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "guided"),
    [
        ("FluxPipeline", {"true_cfg_scale": 3.0, "negative_prompt": ""}),
        (
            "StableDiffusion3Pipeline",
            {"guidance_scale": 5.0, "negative_prompt": "no", "skip_guidance_layers": [0]},
        ),
        ("SanaPipeline", {"guidance_scale": 5.0, "negative_prompt": "no"}),
    ],
)
def test_a_teachers_own_guidance_is_not_its_students(
    teacher_folders: Callable[[str], Path], name: str, guided: dict[str, Any]
) -> None:
    """Four evaluations of one row, however the teacher is called."""
    teacher = load_pipeline_teacher(name, teacher_folders(name), call=guided)
    seen: list[int] = []
    hook = teacher.network.module.register_forward_hook(
        lambda _, __, output: seen.append(len(output[0]))
    )
    _, calls = stock(teacher, teacher.network, config("ddim"), 11)
    hook.remove()
    assert (calls, seen) == (4, [1, 1, 1, 1])
