"""Teachers: frozen text-to-image networks as one velocity, and the embedded one built here."""

from __future__ import annotations

from workbench.teachers._torchvision import prepare_torchvision
from workbench.teachers.base import (
    Conditioning,
    OwnVelocity,
    VelocityNetwork,
)
from workbench.teachers.build import build_from_recipe, recipe_folder
from workbench.teachers.catalog import (
    KNOWN_TEACHERS,
    build_teacher,
    built_folder,
    find_teacher,
    load_teacher,
    teacher_call,
    teacher_overview,
)
from workbench.teachers.families import FAMILIES
from workbench.teachers.guidance import denoise, sample_teacher
from workbench.teachers.pipeline import PipelineTeacher, load_pipeline_teacher
from workbench.teachers.pretrain import Progress
from workbench.teachers.recipe import TinyRecipe

prepare_torchvision()  # before anything imports diffusers, whose pipelines import torchvision

__all__ = [
    "FAMILIES",
    "KNOWN_TEACHERS",
    "Conditioning",
    "OwnVelocity",
    "PipelineTeacher",
    "Progress",
    "TinyRecipe",
    "VelocityNetwork",
    "build_from_recipe",
    "build_teacher",
    "built_folder",
    "denoise",
    "find_teacher",
    "load_pipeline_teacher",
    "load_teacher",
    "recipe_folder",
    "sample_teacher",
    "teacher_call",
    "teacher_overview",
]
