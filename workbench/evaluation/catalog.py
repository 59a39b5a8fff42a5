"""Metric name -> how it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from workbench.errors import RequestError, unknown_name
from workbench.evaluation.digits_classifier import DigitAlignment, load_or_train
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

_CLASSIFIER = "digits"
_ALIGNMENT = "alignment"
FEATURES = (_CLASSIFIER, "inception", "dinov2", "clip_features", "cmmd_features")
"""Networks whose features a reference can hold."""


class Observers:
    """Every observer by name, each made once: the embedded classifier's and the networks'.

    Args:
        cache: the workspace's cache, where the classifier lives; trained there when absent.
        weights: files of the networks, and the folder they are looked for in.
    """

    def __init__(self, cache: Path, weights: WeightFiles, device: torch.device) -> None:
        self.weights = weights
        self._networks = Networks(weights, device)
        self._cache = cache
        self._embedded: dict[str, Observer] = {}

    def find(self, name: str) -> Observer:
        """The observer of that name.

        Raises:
            RequestError: unknown, or its weights are missing (says which and where from).
        """
        if name in OBSERVERS:
            return self._networks.observer(name)
        if name not in (_CLASSIFIER, _ALIGNMENT):
            raise unknown_name("network", name, [_CLASSIFIER, _ALIGNMENT, *OBSERVERS])
        if not self._embedded:
            classifier = load_or_train(self._cache)
            self._embedded = {_CLASSIFIER: classifier, _ALIGNMENT: DigitAlignment(classifier)}
        return self._embedded[name]


class _Bench:
    """One reference and the observers: each of the reference's rows is read once."""

    def __init__(self, reference: Reference, observers: Observers) -> None:
        self.reference, self.observers = reference, observers
        self._seen: dict[str, tuple[Observer, ReferenceRows]] = {}

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
    _ALIGNMENT: _mean,
}
"""Of the metrics that samples and a reference are enough for."""


def make_metrics(
    names: Sequence[str], reference: Reference, observers: Observers
) -> tuple[Metric, ...]:
    """The metrics of these names against a reference.

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
                f"{reference.name} has {count}: {fewest.why}."
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
