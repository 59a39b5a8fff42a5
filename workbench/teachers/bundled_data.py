"""The data sets that come with the package. The one place that names them."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.teachers.digits import DIGITS
from workbench.teachers.labelled_images import LabelledImages

BUNDLED: Mapping[str, LabelledImages] = {data.name: data for data in (DIGITS,)}
"""Name -> data: a source of prompts, of pairs, a reference, and what small teachers learn from."""
