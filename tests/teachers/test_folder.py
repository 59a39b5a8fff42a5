"""Damaged and foreign folders: refused before anything is loaded, naming the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from workbench.errors import RequestError
from workbench.teachers import PipelineTeacher, load_pipeline_teacher, load_teacher

WEIGHTS = "diffusion_pytorch_model.safetensors"


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def pickled(path: Path) -> None:
    path.rename(path.with_suffix(".bin"))


def edit_index(folder: Path, name: str, value: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index[name] = value
    (folder / "model_index.json").write_text(json.dumps(index))


def drop_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop("proj_out.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def widen(path: Path) -> None:
    config = json.loads(path.read_text())
    config["num_attention_heads"] += 1
    path.write_text(json.dumps(config))


def name_shard(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"weight_map": {"proj_out.weight": "model-00002-of-00002.safetensors"}})
    )


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
    "cut index": (lambda f: cut(f / "model_index.json"), r"model_index\.json is damaged"),
    "index is a list": (
        lambda f: (f / "model_index.json").write_text("[]"),
        r"model_index\.json is damaged",
    ),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "has no folder vae"),
    "no vae entry": (lambda f: edit_index(f, "vae", [None, None]), "names no vae"),
    "no config": (lambda f: (f / "transformer" / "config.json").unlink(), "transformer has none"),
    "cut config": (lambda f: cut(f / "vae" / "config.json"), r"vae/config\.json is damaged"),
    "no weights": (lambda f: (f / "vae" / WEIGHTS).unlink(), r"vae has no \.safetensors"),
    "cut weights": (
        lambda f: cut(f / "transformer" / WEIGHTS),
        rf"transformer/{WEIGHTS} is damaged",
    ),
    "empty weights": (
        lambda f: (f / "transformer" / WEIGHTS).write_bytes(b""),
        rf"transformer/{WEIGHTS} is damaged",
    ),
    "pickled weights": (lambda f: pickled(f / "vae" / WEIGHTS), "can run code"),
    "a tensor is missing": (
        lambda f: drop_tensor(f / "transformer" / WEIGHTS),
        r"lack 1 tensors, first 'proj_out\.weight'",
    ),
    "weights of another size": (
        lambda f: widen(f / "transformer" / "config.json"),
        "Cannot load the teacher",
    ),
    "a shard is missing": (lambda f: name_shard(f / "transformer"), "00002-of-00002"),
    "no vocabulary": (
        lambda f: (f / "tokenizer" / "tokenizer.json").unlink(),
        r"tokenizer has none of tokenizer\.json",
    ),
    "cut vocabulary": (
        lambda f: cut(f / "tokenizer" / "tokenizer.json"),
        r"tokenizer\.json is damaged",
    ),
    "cut notes": (lambda f: cut(f / "teacher.json"), r"teacher\.json is damaged"),
    "foreign code": (
        lambda f: edit_index(f, "transformer", ["my_module", "MyTransformer"]),
        "'my_module'",
    ),
    "unsupported pipeline": (
        lambda f: edit_index(f, "_class_name", "StableDiffusionPipeline"),
        "Unknown pipeline class 'StableDiffusionPipeline'.*Known: FluxPipeline, SanaPipeline",
    ),
    "unnamed pipeline": (lambda f: edit_index(f, "_class_name", None), "Known: FluxPipeline"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_names_what_is_wrong(
    damage: str, digits_teacher_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(digits_teacher_dir, folder)
    spoil, message = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(RequestError, match=message) as refused:
        load_teacher(str(folder), tmp_path)
    assert "\n" not in str(refused.value)


def test_an_untouched_copy_loads_by_its_path(
    digits_teacher: PipelineTeacher, digits_teacher_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(digits_teacher_dir, tmp_path / "teacher")
    copied = load_teacher(str(tmp_path / "teacher"), tmp_path)
    assert copied.fingerprint == digits_teacher.fingerprint
    assert copied.call_arguments == digits_teacher.call_arguments


def test_the_fingerprint_follows_the_weights(
    digits_teacher: PipelineTeacher, digits_teacher_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(digits_teacher_dir, folder)
    file = folder / "transformer" / WEIGHTS
    tensors = load_file(file)
    tensors["proj_out.weight"][0, 0] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    assert load_pipeline_teacher("x", folder).fingerprint != digits_teacher.fingerprint
