"""Observer name -> the network it is; each network is loaded once, on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from workbench.errors import unknown_name
from workbench.evaluation.networks.dinov2 import DinoV2Features
from workbench.evaluation.networks.heads import AestheticScore
from workbench.evaluation.networks.inception import InceptionFeatures
from workbench.evaluation.networks.openclip import (
    MEAN,
    STD,
    ClipFeatures,
    ClipScore,
    OpenClip,
    Prepare,
)
from workbench.evaluation.networks.pixels import padded, squashed
from workbench.evaluation.networks.transformers_clip import PickScore
from workbench.evaluation.networks.weights import WeightFiles
from workbench.evaluation.observers import Observer

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


class Networks:
    """The networks of one evaluation.

    Args:
        files: where their weights are.
        device: where they run.
    """

    def __init__(self, files: WeightFiles, device: torch.device) -> None:
        self.files, self.device = files, device
        self._clips: dict[str, OpenClip] = {}
        self._observers: dict[str, Observer] = {}

    def observer(self, name: str) -> Observer:
        """The observer of that name, one of ``OBSERVERS``.

        Raises:
            RequestError: unknown name, or weights that are missing or of something else.
        """
        if name not in OBSERVERS:
            raise unknown_name("network", name, OBSERVERS)
        if name not in self._observers:
            self._observers[name] = OBSERVERS[name](self)
        return self._observers[name]

    def clip(self, name: str) -> OpenClip:
        """The CLIP with the weights of that name, shared by all that look through it."""
        if name not in self._clips:
            architecture, prepare = _CLIPS[name]
            found = self.files.find(name)
            self._clips[name] = OpenClip(found, architecture, self.device, prepare)
        return self._clips[name]


OBSERVERS: Mapping[str, Callable[[Networks], Observer]] = {
    "inception": lambda all_: InceptionFeatures(all_.files.find("inception"), all_.device),
    "dinov2": lambda all_: DinoV2Features(all_.files.find("dinov2"), all_.device),
    "clip_features": lambda all_: ClipFeatures(
        "clip_features", all_.clip("clip-l14"), normalised=False
    ),
    "cmmd_features": lambda all_: ClipFeatures(
        "cmmd_features", all_.clip("clip-l14-336"), normalised=True
    ),
    "clip": lambda all_: ClipScore("clip", all_.clip("clip")),
    "hpsv2": lambda all_: ClipScore("hpsv2", all_.clip("hpsv2")),
    "pickscore": lambda all_: PickScore(all_.files.find("pickscore"), all_.device),
    "aesthetic": lambda all_: AestheticScore(
        all_.clip("clip-l14"), all_.files.find("aesthetic"), all_.device
    ),
}
"""Feature networks (inception, dinov2, clip_features, cmmd_features) and scorers (D is 1)."""


NETWORK_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "inception": ("inception",),
    "dinov2": ("dinov2",),
    "clip_features": ("clip-l14",),
    "cmmd_features": ("clip-l14-336",),
}
"""Network of features -> the files that it needs."""
