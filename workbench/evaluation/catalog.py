"""Name -> how it is made: of the extractors that look at images, and of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from workbench.data.bundled import DIGITS, SCENES
from workbench.data.scenes import SKILLS, Skill
from workbench.errors import RequestError, unknown_name
from workbench.evaluation.digits_classifier import DigitAlignment, DigitsClassifier, load_or_train
from workbench.evaluation.extractors import FeatureExtractor
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
from workbench.evaluation.networks.features import DinoV2Features, InceptionFeatures
from workbench.evaluation.networks.openclip import (
    MEAN,
    STD,
    ClipFeatures,
    ClipScore,
    OpenClip,
    Prepare,
)
from workbench.evaluation.networks.pixels import padded, squashed
from workbench.evaluation.networks.scorers import AestheticScore, PickScore
from workbench.evaluation.networks.weights import WeightFiles
from workbench.evaluation.references import Reference
from workbench.evaluation.scenes.composition import CompositionJudge, CompositionMetric
from workbench.evaluation.scenes.detector import SceneDetector, load_detector
from workbench.evaluation.scenes.spread import SpreadJudge, SpreadMetric
from workbench.metrics import METRICS, OWN_NETWORK, metric_info

Judge = DigitsClassifier | SceneDetector

BUNDLED_NETWORKS: Mapping[str, Callable[[Path], Judge]] = {
    DIGITS.network: load_or_train,
    SCENES.network: lambda cache: load_detector(),
}
"""Network of bundled data -> from the workspace's cache or trained now (seconds), or shipped."""

PROMPT_METRICS: Mapping[str, str] = {DIGITS.network: "alignment", SCENES.network: "composition"}
"""Network of bundled data -> the metric that judges images by its prompts."""

FEATURE_WEIGHTS: Mapping[str, str] = {
    "inception": "inception",
    "dinov2": "dinov2",
    "clip_features": "clip-l14",
    "cmmd_features": "clip-l14-336",
}
"""Network of features -> the name of its weights."""

FEATURES = (*BUNDLED_NETWORKS, *FEATURE_WEIGHTS)
"""Networks whose features a reference can hold."""

# CMMD's authors resize without antialiasing and without a crop (Jayasumana et al. 2024); HPSv2's
# show the whole image, black around it (Wu et al. 2023).
_CLIPS: Mapping[str, tuple[str, Prepare | None]] = {
    "clip": ("ViT-g-14", None),
    "clip-l14": ("ViT-L-14-quickgelu", None),
    "clip-l14-336": (
        "ViT-L-14-336-quickgelu",
        partial(squashed, mean=MEAN, std=STD, antialias=False),
    ),
    "hpsv2": ("ViT-H-14", partial(padded, mean=MEAN, std=STD)),
}
"""Name of the weights -> architecture in open_clip, and preparation if not open_clip's own."""


class FeatureExtractors:
    """The extractors of one evaluation by name, each made once, on first use.

    Args:
        cache: the workspace's cache, where bundled networks live that are trained when absent.
        weights: files of the networks, and the folder they are looked for in.
        device: where networks run.
    """

    def __init__(self, cache: Path, weights: WeightFiles, device: torch.device) -> None:
        self.cache, self.weights, self.device = cache, weights, device
        self._extractors: dict[str, FeatureExtractor] = {}
        self._bundled: dict[str, Judge] = {}
        self._clips: dict[str, OpenClip] = {}

    def find(self, name: str) -> FeatureExtractor:
        """The extractor of that name, one of ``BUNDLED_NETWORKS`` or ``EXTRACTORS``.

        Raises:
            RequestError: unknown, or its weights are missing (says which and where from) or of
                something else.
        """
        if name in BUNDLED_NETWORKS:
            return self.bundled(name)
        if name not in EXTRACTORS:
            raise unknown_name("network", name, [*BUNDLED_NETWORKS, *EXTRACTORS])
        if name not in self._extractors:
            self._extractors[name] = EXTRACTORS[name](self)
        return self._extractors[name]

    def bundled(self, name: str) -> Judge:
        """The network of bundled data, one of ``BUNDLED_NETWORKS``."""
        if name not in self._bundled:
            self._bundled[name] = BUNDLED_NETWORKS[name](self.cache)
        return self._bundled[name]

    def clip(self, name: str) -> OpenClip:
        """The CLIP with the weights of that name, shared by all that look through it."""
        if name not in self._clips:
            architecture, prepare = _CLIPS[name]
            found = self.weights.find(name)
            self._clips[name] = OpenClip(found, architecture, self.device, prepare)
        return self._clips[name]


