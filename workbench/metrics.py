"""Every score that the workbench knows: direction, unit, needs. The one place that says so.

Trainer, studies, comparisons, reports, model cards and the MLflow view ask here. Imports nothing
heavy, so that a table of runs needs neither torch nor pandas.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from workbench.errors import unknown_name

EVAL, DRIFT, PERF = "eval", "drift", "perf"
"""How a metric's name in MLflow begins: scores of samples, drift from the teacher, speed."""

SHARE = "share"
"""The unit of what lies between 0 and 1 and would be there or not in each case."""

ACCURACY = "accuracy_on_real_images"
"""In a score's fingerprint: how often the network that judged it is right where the truth is known,
as a share."""

OWN_NETWORK = "own"
"""Features of whichever network the reference was built with."""


class Goal(Enum):
    """Which way a score improves."""

    LOWER = "minimize"
    HIGHER = "maximize"
    NEAR = "near its target"


@dataclass(frozen=True)
class Minimum:
    """The fewest samples or images, and why."""

    count: int
    why: str


_COVARIANCE = Minimum(2, "one has no covariance")
_PAIRS = Minimum(2, "its estimator compares pairs")
_SHARE = Minimum(2, "a share of one says nothing")
_MANIFOLD = Minimum(4, "each needs its 3 nearest neighbours")
_SPREAD = Minimum(2, "one has no spread")


@dataclass(frozen=True)
class MetricInfo:
    """What there is to know of a score without computing it.

    Attributes:
        name: in settings, tables and files.
        title: as people write it.
        goal: which way it improves.
        what: it measures, in words.
        unit: of its values; empty for a pure number.
        target: the best value where the goal is :attr:`Goal.NEAR`.
        group: of its name in MLflow, ``GROUP/NAME``.
        is_distance: at least 0 and falling by factors: log axes, log-linear between evaluations.
        needs_reference: compares with real images.
        needs_prompts: judges an image by its prompt.
        network: that it looks through (:data:`OWN_NETWORK`: the reference's own).
        weights: names of published files that it needs besides the reference's own network.
        minimum: of samples.
        reference_minimum: of the reference's images.
    """

    name: str
    title: str
    goal: Goal
    what: str
    unit: str = ""
    target: float | None = None
    group: str = EVAL
    is_distance: bool = False
    needs_reference: bool = False
    needs_prompts: bool = False
    network: str | None = None
    weights: tuple[str, ...] = ()
    minimum: Minimum = _SPREAD
    reference_minimum: Minimum | None = None

    @property
    def key(self) -> str:
        """The MLflow metric of a run's evaluations."""
        return f"{self.group}/{self.name}"

    @property
    def ranks(self) -> bool:
        """Whether one value can be better than another: it cannot near a target of each task's."""
        return self.goal is not Goal.NEAR or self.target is not None

    @property
    def arrow(self) -> str:
        """For headings of tables."""
        if self.goal is Goal.NEAR:
            return "" if self.target is None else f"→ {self.target:g}"
        return "↓" if self.goal is Goal.LOWER else "↑"

    def badness(self, value: float) -> float:
        """The value as a number that is the lower the better, for ranks and searches.

        Near a target that is |log(value / target)| for positive values: half is as far as twice.
        NaN of a metric that :attr:`ranks` nothing.
        """
        match self.goal:
            case Goal.LOWER:
                return value
            case Goal.HIGHER:
                return -value
            case Goal.NEAR:
                if self.target is None:
                    return math.nan
                return abs(math.log(value / self.target)) if value > 0 else math.inf

    def better(self, one: float, other: float) -> bool:
        """Whether the first of two values is the better one."""
        return self.badness(one) < self.badness(other)

    @property
    def worst(self) -> float:
        """What samples that cannot be scored are worth."""
        return -math.inf if self.goal is Goal.HIGHER else math.inf

    def best(self, values: Iterable[float]) -> float | None:
        """The best of the values that are there; None without one, or if it :attr:`ranks` nothing.

        Args:
            values: NaN where there is none.
        """
        present = [value for value in values if not math.isnan(value)]
        return min(present, key=self.badness) if present and self.ranks else None


def _reference(
    name: str,
    title: str,
    goal: Goal,
    what: str,
    minimum: Minimum,
    reference_minimum: Minimum,
    network: str = OWN_NETWORK,
    weights: tuple[str, ...] = (),
    *,
    unit: str = "",
    is_distance: bool = False,
) -> MetricInfo:
    return MetricInfo(
        name,
        title,
        goal,
        what,
        unit,
        is_distance=is_distance,
        needs_reference=True,
        network=network,
        weights=weights,
        minimum=minimum,
        reference_minimum=reference_minimum,
    )


def _frechet(name: str, title: str, what: str, network: str, *weights: str) -> MetricInfo:
    return _reference(
        name,
        title,
        Goal.LOWER,
        what,
        _COVARIANCE,
        _COVARIANCE,
        network,
        weights,
        is_distance=True,
    )


