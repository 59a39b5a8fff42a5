"""The base of every settings class."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenConfig(BaseModel):
    """Settings that are validated on creation, refuse unknown keys and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
