"""Samplers and pruners by name; each name stands here once."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

NSGAII_POPULATION = 16
"""Optuna's 50 would make every study of fewer than 50 trials a random search."""

WILCOXON_SEEDS = 5
"""With n seeds measured the test's p is at least 2^-n: below 0.1 only from the fourth on, so that
with fewer than five nothing is left to save."""


@dataclass(frozen=True)
class Rungs:
    """The steps at which trials report, in images: every how many, and the last."""

    every: int
    last: int

    def step(self, nimg: int) -> int:
        """The step of an evaluation: trials with other batch sizes cross a rung a bit later."""
        return nimg if nimg >= self.last else nimg // self.every * self.every


@contextmanager
def calm_optuna() -> Iterator[None]:
    """Optuna without its notes that heartbeats, groups and Wilcoxon may change some day."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tpe": ("TPESampler", {"multivariate": True, "group": True, "constant_liar": True}),
    "gp": ("GPSampler", {"warn_independent_sampling": False}),
    "cmaes": ("CmaEsSampler", {"warn_independent_sampling": False}),
    "nsgaii": ("NSGAIISampler", {"population_size": NSGAII_POPULATION}),
    "random": ("RandomSampler", {}),
}
"""Name -> Optuna's class, and how it is made here."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler by its name."""
    import optuna

    kind, options = SAMPLERS[name]
    sampler: BaseSampler = getattr(optuna.samplers, kind)(seed=seed, **options)
    return sampler


NO_PRUNER = "none"
OVER_SEEDS = frozenset({"wilcoxon"})
"""Pruners that compare trials seed by seed, not evaluation by evaluation."""

PRUNERS = frozenset({"hyperband", "median", NO_PRUNER, *OVER_SEEDS})


def make_pruner(name: str, rungs: Rungs) -> BasePruner:
    """A pruner by its name, for the steps at which trials report."""
    from optuna import pruners

    match name:
        case "hyperband":
            return pruners.HyperbandPruner(rungs.every, rungs.last, reduction_factor=3)
        case "median":
            return pruners.MedianPruner(n_startup_trials=5, n_min_trials=3)
        case "wilcoxon":
            return pruners.WilcoxonPruner(p_threshold=0.1)
        case _:
            return pruners.NopPruner()


def trial_seed(study_seed: int, number: int) -> int:
    """The sampler's seed for one trial.

    A seed a trial, not a worker: no two workers repeat each other's draws, and one worker alone
    draws the same whether or not it was stopped in between.
    """
    digest = hashlib.sha256(f"{study_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
