"""How far a student's look has drifted from its teacher's, and how varied its samples still are.

Needs neither weights nor real images: every statistic is the student's over the teacher's on the
same prompts and seeds. What they mean is told in :data:`workbench.metrics.DRIFT_METRICS`.

Luminance is 0.2126 R + 0.7152 G + 0.0722 B (Rec. 709's weights) of the gamma-encoded values as
they are, which is what video engineers call luma. Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError
from workbench.evaluation.grids import NotFiniteError
from workbench.evaluation.intervals import LEVEL
from workbench.metrics import DRIFT_METRICS

_REC_709 = (0.2126, 0.7152, 0.0722)
_NYQUIST_BAND = 0.45
"""Cycles a pixel from which a frequency counts as near Nyquist's 0.5."""

_POWERS = frozenset({"sharpness", "nyquist_energy", "grid_energy"})
_ROUNDING = 1e-7
"""About what float32 resolves of values around 1: less than this, or its square, is nothing."""


@dataclass(frozen=True, eq=False)
class Look:
    """The statistics of one model's images, by prompt.

    Attributes:
        values: name, one of ``DRIFT_METRICS``, -> its mean over each prompt's seeds, float64 (P,).
    """

    values: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def blank(self) -> tuple[str, ...]:
        """Statistics that are 0 but for rounding: nothing can be said relative to them.

        Gray images have no saturation, say.
        """
        floors = {name: _ROUNDING**2 if name in _POWERS else _ROUNDING for name in self.values}
        return tuple(n for n, values in self.values.items() if values.mean() <= floors[n])

    @staticmethod
    def join(parts: Sequence[Look]) -> Look:
        """The look of all parts' prompts, in order."""
        return Look({n: np.concatenate([p.values[n] for p in parts]) for n in parts[0].values})

    def as_dict(self) -> dict[str, list[float]]:
        """As plain JSON."""
        return {name: values.tolist() for name, values in self.values.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Look:
        """The look that :meth:`as_dict` wrote.

        Raises:
            ValueError: other statistics, or not one finite number of each for every prompt.
        """
        if set(content) != set(DRIFT_METRICS):
            raise ValueError(f"a look has {', '.join(DRIFT_METRICS)}, not {', '.join(content)}")
        values = {name: np.asarray(content[name], np.float64) for name in DRIFT_METRICS}
        shapes = {numbers.shape for numbers in values.values()}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape == (0,):
            raise ValueError("a look has one number of each statistic for every prompt")
        if not all(np.isfinite(numbers).all() for numbers in values.values()):
            raise ValueError("a look has finite numbers")
        return cls(values)


@dataclass(frozen=True)
class Ratio:
    """Student over teacher, with its 95 % interval over prompts; None where there is but one."""

    value: float
    low: float | None
    high: float | None


def look_of(images: Tensor, latents: Tensor, prompts: int, patch: int) -> Look:
    """The statistics of all samples of some prompts; parts are put together by :meth:`Look.join`.

    Args:
        images: (P * S, 3, H, W) in [0, 1], the S >= 2 samples of a prompt one after another.
        latents: of the same samples (P * S, ...).
        prompts: P.
        patch: pixels along a side of the teacher's patches, which the image's size is a multiple
            of.

    Raises:
        RequestError: shapes that do not fit.
        NotFiniteError: samples with NaN or infinities.
    """
    seeds = _seeds(images, latents, prompts, patch)
    rows = []
    for start in range(0, len(images), seeds):  # one by one: memory does not grow with P
        of_prompt = slice(start, start + seeds)
        pixels, codes = images[of_prompt].detach().double(), latents[of_prompt].detach().double()
        if not (pixels.isfinite().all() and codes.isfinite().all()):
            raise NotFiniteError(
                f"Samples of prompt {1 + start // seeds} of {prompts} hold values that are not "
                "finite: they have no look."
            )
        rows.append(_statistics(pixels, codes, patch))
    return Look({name: np.array([row[name] for row in rows]) for name in DRIFT_METRICS})


def drift_from(student: Look, teacher: Look) -> dict[str, Ratio]:
    """Every statistic of the student over the teacher's, without the teacher's ``blank`` ones.

    Raises:
        RequestError: they are of different numbers of prompts.
    """
    if len(student) != len(teacher):
        raise RequestError(
            f"Drift compares the same prompts: the student has {len(student)}, the teacher "
            f"{len(teacher)}."
        )
    blank = teacher.blank
    return {
        name: _ratio(student.values[name], values)
        for name, values in teacher.values.items()
        if name not in blank
    }


def _ratio(y: NDArray[np.float64], x: NDArray[np.float64]) -> Ratio:
    """sum(y) / sum(x) and its linearized interval (Cochran 1977, Sampling Techniques, 6.3)."""
    count, total = len(x), float(x.sum())
    value = float(y.sum()) / total
    if count == 1:
        return Ratio(value, None, None)
    from scipy import stats

    residuals = y - value * x
    deviation = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / total
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * deviation
    return Ratio(value, max(0.0, value - reach), value + reach)


def _seeds(images: Tensor, latents: Tensor, prompts: int, patch: int) -> int:
    """Samples of each prompt.

    Raises:
        RequestError: shapes that do not fit.
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < 3:
        raise RequestError(f"Images must have the shape (B, 3, H, W), not {shape}.")
    if len(latents) != len(images):
        raise RequestError(f"{len(images)} images have {len(latents)} latents.")
    if prompts < 1 or len(images) % prompts or len(images) < 2 * prompts:
        raise RequestError(
            f"Diversity needs the same number of samples of each prompt, at least 2: {len(images)} "
            f"samples are of {prompts} prompts."
        )
    if patch < 1 or shape[2] % patch or shape[3] % patch:
        raise RequestError(f"Images of {shape[2]} x {shape[3]} have no whole patches of {patch}.")
    return len(images) // prompts


def _statistics(pixels: Tensor, latents: Tensor, patch: int) -> dict[str, float]:
    """Means over one prompt's samples (S, 3, H, W) and (S, ...), float64."""
    luminance = torch.einsum("schw,c->shw", pixels, pixels.new_tensor(_REC_709))
    means = {
        "saturation": pixels.amax(1) - pixels.amin(1),
        "contrast": luminance.flatten(1).std(1, correction=0),
        "brightness": luminance,
        "sharpness": _laplacian(luminance).square(),
        "nyquist_energy": _nyquist_energy(luminance),
        "grid_energy": _grid_energy(luminance, patch),
        "latent_diversity": _distances(latents),
        "pixel_diversity": _distances(pixels),
    }
    return {name: float(values.mean()) for name, values in means.items()}


def _laplacian(luminance: Tensor) -> Tensor:
    """Four neighbors less four times the pixel, where it has all four: (S, H - 2, W - 2)."""
    rows = luminance[:, :-2, 1:-1] + luminance[:, 2:, 1:-1]
    columns = luminance[:, 1:-1, :-2] + luminance[:, 1:-1, 2:]
    return rows + columns - 4 * luminance[:, 1:-1, 1:-1]


def _nyquist_energy(luminance: Tensor) -> Tensor:
    """Variance of the luminance at max(|fx|, |fy|) >= 0.45 cycles a pixel, (S,).

    By Parseval's theorem; the mean itself is at frequency 0.
    """
    height, width = luminance.shape[1:]
    power = torch.fft.fft2(luminance, norm="forward").abs().square()
    rows, columns = (
        torch.fft.fftfreq(size, dtype=torch.float64, device=power.device).abs() >= _NYQUIST_BAND
        for size in (height, width)
    )
    energy: Tensor = (power * (rows[:, None] | columns)).sum((1, 2))
    return energy


def _grid_energy(luminance: Tensor, patch: int) -> Tensor:
    """Variance of the luminance at the frequencies (k / p, m / p) that are not both 0, (S,).

    These are the harmonics of a grid of p pixels. What an image has of them is its mean patch, so
    that by Parseval's theorem their power is that patch's variance.
    """
    count, height, width = luminance.shape
    patches = luminance.reshape(count, height // patch, patch, width // patch, patch)
    return patches.mean((1, 3)).flatten(1).var(1, correction=0)


def _distances(samples: Tensor) -> Tensor:
    """Root mean square differences of all pairs of samples (S, ...), (S (S - 1) / 2,)."""
    flat = samples.flatten(1)
    return torch.pdist(flat) / math.sqrt(flat.shape[1])
