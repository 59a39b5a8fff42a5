"""Exported students: stock diffusers, in a process without workbench, draws their images."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.cli.exports import (
    BRIEF,
    LORA,
    PROMPT,
    SETTINGS,
    TRAJECTORY,
    WITHOUT_TORCHVISION,
    Drawn,
    Exports,
    Quiet,
    assert_plain_call,
    assert_step_counts,
    draw,
    guidance,
    without_workbench,
)
from tests.conftest import SMALL_RECIPES
from workbench.data.bundled import BUNDLED
from workbench.evaluation.digits_classifier import load_or_train
from workbench.runs.start import keep_start, load_start
from workbench.students.models import LoadedModel, load_model
from workbench.students.student import weights_fingerprint
from workbench.teachers import VelocityNetwork, build_from_recipe, load_pipeline_teacher
from workbench.training.config import RunConfig, load_config
from workbench.training.overrides import with_overrides
from workbench.workspace import open_workspace

KEEP = ("training.kimg=0.032", "schedule.keep_checkpoints=9", "evaluation.seed=1")
LORA5 = LORA.replace("4", "5")
RUN_PROGRAMS = """
import json, os, sys
import torch, diffusers, transformers

torch.set_num_threads(1)
for name, programs in json.load(sys.stdin).items():
    for number, program in enumerate(programs):
        child = os.fork()
        if not child:
            os.mkdir(f"{name}-{number}")
            os.chdir(f"{name}-{number}")
            exec(compile(program, name, "exec"), {"__name__": "__main__"})
            os._exit("workbench" in sys.modules)
        assert not os.waitpid(child, 0)[1], program
"""
"""Each program in a process and a folder of its own, which begin before any name is bound."""


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory,
    teacher_folders: Callable[[str], Path],
    evaluation_cache: Path,
) -> Exports:
    """A student of every family."""
    root = tmp_path_factory.mktemp("exports")
    workbench = Quiet(root / "workspace", teacher_folders("SanaPipeline"))
    shutil.copytree(evaluation_cache, open_workspace(workbench.workspace).cache)
    for name in SMALL_RECIPES:
        workbench(*workbench.brief(name, *SETTINGS[name], teacher=teacher_folders(name)))
        workbench("export", f"{name}/", str(root / name))
    return Exports(workbench, root, teacher_folders)


@pytest.fixture(scope="module")
def drawn(exports: Exports) -> Mapping[str, Drawn]:
    return draw(exports, list(SMALL_RECIPES))


@pytest.mark.parametrize("name", SMALL_RECIPES)
def test_the_plain_call_draws_the_students_images(
    exports: Exports, drawn: Mapping[str, Drawn], name: str
) -> None:
    assert_plain_call(exports, drawn, name)


@pytest.mark.parametrize("name", SMALL_RECIPES)
def test_every_step_count_of_the_student_is_right_and_others_are_refused(
    exports: Exports, drawn: Mapping[str, Drawn], name: str
) -> None:
    assert_step_counts(exports, drawn, name)


def test_each_program_of_a_card_runs_alone(exports: Exports, tmp_path: Path) -> None:
    """Complete, writing one file that no other one of the card writes, of the right image."""
    cards = {name: (exports.root / name / "README.md").read_text() for name in SMALL_RECIPES}
    seeded = "import torch; torch.manual_seed(0)\nimage = pipe('"  # for the one that says no seed
    programs: dict[str, list[str]] = {}
    for name, card in cards.items():
        assert str(exports.root) not in card
        places = {
            f'folder = "{name}"': f'folder = "{exports.root / name}"',
            f'teacher = "{exports.folders(name).name}"': f'teacher = "{exports.folders(name)}"',
            "image = pipe('": seeded,
        }
        programs[name] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert all(f'\nfolder = "{name}"  # this folder,' in text for text in programs[name])
        for said, meant in places.items():
            programs[name] = [text.replace(said, meant) for text in programs[name]]
    process = without_workbench(RUN_PROGRAMS, where=tmp_path, given=json.dumps(programs))
    assert process.returncode == 0, process.stderr
    for name, card in cards.items():
        steps = {"image.png": "4", "image_stock.png": "4"}
        if name != TRAJECTORY:
            steps["image_2_steps.png"] = "2"
        if LORA in SETTINGS[name]:
            steps["adapter.png"] = "4"
        drawn = {file.name: file for file in tmp_path.glob(f"{name}-*/*")}
        assert set(drawn) == set(steps)
        assert len(programs[name]) == len(steps)
        prompt = re.search(r"pipe\('(.*)'\)", card)
        assert prompt is not None
        for file_name, count in steps.items():
            out = tmp_path / "own" / name / file_name
            one = ("--prompt", prompt[1], "--steps", count, "--files", "--out", str(out))
            exports.workbench("sample", f"{name}/", *one)
            (own,) = out.iterdir()
            both = [np.asarray(Image.open(file)).astype(int) for file in (own, drawn[file_name])]
            assert np.abs(both[0] - both[1]).max() <= 1, (name, file_name)


def test_the_folders_code_needs_a_flag_or_an_import_and_the_stock_class_warns(
    exports: Exports,
) -> None:
    """What the card says of opening the folder otherwise."""
    code = """
