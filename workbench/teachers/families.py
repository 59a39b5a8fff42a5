"""The pipeline classes that can be teachers."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.teachers.family import Family
from workbench.teachers.sana import SanaFamily

FAMILIES: Mapping[str, Family] = {family.pipeline_class: family for family in (SanaFamily(),)}
"""``_class_name`` in a pipeline's model_index.json -> its family."""
