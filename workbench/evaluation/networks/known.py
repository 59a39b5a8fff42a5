"""The published weights that metrics need: names, checksums, sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HUB = "https://huggingface.co"
_OPENAI = "https://openaipublic.azureedge.net/clip/models"


@dataclass(frozen=True)
class KnownWeights:
    """A network's published weights.

    Attributes:
        name: what ``--weights NAME=PATH`` takes.
        file: file or folder in ``<workspace>/weights``.
        content: what it is, for people.
        needed_by: metrics that cannot be computed without it.
        source: the page it is published on.
        licence: as its publisher states it, where that was seen.
        url: where the file itself is, if it may be downloaded: only with ``size`` and ``sha256``.
        size: bytes, where known beforehand.
        sha256: checksum, where known beforehand; otherwise the first use pins the file's own.
    """

    name: str
    file: str
    content: str
    needed_by: tuple[str, ...]
    source: str
    licence: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None


# Sizes and checksums: OpenAI's stand in the files' own addresses (and open_clip checks them so);
# inception's in k-diffusion's evaluation.py; the aesthetic head's in several packages that load it.
# For the others no checksum was found that could be trusted.
KNOWN: Mapping[str, KnownWeights] = {
    known.name: known
    for known in (
        KnownWeights(
            name="inception",
            file="inception-2015-12-05.pt",
            content="Inception-v3 as torchscript, the network of clean-fid",
            needed_by=("fid", "kid", "precision", "recall"),
            source="https://github.com/NVlabs/stylegan2-ada-pytorch",
            licence="Nvidia source code licence (non-commercial)",
            url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
            "inception-2015-12-05.pt",
            size=95_607_719,
            sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        ),
        KnownWeights(
            name="clip",
            file="ViT-g-14-laion2b_s34b_b88k.safetensors",
            content="open_clip ViT-g-14, laion2b_s34b_b88k",
            needed_by=("clip",),
            source=f"{HUB}/laion/CLIP-ViT-g-14-laion2B-s34B-b88K",
            licence="MIT",
        ),
        KnownWeights(
            name="clip-l14",
            file="ViT-L-14.pt",
            content="OpenAI's CLIP ViT-L/14",
            needed_by=("aesthetic", "fid_clip"),
            source="https://github.com/openai/CLIP",
            licence="MIT",
            url=f"{_OPENAI}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/"
            "ViT-L-14.pt",
            size=932_768_134,
            sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        ),
        KnownWeights(
            name="clip-l14-336",
            file="ViT-L-14-336px.pt",
            content="OpenAI's CLIP ViT-L/14 at 336 pixels",
            needed_by=("cmmd",),
            source="https://github.com/openai/CLIP",
            licence="MIT",
            url=f"{_OPENAI}/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/"
            "ViT-L-14-336px.pt",
            size=934_088_680,
            sha256="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        ),
        KnownWeights(
            name="hpsv2",
            file="HPS_v2.1_compressed.pt",
            content="HPSv2.1, fine-tuned from open_clip ViT-H-14",
            needed_by=("hpsv2",),
            source=f"{HUB}/xswu/HPSv2",
            licence="see its page",
        ),
        KnownWeights(
            name="pickscore",
            file="PickScore_v1",
            content="PickScore_v1, a folder of transformers with config, tokenizer and safetensors",
            needed_by=("pickscore",),
            source=f"{HUB}/yuvalkirstain/PickScore_v1",
            licence="see its page",
        ),
        KnownWeights(
            name="aesthetic",
            file="sac+logos+ava1-l14-linearMSE.pth",
            content="head of the improved aesthetic predictor",
            needed_by=("aesthetic",),
            source="https://github.com/christophschuhmann/improved-aesthetic-predictor",
            licence="see its page",
            url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
            "sac%2Blogos%2Bava1-l14-linearMSE.pth",
            size=3_714_759,
            sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        ),
        KnownWeights(
            name="dinov2",
            file="dinov2-large",
            content="DINOv2 ViT-L/14, a folder of transformers with config and safetensors",
            needed_by=("fid_dinov2",),
            source=f"{HUB}/facebook/dinov2-large",
            licence="Apache-2.0",
        ),
    )
}
