"""The paper's teachers on the Hugging Face hub, as data: nothing here is downloaded or built.

Names, hub ids, resolutions and latents are those of arXiv 2509.25127. Architectures are the
arguments of the diffusers class as the models' own conversion scripts in the diffusers repository
and their model cards give them; ``tests/teachers/test_hub_catalog.py`` builds every network from
them without memory and counts. Licences are the model cards'. Not verified against the hub
itself: SANA-Sprint's teacher repositories, of which only the conversion script was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_CLIP_L, _CLIP_G, _CLIP_L_UNPROJECTED = 123_650_304, 694_659_840, 123_060_480
_T5_XXL, _GEMMA_2_2B = 4_762_310_656, 2_614_341_888
_AUTOENCODER_DC, _AUTOENCODER_KL = 312_250_275, 83_819_683


@dataclass(frozen=True)
class HubTeacher:
    """A teacher on the hub.

    Attributes:
        name: what ``--teacher`` takes.
        pipeline_class: the ``_class_name`` in its model_index.json.
        transformer: arguments of the pipeline's transformer class.
        transformer_class: that class, of diffusers.
        parameters: of the transformer; buffers (SD3's positions) not counted.
        latent_shape: (C, H, W) of one sample, unpacked.
        conditioning: shape of one prompt's encoding by name (300 tokens for SANA, 77 of CLIP and
            as many of T5 for SD3, 512 for FLUX).
        text_tokens: of the long text encoder, where the published runs differ from the pipeline's
            default (SD3: 77, not 256).
        text_parameters: of all text encoders together.
        distil_bytes: estimated peak of distilling it on one device at one sample at a time, full
            fine-tuning, bf16-mixed, gradient checkpointing (:mod:`workbench.training.memory`).
    """

    name: str
    description: str
    hub_id: str
    pipeline_class: str
    transformer_class: str
    licence: str
    resolution: int
    latent_shape: tuple[int, int, int]
    parameters: int
    text_parameters: int
    vae_parameters: int
    distil_bytes: int
    transformer: Mapping[str, Any] = field(repr=False)
    conditioning: Mapping[str, tuple[int, ...]] = field(repr=False)
    gated: bool = False
    text_tokens: int | None = None

    @property
    def call(self) -> Mapping[str, Any]:
        """Arguments of the stock call that make this setting."""
        size, tokens = self.resolution, self.text_tokens
        wanted = {"height": size, "width": size, "max_sequence_length": tokens}
        return {name: value for name, value in wanted.items() if value is not None}

    @property
    def license_page(self) -> str:
        """Where the licence is read and accepted."""
        return f"https://huggingface.co/{self.hub_id}"

    @property
    def held_bytes(self) -> int:
        """What a run keeps beside that: the autoencoder, in float32."""
        return 4 * self.vae_parameters

    @property
    def text_bytes(self) -> int:
        """Memory of the text encoders if their files are in bf16 or fp16: both load as bf16."""
        return 2 * self.text_parameters

    @property
    def download_bytes(self) -> int:
        """Size of the weights if every one is stored in two bytes: what a download is at least."""
        return 2 * (self.parameters + self.text_parameters + self.vae_parameters)


_SANA_06B = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 36,
    "attention_head_dim": 32,
    "num_layers": 28,
    "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "patch_size": 1,
}
_SANA_16B = {
    **_SANA_06B,
    "num_attention_heads": 70,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
}
_SPRINT = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads", "sample_size": 32}
_SD3_MEDIUM = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_SD35_MEDIUM = {
    **_SD3_MEDIUM,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}
_SD35_LARGE = {
    **_SD3_MEDIUM,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
_FLUX = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}


def _sana(
    name: str, repository: str, transformer: Mapping[str, Any], parameters: int, distil_bytes: int
) -> HubTeacher:
    size: int = transformer["sample_size"]
    sprint = transformer.get("guidance_embeds", False)
    return HubTeacher(
        name=name,
        description=f"{'SANA-Sprint teacher' if sprint else 'SANA'} at {32 * size} px",
        hub_id=f"Efficient-Large-Model/{repository}",
        pipeline_class="SanaSprintPipeline" if sprint else "SanaPipeline",
        transformer_class="SanaTransformer2DModel",
        licence="NVIDIA NSCL v2-custom, Gemma terms of use",
        resolution=32 * size,
        latent_shape=(32, size, size),
        parameters=parameters,
        text_parameters=_GEMMA_2_2B,
        vae_parameters=_AUTOENCODER_DC,
        distil_bytes=distil_bytes,
        transformer=transformer,
        conditioning={"embeds": (300, 2304), "mask": (300,)},
    )


def _sd3(
    name: str, version: str, transformer: Mapping[str, Any], parameters: int, distil_bytes: int
) -> HubTeacher:
    return HubTeacher(
        name=name,
        description=f"Stable Diffusion {version} at 1024 px",
        hub_id=f"stabilityai/stable-diffusion-{version.lower().replace(' ', '-')}"
        + ("-diffusers" if version.startswith("3 ") else ""),
        pipeline_class="StableDiffusion3Pipeline",
        transformer_class="SD3Transformer2DModel",
        licence="Stability AI Community License",
        resolution=1024,
        latent_shape=(16, 128, 128),
        parameters=parameters,
        text_parameters=_CLIP_L + _CLIP_G + _T5_XXL,
        vae_parameters=_AUTOENCODER_KL,
        distil_bytes=distil_bytes,
        transformer=transformer,
        conditioning={"embeds": (77 + 77, 4096), "pooled": (2048,)},
        gated=True,
        text_tokens=77,
    )


def _flux(resolution: int, distil_bytes: int) -> HubTeacher:
    return HubTeacher(
        name=f"flux.1-dev-{resolution}",
        description=f"FLUX.1-dev at {resolution} px",
        hub_id="black-forest-labs/FLUX.1-dev",
        pipeline_class="FluxPipeline",
        transformer_class="FluxTransformer2DModel",
        licence="FLUX.1 [dev] Non-Commercial License",
        resolution=resolution,
        latent_shape=(16, resolution // 8, resolution // 8),
        parameters=11_901_408_320,
        text_parameters=_CLIP_L_UNPROJECTED + _T5_XXL,
        vae_parameters=_AUTOENCODER_KL,
        distil_bytes=distil_bytes,
        transformer=_FLUX,
        conditioning={"embeds": (512, 4096), "pooled": (768,)},
        gated=True,
    )


HUB_TEACHERS: tuple[HubTeacher, ...] = (
    _sana(
        "sana-0.6b-512",
        "Sana_600M_512px_diffusers",
        {**_SANA_06B, "sample_size": 16},
        591_747_872,
        20_205_388_876,
    ),
    _sana(
        "sana-1.6b-512",
        "Sana_1600M_512px_diffusers",
        {**_SANA_16B, "sample_size": 16},
        1_604_462_752,
        54_867_348_620,
    ),
    _sana(
        "sana-1.6b-1024",
        "Sana_1600M_1024px_diffusers",
        {**_SANA_16B, "sample_size": 32},
        1_604_462_752,
        54_879_950_196,
    ),
    _sana(
        "sana-sprint-0.6b",
        "Sana_Sprint_0.6B_1024px_teacher_diffusers",
        {**_SANA_06B, **_SPRINT},
        593_501_216,
        20_352_708_900,
    ),
    _sana(
        "sana-sprint-1.6b",
        "SANA_Sprint_1.6B_1024px_teacher_diffusers",
        {**_SANA_16B, **_SPRINT},
        1_610_237_472,
        55_125_567_428,
    ),
    _sd3("sd3-medium", "3 Medium", _SD3_MEDIUM, 2_028_328_000, 69_723_654_196),
    _sd3("sd3.5-medium", "3.5 Medium", _SD35_MEDIUM, 2_243_171_520, 78_023_482_052),
    _sd3("sd3.5-large", "3.5 Large", _SD35_LARGE, 8_056_627_520, 275_494_067_908),
    _flux(512, 406_022_031_612),
    _flux(1024, 406_367_272_700),
)
"""In the order of the paper's figure 4."""


def find_hub_teacher(reference: str) -> HubTeacher | None:
    """The catalog's entry of that name; of its hub id, the first such entry."""
    named = (teacher for teacher in HUB_TEACHERS if teacher.name == reference)
    held = (teacher for teacher in HUB_TEACHERS if teacher.hub_id == reference.partition("@")[0])
    return next(named, None) or next(held, None)