def _ratio(name: str, title: str, what: str) -> MetricInfo:
    text = f"{what}, student over teacher on the same prompts and seeds"
    return MetricInfo(name, title, Goal.NEAR, text, "ratio", 1.0, DRIFT)


def _of_modes(name: str, title: str, what: str, goal: Goal = Goal.LOWER) -> MetricInfo:
    return MetricInfo(name, title, goal, what)


def _of_scenes(name: str, title: str, what: str) -> MetricInfo:
    return MetricInfo(
        name,
        title,
        Goal.HIGHER,
        f"share of images in which a detector of scenes finds what the prompt asks for, {what}",
        SHARE,
        needs_prompts=True,
        network="scenes",
        minimum=_SHARE,
    )


def _of_axes(part: int, which: str) -> MetricInfo:
    what = f"variance of samples over the truth's, along the {which} quarter of a Gaussian's axes"
    title = f"variance, {which} axes"
    return MetricInfo(f"axis_variance_{part}", title, Goal.NEAR, what, "ratio", 1.0)


_ALL = (
    _frechet("fid", "FID", "Frechet distance of features to the reference", OWN_NETWORK),
    _reference(
        "kid",
        "KID",
        Goal.LOWER,
        "squared MMD of features to the reference",
        _PAIRS,
        _PAIRS,
    ),
    MetricInfo(
        "clip",
        "CLIP score",
        Goal.HIGHER,
        "cosine of image and prompt in CLIP: ViT-g-14, if no other is named",
        "cosine",
        needs_prompts=True,
        weights=("clip",),
    ),
    MetricInfo(
        "alignment",
        "alignment",
        Goal.HIGHER,
        "share of images in which a classifier finds what the prompt asks for",
        SHARE,
        needs_prompts=True,
        network=OWN_NETWORK,
    ),
    _reference(
        "precision",
        "precision",
        Goal.HIGHER,
        "share of samples inside the reference's manifold",
        _SHARE,
        _MANIFOLD,
        unit=SHARE,
    ),
    _reference(
        "recall",
        "recall",
        Goal.HIGHER,
        "share of the reference inside the samples' manifold",
        _MANIFOLD,
        _SHARE,
        unit=SHARE,
    ),
    _frechet(
        "fid_clip", "FID (CLIP)", "FID in features of CLIP ViT-L/14", "clip_features", "clip-l14"
    ),
    _frechet("fid_dinov2", "FID (DINOv2)", "FID in features of DINOv2", "dinov2", "dinov2"),
    _reference(
        "cmmd",
        "CMMD",
        Goal.LOWER,
        "squared MMD of CLIP features, x 1000",
        _PAIRS,
        _PAIRS,
        "cmmd_features",
        ("clip-l14-336",),
    ),
    MetricInfo(
        "pickscore",
        "PickScore",
        Goal.HIGHER,
        "preference for an image given its prompt",
        needs_prompts=True,
        weights=("pickscore",),
    ),
    MetricInfo(
        "aesthetic",
        "aesthetic",
        Goal.HIGHER,
        "improved aesthetic predictor",
        "points of 10",
        weights=("clip-l14", "aesthetic"),
    ),
    MetricInfo(
        "hpsv2",
        "HPSv2",
        Goal.HIGHER,
        "human preference score of image and prompt",
        "cosine",
        needs_prompts=True,
        weights=("hpsv2",),
    ),
    _of_scenes("composition", "composition", "mean over GenEval's six skills"),
    _of_scenes("composition_single", "single object", "of one object"),
    _of_scenes("composition_two", "two objects", "of two objects"),
    _of_scenes("composition_counting", "counting", "of exactly two or three alike"),
    _of_scenes("composition_colors", "colors", "of one object of a color"),
    _of_scenes("composition_position", "position", "of two objects, one beside the other"),
    _of_scenes(
        "composition_attribution", "color attribution", "of several objects with their colors"
    ),
    MetricInfo(
        "spread",
        "spread",
        Goal.NEAR,
        "spread of place, size and color among samples of one prompt, over the truth's",
        "ratio",
        1.0,
        needs_prompts=True,
        network="scenes",
        minimum=_PAIRS,
    ),
    MetricInfo(
        "sliced_w2",
        "sliced W2",
        Goal.LOWER,
        "sliced Wasserstein distance to samples of the truth",
        is_distance=True,
        minimum=Minimum(2, "one sample is no distribution"),
    ),
    _of_modes("share_tv", "TV of shares", "total variation of the shares of modes"),
    _of_modes("mode_std", "std of modes", "mean std of modes; best at the truth's", Goal.NEAR),
    _of_modes("mode_std_min", "least std", "least std of a mode; best at the truth's", Goal.NEAR),
    _of_modes("mode_core_least", "thinnest core", "robust std where least", Goal.NEAR),
    _of_modes("mode_core_most", "widest core", "robust std where most", Goal.NEAR),
    _of_modes("mode_cov_error", "covariances off by", "relative error of covariances"),
    _of_modes("mode_offset", "means off by (std)", "distance of means from the true ones"),
    _of_modes("outliers", "outliers", "share of samples of no mode"),
    MetricInfo(
        "gaussian_w2",
        "Gaussian W2",
        Goal.LOWER,
        "Wasserstein distance of samples as a Gaussian to the truth, which is one",
        is_distance=True,
        minimum=_COVARIANCE,
    ),
    _of_axes(1, "largest"),
    _of_axes(2, "second largest"),
    _of_axes(3, "second smallest"),
    _of_axes(4, "smallest"),
    _ratio("saturation", "saturation", "mean chroma (largest minus least channel)"),
    _ratio("contrast", "contrast", "standard deviation of luminance within an image"),
    _ratio("brightness", "brightness", "mean luminance"),
    _ratio("sharpness", "sharpness", "mean squared Laplacian of luminance"),
    _ratio("nyquist_energy", "Nyquist energy", "power of luminance near half a cycle a pixel"),
    _ratio("grid_energy", "grid energy", "power of luminance at the patch grid's frequencies"),
    _ratio("latent_diversity", "latent diversity", "mean distance between seeds in latent space"),
    _ratio("pixel_diversity", "pixel diversity", "mean distance between seeds in pixel space"),
    MetricInfo(
        "ms_per_image", "ms/image", Goal.LOWER, "time that one sample takes", "ms", group=PERF
    ),
)