import diffusers, sys
folder = sys.argv[1]
try:
    diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline="sana_student")
except ValueError as refusal:
    assert "trust_remote_code=True" in str(refusal), refusal
else:
    raise AssertionError("the card's sentence on the two arguments is not true any more")
stock = diffusers.DiffusionPipeline.from_pretrained(folder)
assert type(stock) is diffusers.SanaPipeline
sys.path.insert(0, folder)
from sana_student import StudentPipeline
print(StudentPipeline.from_pretrained(folder)("the digit 3").images[0].size)
"""
    process = without_workbench(code, str(exports.root / "SanaPipeline"), where=exports.root)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "(32, 32)"
    assert "The config attributes {'student': {" in process.stderr
    assert 'custom_pipeline="sana_student", trust_remote_code=True' in process.stderr


def test_the_plain_call_draws_the_digit_that_is_asked_for(
    exports: Exports, teachers_folder: Path, evaluation_cache: Path
) -> None:
    """A teacher that has learnt to read, as its own student of eight Euler steps."""
    small = SMALL_RECIPES["SanaPipeline"]
    training = small.pretraining.model_copy(update={"steps": 1200})
    longer = small.model_copy(update={"pretraining": training})
    reader = build_from_recipe("tests-reader", longer, teachers_folder, data=BUNDLED["digits"])
    itself = ("training.optimizers.generator.lr=1e-12", "training.kimg=0.016")
    steps = ("generator.steps=8", "generator.noise=ddim", "evaluation.student_steps=[8]")
    exports.workbench(*exports.workbench.brief("reader", *itself, *steps, teacher=reader))
    exports.workbench("export", "reader/", str(exports.root / "reader"))
    code = """