EXTRACTORS: Mapping[str, Callable[[FeatureExtractors], FeatureExtractor]] = {
    "inception": lambda all_: InceptionFeatures(all_.weights.find("inception"), all_.device),
    "dinov2": lambda all_: DinoV2Features(all_.weights.find("dinov2"), all_.device),
    "clip_features": lambda all_: ClipFeatures(
        "clip_features", all_.clip("clip-l14"), normalized=False
    ),
    "cmmd_features": lambda all_: ClipFeatures(
        "cmmd_features", all_.clip("clip-l14-336"), normalized=True
    ),
    "clip": lambda all_: ClipScore("clip", all_.clip("clip")),
    "hpsv2": lambda all_: ClipScore("hpsv2", all_.clip("hpsv2")),
    "pickscore": lambda all_: PickScore(all_.weights.find("pickscore"), all_.device),
    "aesthetic": lambda all_: AestheticScore(
        all_.clip("clip-l14"), all_.weights.find("aesthetic"), all_.device
    ),
}
"""Networks with published weights: of features, and scorers (D is 1)."""


def _frechet(extractor: FeatureExtractor, real: ReferenceRows, name: str) -> Metric:
    return FrechetMetric(extractor, real.statistics, name)


def _of_skill(skill: Skill, name: str) -> Metric:
    return CompositionMetric(CompositionJudge(load_detector(), skill), name)


_COMPARING: Mapping[str, Callable[[FeatureExtractor, ReferenceRows, str], Metric]] = {
    "fid": _frechet,
    "kid": KernelMetric,
    "precision": PrecisionMetric,
    "recall": RecallMetric,
    "fid_clip": _frechet,
    "fid_dinov2": _frechet,
    "cmmd": CmmdMetric,
}
"""Metrics that compare with real images, by the network that :data:`METRICS` names."""

_OF_SCENES: Mapping[str, Callable[[str], Metric]] = {
    "composition": lambda name: CompositionMetric(CompositionJudge(load_detector()), name),
    **{f"composition_{skill}": partial(_of_skill, skill) for skill in SKILLS},
    "spread": lambda name: SpreadMetric(SpreadJudge(load_detector()), name),
}
"""Metrics by the detector of scenes: of anybody's samples whose prompts ask for scenes."""

SAMPLE_METRICS = (
    *_COMPARING,
    *("clip", "pickscore", "aesthetic", "hpsv2", "alignment"),
    *_OF_SCENES,
)
"""Metrics that samples and a reference are enough for."""


def make_metrics(
    names: Sequence[str], reference: Reference | None, extractors: FeatureExtractors
) -> tuple[Metric, ...]:
    """The metrics of these names against a reference, where they need one.

    Raises:
        RequestError: an unknown name (names the nearest); weights that are missing; a reference
            without the network that a metric needs, or of fewer images than it needs.
    """
    check_names(names)

    def real_images() -> Reference:
        if reference is None:
            raise RequestError("This metric compares with real images: name a reference.")
        return reference

    @cache
    def seen(network: str) -> tuple[FeatureExtractor, ReferenceRows]:
        extractor = real_images().adapt(extractors.find(network))
        return extractor, real_images().rows(network, extractor)

    def make(name: str) -> Metric:
        if name == "alignment":
            return MeanMetric(_alignment(real_images(), extractors), name)
        if name in _OF_SCENES:
            return _OF_SCENES[name](name)
        if name not in _COMPARING:
            return MeanMetric(extractors.find(name), name)
        network = metric_info(name).network
        if network is None or network == OWN_NETWORK:
            network = real_images().network
        extractor, rows = seen(network)
        _check_size(name, real_images(), len(rows.rows))
        return _COMPARING[name](extractor, rows, name)

    return tuple(make(name) for name in names)


def _alignment(reference: Reference, extractors: FeatureExtractors) -> FeatureExtractor:
    network = reference.network
    judge = extractors.bundled(network) if network in BUNDLED_NETWORKS else None
    if not isinstance(judge, DigitsClassifier):
        raise RequestError(
            "alignment needs a classifier of what the prompts ask for, and the reference "
            f"{reference.name} has none: its network is {network}, not {DIGITS.network}. Leave it "
            "out of the metrics."
        )
    return DigitAlignment(judge)


def _check_size(name: str, reference: Reference, images: int) -> None:
    fewest = metric_info(name).reference_minimum
    if fewest is not None and images < fewest.count:
        raise RequestError(
            f"{name} needs at least {fewest.count} images in its reference, and "
            f"{reference.name} has {images}: {fewest.why}."
        )


def check_names(names: Sequence[str]) -> None:
    """Refuse a metric that there is not, or that samples alone do not have.

    Raises:
        RequestError: names the nearest.
    """
    for name in names:
        if name in SAMPLE_METRICS:
            continue
        if name in METRICS:
            raise RequestError(
                f"{name} is measured in runs alone; of samples there are "
                f"{', '.join(SAMPLE_METRICS)}."
            )
        raise unknown_name("metric", name, SAMPLE_METRICS)