METRICS: Mapping[str, MetricInfo] = {info.name: info for info in _ALL}
"""Name -> what there is to know; in the order in which tables show them."""

DRIFT_METRICS = tuple(name for name, info in METRICS.items() if info.group == DRIFT)
"""Measured in every run of images, with no weights and no reference."""

_CURVES = frozenset({EVAL, DRIFT})
_BEST = "best"


def metric_info(name: str) -> MetricInfo:
    """A metric by name.

    Raises:
        RequestError: there is no such metric (names the nearest).
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def info_or_distance(name: str) -> MetricInfo:
    """What is known of a metric; one of a person's own counts as a distance."""
    return METRICS.get(name) or MetricInfo(name, name, Goal.LOWER, "a score", is_distance=True)


def title_of(name: str) -> str:
    """A score's name as people write it; a name that is not known stands for itself."""
    return METRICS[name].title if name in METRICS else name


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of :data:`METRICS`, others behind them by the alphabet."""
    places = {name: place for place, name in enumerate(METRICS)}
    return sorted(set(names), key=lambda name: (places.get(name, len(places)), name))


def first_distance(names: Iterable[str]) -> str | None:
    """The first of the names that is a distance, as figures on log axes need one."""
    return next((name for name in _known(names) if METRICS[name].is_distance), None)


def first_rising(names: Iterable[str]) -> str | None:
    """The first of the names that is the better the higher."""
    return next((name for name in _known(names) if METRICS[name].goal is Goal.HIGHER), None)


def score_of(key: str) -> str | None:
    """The score that an MLflow metric of evaluations holds: ``eval/fid`` -> ``fid``; else None."""
    group, _, name = key.partition("/")
    return name if name and group in _CURVES else None


def best_of(key: str) -> str | None:
    """The score whose best value an MLflow metric holds: ``best/fid`` -> ``fid``; else None."""
    group, _, name = key.partition("/")
    return name if group == _BEST and name in METRICS else None


def metric_in(key: str) -> MetricInfo | None:
    """What any MLflow metric is a value of: also ``best/fid`` and ``table/student_4_fid``."""
    words = f"_{key.rpartition('/')[2]}_"
    found = [info for name, info in METRICS.items() if f"_{name}_" in words]
    return max(found, key=lambda info: len(info.name), default=None)


def primary_of(logged: Iterable[str]) -> str | None:
    """Which score judged a run, by the names of what it logged; None before an evaluation.

    A run logs ``best/NAME`` of that one alone. Before its first finite value: the first that it
    measured, in the order of :data:`METRICS`.
    """
    names = list(logged)
    judged = next((name for key in names if (name := best_of(key)) is not None), None)
    if judged is not None:
        return judged
    measured = (key.partition("/")[2] for key in names if key.startswith(f"{EVAL}/"))
    return next(iter(_known(measured)), None)


def primary_of_most(runs: Iterable[Iterable[str]]) -> str | None:
    """Which score judged most of the runs, by what each logged; None before an evaluation."""
    judged = Counter(name for logged in runs if (name := primary_of(logged)) is not None)
    return max(in_order(judged), key=lambda name: judged[name], default=None)


def _known(names: Iterable[str]) -> list[str]:
    return [name for name in in_order(names) if name in METRICS]
