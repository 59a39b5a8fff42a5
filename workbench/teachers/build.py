"""Builds an embedded teacher once for each recipe and keeps it in the workspace."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from workbench.data.labeled import LabeledImages
from workbench.pretrained import bundled_folder, checked_hash
from workbench.teachers.analytic import MixtureRecipe, build_mixture, is_analytic
from workbench.teachers.folder import MODEL_INDEX, TeacherNotes, quiet_libraries
from workbench.teachers.pretrain import (
    Progress,
    PromptedLatents,
    pretrain,
    silent,
    train_autoencoder,
)
from workbench.teachers.principal_components import fit_principal_components
from workbench.teachers.recipe import PrincipalComponentsRecipe, TinyRecipe


def recipe_folder(name: str, recipe: TinyRecipe | MixtureRecipe, teachers_dir: Path) -> Path:
    """Where the teacher of a recipe is kept, built or not."""
    return Path(teachers_dir) / f"{name}-{recipe.hash}"


def is_built(folder: Path) -> bool:
    """Whether a teacher is built: folders appear by a rename, so one that exists is complete."""
    return (folder / MODEL_INDEX).is_file() or is_analytic(folder)


def shipped_folder(name: str, recipe: TinyRecipe | MixtureRecipe) -> Path | None:
    """The teacher of exactly this recipe as it comes with the package, else None.

    Raises:
        RequestError: its files are damaged.
    """
    folder = bundled_folder(Path(name))
    if folder is None:
        return None
    checked_hash(folder)
    known = TeacherNotes.load(folder).origin.get("recipe")
    return folder if known == recipe.model_dump(mode="json") else None


def build_from_recipe(
    name: str,
    recipe: TinyRecipe | MixtureRecipe,
    teachers_dir: Path,
    show: Progress = silent,
    data: LabeledImages | None = None,
) -> Path:
    """The folder of the teacher, built if it is missing; safe against a second process.

    Args:
        data: what a pipeline learns from; a mixture needs none.

    Raises:
        OSError: the folder cannot be written.
    """
    from filelock import FileLock

    folder = recipe_folder(name, recipe, teachers_dir)
    if is_built(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not is_built(folder):
            shutil.rmtree(partial, ignore_errors=True)  # of a build that was killed
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(recipe, MixtureRecipe):
                build_mixture(recipe, partial, show)
            elif data is not None:
                build_tiny(recipe, data, partial, show)
            else:
                raise ValueError(f"{name} is a pipeline: it needs data to learn from")
            partial.rename(folder)
    return folder


def build_tiny(
    recipe: TinyRecipe, learnt: LabeledImages, folder: Path, show: Progress = silent
) -> None:
    """Train a small pipeline on images and save it; torch's random state is left alone."""
    from workbench.teachers.families import FAMILIES
    from workbench.teachers.tiny import tiny_arguments, tiny_pipeline

    began = time.perf_counter()
    family, stored = FAMILIES[recipe.pipeline], tiny_arguments(recipe)
    images, labels = learnt.images(recipe.image_size), learnt.labels
    with torch.random.fork_rng(devices=[]), quiet_libraries():
        torch.manual_seed(recipe.seed)
        pipeline = tiny_pipeline(recipe, learnt.prompts)
        arguments = family.call_arguments(pipeline, stored)
        if isinstance(recipe.autoencoder, PrincipalComponentsRecipe):
            fit_principal_components(pipeline.vae, images)
        else:
            train_autoencoder(pipeline.vae, images, recipe.autoencoder, show)
        with torch.no_grad():
            latents = [family.encode_images(pipeline, part) for part in torch.split(images, 256)]
            prompts = family.encode(pipeline, learnt.prompts, arguments)
            empty = family.uncond(pipeline, arguments)
        data = PromptedLatents(
            torch.cat(latents), labels, prompts.cat([prompts, empty]), learnt.wordings
        )
        pretrain(family.network(pipeline, arguments), data, recipe.pretraining, show)
        if recipe.stored == "bf16":
            pipeline.to(torch.bfloat16)
        pipeline.save_pretrained(folder)
    seconds = time.perf_counter() - began
    TeacherNotes(stored, {"recipe": recipe.model_dump(mode="json"), "seconds": seconds}).save(
        folder
    )
