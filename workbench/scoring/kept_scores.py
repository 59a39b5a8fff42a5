"""Where ``workbench evaluate`` keeps scores: their names in MLflow, their files. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.workspace import Workspace

ARTIFACTS = "evaluations"
"""The workspace's folder of kept scores, and a run's folder of them in the tracking store."""

_PROTOCOL_DIGITS = 8
_KEY = re.compile(
    r"evaluation/(?P<reference>[^/]+)/(?P<metric>[^/]+)_(?P<steps>\d+)steps_"
    rf"(?P<protocol>[0-9a-f]{{{_PROTOCOL_DIGITS}}})(_seed(?P<seed>\d+))?"
)


@dataclass(frozen=True, order=True)
class ScoreName:
    """A logged score: what was measured against what, of how many steps, and how (``protocol``).

    ``seed`` is the evaluation seed; names of before do not end in it, whatever it was.
    """

    reference: str
    metric: str
    steps: int
    protocol: str
    seed: int = 0

    @property
    def key(self) -> str:
        """The MLflow metric: one name, one way of measuring, one noise."""
        how = f"{self.metric}_{self.steps}steps_{self.protocol}"
        return f"evaluation/{self.reference}/{how}" + (f"_seed{self.seed}" if self.seed else "")

    @property
    def of_any_seed(self) -> ScoreName:
        """The name without its evaluation seed: scores that compare have the same."""
        return replace(self, seed=0)

    @classmethod
    def parse(cls, key: str) -> ScoreName | None:
        """The name behind an MLflow metric; None for any other metric."""
        found = _KEY.fullmatch(key)
        if found is None:
            return None
        seed = int(found["seed"] or 0)
        return cls(
            found["reference"], found["metric"], int(found["steps"]), found["protocol"], seed
        )


def short_protocol(protocol: str) -> str:
    """As much of a protocol's id as names hold."""
    return protocol[:_PROTOCOL_DIGITS]


def scores_folder(workspace: Workspace, model: str) -> Path:
    """The folder of one model's kept scores."""
    return workspace.root / ARTIFACTS / re.sub(r"[^A-Za-z0-9._-]+", "-", model)


def file_stem(reference: str, steps: int | None) -> str:
    """How the names of the files begin; ``steps`` is None of images."""
    return f"{reference}-" + (f"{steps}steps-" if steps is not None else "")