import diffusers, numpy as np, torch
pipe = diffusers.DiffusionPipeline.from_pretrained(
    "reader", custom_pipeline="sana_student", trust_remote_code=True
)
torch.manual_seed(0)
images = [pipe(f"the digit {digit}", output_type="np").images[0] for digit in range(10)]
np.save("reader.npy", np.stack(images))
"""
    process = without_workbench(code, where=exports.root)
    assert process.returncode == 0, process.stderr
    images = torch.from_numpy(np.load(exports.root / "reader.npy")).permute(0, 3, 1, 2)
    judged = load_or_train(evaluation_cache).log_probabilities(images).argmax(dim=1)
    assert (judged == torch.arange(10)).sum() >= 8, judged


def test_a_student_of_a_trajectory_is_used_with_all_its_steps(exports: Exports) -> None:
    card = (exports.root / TRAJECTORY / "README.md").read_text()
    assert "The first 2 of its 4 steps" not in card
    assert "makes samples only after all its 4 steps" in card
    other = (exports.root / "SanaPipeline/README.md").read_text()
    assert "The first 2 of its 4 steps" in other
    assert "only after" not in other
    for model in (f"{TRAJECTORY}/", str(exports.root / TRAJECTORY)):
        sample = ("sample", model, "--steps", "2", "--out", str(exports.root / "partial.png"))
        for use in (sample, ("evaluate", model, "--steps", "4,2,1")):
            refused = exports.workbench(*use, code=2)
            assert "makes samples only after all its 4 steps, not after 2." in refused.stderr
            assert len(refused.stderr.strip().splitlines()) == 1
        fresh = ("sample", model, "--noise", "fresh", "--out", str(exports.root / "partial.png"))
        refused = exports.workbench(*fresh, code=2)
        assert "makes samples with noise ddim, not fresh." in refused.stderr


def test_a_method_of_pairs_alone_names_no_other_prompts(exports: Exports) -> None:
    assert exports.learnt_from("SanaPipeline") == ["prompts"]
    assert exports.learnt_from("FluxPipeline") == ["pairs"]


def test_the_card_tells_what_it_is(exports: Exports) -> None:
    name = "SanaPipeline"
    card = (exports.root / name / "README.md").read_text()
    front = card.split("---\n")[1]
    results = json.loads(
        next(exports.workbench.workspace.glob(f"runs/{name}/*/results.json")).read_text()
    )
    assert {line.partition(":")[0] for line in front.splitlines()} >= {
        "library_name",
        "pipeline_tag",
        "base_model",
        "tags",
    }
    for row in results["table"]:
        assert f"| {row['fid']:.4g} |" in card
        assert row["fingerprint"]["id"] in card
    assert results["teacher"]["fingerprint"] in card
    assert "| `generator.flow_shift` | `3.0` |" in card
    assert "sigmas 1, 0.9, 0.75, 0.5, with new noise at each step" in card
    assert "Checked at the export: 4 images" in card
    assert WITHOUT_TORCHVISION.strip() in card
    flux = (exports.root / "FluxPipeline" / "README.md").read_text()
    assert "`guidance_scale=2.5` is what the student was trained with" in flux
    assert f'base_model: "{exports.folders(name).name}"' in front
    assert "rank 4 and alpha 8" in (exports.root / "StableDiffusion3Pipeline/README.md").read_text()


def test_the_adapter_alone_makes_the_teacher_the_student(exports: Exports) -> None:
    name = "StableDiffusion3Pipeline"
    teacher = load_pipeline_teacher("teacher", exports.folders(name))
    student = load_pipeline_teacher("student", exports.root / name)
    x_t, t = torch.randn(2, *teacher.latent_shape), torch.tensor([1.0, 0.5])
    cond = teacher.encode([PROMPT]).expand(2)
    with torch.no_grad():
        expected = student.velocity(x_t, t, cond)
        assert (teacher.velocity(x_t, t, cond) - expected).abs().max() > 1e-3
        teacher.pipeline.load_lora_weights(exports.root / name / "adapter")
        torch.testing.assert_close(teacher.velocity(x_t, t, cond), expected, atol=1e-5, rtol=0)


def test_an_exported_folder_is_a_model_but_no_teacher(exports: Exports) -> None:
    folder = str(exports.root / "SanaSprintPipeline")
    scores = [
        exports.workbench.json("evaluate", model, "--samples", "20", "--metric", "fid")["table"]
        for model in (folder, "SanaSprintPipeline/")
    ]
    assert scores[0][0]["fid"] == pytest.approx(scores[1][0]["fid"], rel=1e-3)
    refused = exports.workbench("run", "quickstart", "--teacher", folder, code=2)
    assert "is a few-step student (student.json), not a teacher" in refused.stderr
    fid = ("--metric", "fid", "--reference", "digits")
    stock = ("evaluate", folder, "--stock", "--samples", "4", *fid, "--steps")
    refused = exports.workbench(*stock, "4,2", code=2)
    assert "at its trained times only with its own 4 steps, not with 2" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_copy_that_diffusers_has_saved_is_a_student(
    exports: Exports, drawn: Mapping[str, Drawn], tmp_path: Path
) -> None:
    """With the record, and by its model_index.json alone."""
    copied = exports.root / "SanaPipeline-again"
    fid = ("--metric", "fid", "--reference", "digits")
    for name in ("student.json", "README.md", "sana_student.py"):
        assert (copied / name).read_text() == (exports.root / "SanaPipeline" / name).read_text()
    bare = tmp_path / "bare"
    shutil.copytree(copied, bare)
    (bare / "student.json").unlink()
    for folder, file in ((copied, "student.json"), (bare, "model_index.json")):
        refused = exports.workbench("run", "quickstart", "--teacher", str(folder), code=2)
        assert f"is a few-step student ({file}), not a teacher" in refused.stderr
        stock = ("evaluate", str(folder), "--stock", "--samples", "4", *fid)
        refused = exports.workbench(*stock, "--steps", "2", code=2)
        assert "only with its own 4 steps, not with 2" in refused.stderr


def test_bf16_halves_the_weights_and_says_so(exports: Exports, tmp_path: Path) -> None:
    exports.workbench("export", "SanaPipeline/", str(tmp_path / "half"), "--precision", "bf16")
    stored = load_file(tmp_path / "half/transformer/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    card = (tmp_path / "half/README.md").read_text()
    assert " dtype=torch.bfloat16" in card
    assert str(tmp_path) not in card
    assert [path.name for path in tmp_path.iterdir()] == ["half"], "nothing is left aside"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("SanaPipeline/", "USED"), "is not empty; an export needs a new or an empty folder."),
        (("SanaPipeline/", "FILE"), "is a file; an export needs a new or an empty folder."),
        (("SanaPipelne/", "NEW"), "Unknown run 'SanaPipelne/'. Did you mean 'SanaPipeline/"),
        (("digits-sana", "NEW"), "digits-sana is a teacher, not a student"),
        (("TEACHER", "NEW"), "is a teacher, not a student: name a run or an exported"),
        (("EXPORTED", "NEW"), "is an exported student already; name a run."),
        (("SanaPipeline/", "NEW", "--precision", "fp8"), "'fp8' is not one of 'fp32', 'bf16'"),
        (("SanaPipeline/@9", "NEW"), "no whole checkpoint at 9 kimg (it is not there). Kept: "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    exports: Exports, tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    (tmp_path / "USED").mkdir()
    (tmp_path / "USED/notes.txt").write_text("mine")
    (tmp_path / "FILE").write_text("mine")
    places = {name: str(tmp_path / name) for name in ("USED", "FILE", "NEW")}
    places["TEACHER"] = str(exports.folders("SanaPipeline"))
    places["EXPORTED"] = str(exports.root / "SanaPipeline")
    given = [places.get(argument, argument) for argument in arguments]
    refused = exports.workbench("export", *given, code=2)
    assert line in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "USED"]
    assert [path.name for path in (tmp_path / "USED").iterdir()] == ["notes.txt"]


def test_noise_that_no_scheduler_has_is_refused_but_for_one_step(
    exports: Exports, tmp_path: Path
) -> None:
    fixed = ("generator.noise=fixed", "training.kimg=0.016")
    exports.workbench(*exports.workbench.brief("fixed", *fixed))
    refused = exports.workbench("export", "fixed/", str(tmp_path / "out"), code=2)
    assert "noise=fixed, which no stock scheduler has" in refused.stderr
    one = ("generator.steps=1", "evaluation.student_steps=[1]")
    exports.workbench(*exports.workbench.brief("once", *fixed, *one))
    exports.workbench("export", "once/", str(tmp_path / "out"))


def told(exports: Exports, name: str, source: str) -> LoadedModel:
    """The source of a start as a model: "EXPORTED", or a run."""
    place = open_workspace(exports.workbench.workspace)
    return load_model(place, str(exports.root / name) if source == "EXPORTED" else source)


def assert_same_generator(ours: VelocityNetwork, theirs: LoadedModel) -> None:
    """Equal velocities, whatever the weights are called; not the ones of an untrained teacher."""
    x_t, t = torch.randn(2, *theirs.teacher.latent_shape), torch.tensor([1.0, 0.5])
    cond = theirs.teacher.encode([PROMPT]).expand(2)
    networks = [copy.deepcopy(network) for network in (ours, theirs.network)]
    for network in networks:
        if network.distilled_guidance is not None:
            network.distilled_guidance = 2.5  # what guidance() trains with
    with torch.no_grad():
        mine, expected = (network(x_t, t, cond) for network in networks)
    torch.testing.assert_close(mine, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "source", "more"),
    [
        ("SanaPipeline", "SanaPipeline/", ()),
        ("SanaPipeline", "SanaPipeline/@0.032", ()),
        ("SanaPipeline", "EXPORTED", ()),
        ("SanaSprintPipeline", "SanaSprintPipeline/", ()),
        ("SanaSprintPipeline", "EXPORTED", ()),
        ("StableDiffusion3Pipeline", "StableDiffusion3Pipeline/", (LORA,)),
        ("StableDiffusion3Pipeline", "EXPORTED", (LORA,)),
        ("StableDiffusion3Pipeline", "StableDiffusion3Pipeline/", ()),
        ("StableDiffusion3Pipeline", "EXPORTED", ()),
        ("FluxPipeline", "EXPORTED", ()),
    ],
)
def test_the_generator_that_is_told_is_kept(
    exports: Exports, tmp_path: Path, name: str, source: str, more: tuple[str, ...]
) -> None:
    where = str(exports.root / name) if source == "EXPORTED" else source
    settings = [
        f"teacher={exports.folders(name)}",
        f"start={where}",
        *BRIEF,
        *guidance(name),
        *more,
    ]
    config = with_overrides(RunConfig(), settings)
    keep_start(open_workspace(exports.workbench.workspace), config, Path(config.teacher), tmp_path)
    teacher = load_pipeline_teacher("teacher", exports.folders(name))
    start = load_start(config, tmp_path, teacher)
    assert start is not None
    assert_same_generator(start.network, told(exports, name, source))
    with pytest.raises(AssertionError):
        assert_same_generator(teacher.network, told(exports, name, source))
    assert start.weights == weights_fingerprint(start.network.state_dict())
    assert start.source.endswith(" at 0.032 kimg" if "@" in source else " at 0.064 kimg")


@pytest.mark.parametrize(
    ("name", "more"), [("SanaSprintPipeline", ()), ("StableDiffusion3Pipeline", (LORA,))]
)
def test_a_run_starts_there_and_resumes_when_the_source_is_gone(
    exports: Exports, tmp_path: Path, name: str, more: tuple[str, ...]
) -> None:
    """The average begins at the source; results name it; a second process needs only the copy."""
    shutil.copytree(exports.root / name, tmp_path / "source")
    settings = (*KEEP, *more, f"start={tmp_path / 'source'}")
    run = exports.workbench.brief(f"from-{name}", *settings, teacher=exports.folders(name))
    exports.workbench(*run)
    (folder,) = (
        f.parent for f in exports.workbench.workspace.glob(f"runs/from-{name}/*/config.json")
    )
    began = told(exports, name, f"from-{name}/@0").network
    assert_same_generator(began, told(exports, name, "EXPORTED"))
    results = json.loads((folder / "results.json").read_text())
    assert results["start"]["source"] == f"{tmp_path / 'source'} at 0.064 kimg"
    assert results["start"]["weights"] == weights_fingerprint(began.state_dict())
    ended = told(exports, name, f"from-{name}/").network.state_dict()
    shutil.rmtree(tmp_path / "source")
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "checkpoints/nimg-000000000032")
    exports.workbench(*run)
    again = told(exports, name, f"from-{name}/").network.state_dict()
    assert all(torch.equal(again[key], ended[key]) for key in ended)


def test_other_weights_of_the_same_name_are_another_start(exports: Exports, tmp_path: Path) -> None:
    """Checkpoints belong to the weights that a run began with, not to their source's name."""
    run = exports.workbench.brief("swapped", *KEEP, "start=SanaPipeline/@0.032")
    exports.workbench(*run)
    (folder,) = (f.parent for f in exports.workbench.workspace.glob("runs/swapped/*/config.json"))
    config = load_config(folder / "config.json")
    (folder / "results.json").unlink()
    (folder / "start.safetensors").unlink()
    other = config.model_copy(update={"start": "SanaPipeline/@0.064"})
    keep_start(open_workspace(exports.workbench.workspace), other, Path(other.teacher), folder)
    refused = exports.workbench(*run, code=2)
    assert "belong to another recipe or teacher" in refused.stderr


