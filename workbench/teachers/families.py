"""The pipeline classes that can be teachers."""

from __future__ import annotations

from workbench.lookup import Lookup
from workbench.teachers.family import Family
from workbench.teachers.flux import FluxFamily
from workbench.teachers.sana import SanaFamily, SprintFamily
from workbench.teachers.sd3 import SD3Family

_ALL: tuple[Family, ...] = (SanaFamily(), SprintFamily(), SD3Family(), FluxFamily())

FAMILIES = Lookup("pipeline class", {family.pipeline_class: family for family in _ALL})
"""``_class_name`` in a pipeline's model_index.json -> its family."""
