"""Samplers and pruners by name; each name stands here once."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def _tpe(seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _gp(seed: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _nsgaii(seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=NSGAII_POPULATION)


def _random(seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "nsgaii": _nsgaii,
    "random": _random,
}
"""Name -> sampler of a seed."""


def _hyperband(rungs: Rungs) -> BasePruner:
    from workbench.studies.hyperband import TicketHyperband

    return TicketHyperband(min_resource=rungs.every, max_resource=rungs.last, reduction_factor=3)


def _median(rungs: Rungs) -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=5, n_min_trials=3)


def _wilcoxon(rungs: Rungs) -> BasePruner:
    from optuna.pruners import WilcoxonPruner

    return WilcoxonPruner(p_threshold=0.1)


def _none(rungs: Rungs) -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner()


NO_PRUNER = "none"
OVER_SEEDS = frozenset({"wilcoxon"})
"""Pruners that compare trials seed by seed, not evaluation by evaluation."""

PRUNERS: Mapping[str, Callable[[Rungs], BasePruner]] = {
    "hyperband": _hyperband,
    "median": _median,
    "wilcoxon": _wilcoxon,
    NO_PRUNER: _none,
}
"""Name -> pruner for the steps at which trials report."""


def trial_seed(study_seed: int, number: int) -> int:
    """The sampler's seed for one trial.

    A seed a trial, not a worker: no two workers repeat each other's draws, and one worker alone
    draws the same whether or not it was stopped in between.
    """
    digest = hashlib.sha256(f"{study_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