@pytest.mark.parametrize(
    ("name", "start", "more", "line"),
    [
        ("SanaPipeline", "SanaPipelne/", (), "Unknown run 'SanaPipelne/'. Did you mean"),
        ("SanaPipeline", "digits-sana", (), "digits-sana is a teacher, not a student"),
        ("SanaPipeline", "SanaPipeline/@7", (), "no whole checkpoint at 7 kimg"),
        ("SanaPipeline", "FluxPipeline/", (), "has another architecture than the teacher"),
        ("SanaPipeline", "SanaSprintPipeline/", (), "guidance_embeds is True, not False"),
        ("SanaSprintPipeline", "SanaPipeline/", (), "guidance_embeds is False, not True"),
        ("SanaPipeline", "SPRINT", (), "qk_norm is 'rms_norm_across_heads', not None"),
        ("SanaPipeline", "SanaPipeline/", (LORA,), "has training.lora=null, this run"),
        ("StableDiffusion3Pipeline", "StableDiffusion3Pipeline/", (LORA5,), "rank=4"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(
    exports: Exports, name: str, start: str, more: tuple[str, ...], line: str
) -> None:
    where = start.replace("SPRINT", str(exports.root / "SanaSprintPipeline"))
    run = exports.workbench.brief("refused", *more, f"start={where}", teacher=exports.folders(name))
    refused = exports.workbench(*run, code=2)
    assert line in refused.stderr
    assert not list(exports.workbench.workspace.glob("runs/refused/[!.]*"))
