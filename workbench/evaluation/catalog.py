"""Metric name -> how it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from workbench.errors import RequestError, unknown_name
from workbench.evaluation.bundled_judges import JUDGES, Judge
from workbench.evaluation.metrics import (
    CmmdMetric,
    FrechetMetric,
    KernelMetric,
    MeanMetric,
    Metric,
    PrecisionMetric,
    RecallMetric,
    ReferenceRows,
)
from workbench.evaluation.networks import OBSERVERS, Networks, WeightFiles
from workbench.evaluation.observers import Observer
from workbench.evaluation.references import Reference
from workbench.metrics import METRICS, metric_info

_ALIGNMENT = "alignment"
FEATURES = (*JUDGES, "inception", "dinov2", "clip_features", "cmmd_features")
"""Networks whose features a reference can hold."""


class Observers:
    """Every observer by name, each made once: the bundled classifiers' and the networks'.

    Args:
        cache: the workspace's cache, where the classifiers live; trained there when absent.
        weights: files of the networks, and the folder they are looked for in.
    """

    def __init__(self, cache: Path, weights: WeightFiles, device: torch.device) -> None:
        self.weights = weights
        self._networks = Networks(weights, device)
        self._cache = cache
        self._judges: dict[str, Judge] = {}

    def find(self, name: str) -> Observer:
        """The observer of that name.

        Raises:
            RequestError: unknown, or its weights are missing (says which and where from).
        """
        if name in JUDGES:
            return self.judge(name).features
        if name not in OBSERVERS:
            raise unknown_name("network", name, [*JUDGES, *OBSERVERS])
        return self._networks.observer(name)

    def judge(self, name: str) -> Judge:
        """The classifier of a bundled data set."""
        if name not in self._judges:
            self._judges[name] = JUDGES[name](self._cache)
        return self._judges[name]


class _Bench:
    """A reference and the observers: each of the reference's rows is read once."""

    def __init__(self, reference: Reference | None, observers: Observers) -> None:
        self._reference, self.observers = reference, observers
        self._seen: dict[str, tuple[Observer, ReferenceRows]] = {}

    @property
    def reference(self) -> Reference:
        """The real images.

        Raises:
            RequestError: there are none.
        """
        if self._reference is None:
            raise RequestError("This metric compares with real images: name a reference.")
        return self._reference

    def seen(self, network: str) -> tuple[Observer, ReferenceRows]:
        if network not in self._seen:
            observer = self.reference.view(self.observers.find(network))
            self._seen[network] = observer, self.reference.rows(network, observer)
        return self._seen[network]


Maker = Callable[[str, _Bench], Metric]


def _frechet(name: str, bench: _Bench, network: str | None = None) -> Metric:
    observer, rows = bench.seen(network or bench.reference.network)
    return FrechetMetric(observer, rows.statistics, name)


def _on_own_network(
    name: str, bench: _Bench, make: Callable[[Observer, ReferenceRows, str], Metric]
) -> Metric:
    return make(*bench.seen(bench.reference.network), name)


def _cmmd(name: str, bench: _Bench) -> Metric:
    return CmmdMetric(*bench.seen("cmmd_features"), name)


def _mean(name: str, bench: _Bench) -> Metric:
    return MeanMetric(bench.observers.find(name), name)


def _alignment(name: str, bench: _Bench) -> Metric:
    network = bench.reference.network
    if network not in JUDGES:
        raise RequestError(
            f"{name} needs a classifier of what the prompts ask for, and the reference "
            f"{bench.reference.name} has none: its network is {network}, not one of "
            f"{', '.join(JUDGES)}. Leave it out of the metrics."
        )
    return MeanMetric(bench.observers.judge(network).alignment, name)


MAKERS: Mapping[str, Maker] = {
    "fid": _frechet,
    "kid": partial(_on_own_network, make=KernelMetric),
    "precision": partial(_on_own_network, make=PrecisionMetric),
    "recall": partial(_on_own_network, make=RecallMetric),
    "fid_clip": partial(_frechet, network="clip_features"),
    "fid_dinov2": partial(_frechet, network="dinov2"),
    "cmmd": _cmmd,
    "clip": _mean,
    "pickscore": _mean,
    "aesthetic": _mean,
    "hpsv2": _mean,
    _ALIGNMENT: _alignment,
}
"""Of the metrics that samples and a reference are enough for."""


def make_metrics(
    names: Sequence[str], reference: Reference | None, observers: Observers
) -> tuple[Metric, ...]:
    """The metrics of these names against a reference, where they need one.

    Raises:
        RequestError: an unknown name (names the nearest); weights that are missing; a reference
            without the network that a metric needs, or of fewer images than it needs.
    """
    check_names(names)
    bench = _Bench(reference, observers)
    metrics = []
    for name in names:
        metric = MAKERS[name](name, bench)
        real = getattr(metric, "reference", None)
        count = len(real.rows) if isinstance(real, ReferenceRows) else getattr(real, "count", None)
        fewest = metric_info(name).reference_minimum
        if count is not None and fewest is not None and count < fewest.count:
            raise RequestError(
                f"{name} needs at least {fewest.count} images in its reference, and "
                f"{bench.reference.name} has {count}: {fewest.why}."
            )
        metrics.append(metric)
    return tuple(metrics)


def check_names(names: Sequence[str]) -> None:
    """Refuse a metric that there is not, or that samples alone do not have.

    Raises:
        RequestError: names the nearest.
    """
    for name in names:
        if name not in MAKERS and name in METRICS:
            raise RequestError(
                f"{name} is measured in runs alone; of samples there are {', '.join(MAKERS)}."
            )
        if name not in MAKERS:
            raise unknown_name("metric", name, MAKERS)
