"""One row a model family: every fact in which families differ, and no behaviour.

A new family is a new row here, a test and a golden config; no other file names a family.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from glance.errors import SettingsError

DEFAULT_FAMILY: Final = "flux"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Negative(StrEnum):
    """Where the embeddings of the negative prompt come from."""

    NONE = "none"  # guidance is a number that the transformer is told
    TOGETHER = "together"  # encode_prompt returns them beside the prompt's own
    APART = "apart"  # a second call of encode_prompt; its outputs are renamed negative_*


@dataclass(frozen=True, slots=True)
class Text:
    """How the pipeline's `encode_prompt` is called, and what it returns."""

    tokens: int
    """What the longest text encoder reads; the rest of a caption is cut."""
    outputs: tuple[str | None, ...]
    """What `encode_prompt` returns, as keyword arguments of the pipeline (None: not passed on)."""
    negative: Negative = Negative.NONE
    arguments: Mapping[str, Any] = _NOTHING
    """Further arguments of `encode_prompt`."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the pipeline calls its guidance scale, and the scale of each phase."""

    argument: str
    slow: float
    fast: float
    off: float = 1.0
    """The scale at which nothing is guided, and no second forward pass is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family is called, trained and sampled."""

    name: str
    title: str
    simpletuner_name: str
    pipeline: str
    """The diffusers pipeline class, by name: looked up only when a model is loaded."""
    default_model: str
    resolution: int = 1024
    size_multiple: int = 16
    """Width and height of a picture must be multiples of this many pixels."""
    text: Text
    guidance: Guidance
    learning_rate: float
    trains_on_mps: bool
    training_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """SimpleTuner options that only this family has."""
    sampling_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Further arguments of the pipeline."""


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        row.name: row
        for row in (
            Family(
                name="flux",
                title="FLUX.1",
                simpletuner_name="flux",
                pipeline="FluxPipeline",
                default_model="black-forest-labs/FLUX.1-dev",
                text=Text(
                    tokens=512,  # T5; SimpleTuner pads to it
                    outputs=("prompt_embeds", "pooled_prompt_embeds", None),
                ),
                # The guide leaves the pipeline's default in the slow phase and asks for 1.0 in
                # the fast one.
                guidance=Guidance("guidance_scale", slow=3.5, fast=1.0),
                learning_rate=5e-4,  # the method's published value (with alpha = 4 x rank)
                trains_on_mps=False,  # "Apple GPUs do not currently work" (SimpleTuner's FLUX.md)
                training_options=MappingProxyType(
                    {
                        # Every attention projection of both block kinds: SimpleTuner's default,
                        # stated.
                        "flux_lora_target": "all",
                        # The method trains the guidance-distilled model at guidance 1.
                        "flux_guidance_mode": "constant",
                        "flux_guidance_value": 1.0,
                    }
                ),
            ),
            Family(
                name="sd3",
                title="Stable Diffusion 3.5",
                simpletuner_name="sd3",
                pipeline="StableDiffusion3Pipeline",
                default_model="stabilityai/stable-diffusion-3.5-medium",
                text=Text(
                    tokens=154,  # SimpleTuner's T5; diffusers' own default is 256
                    outputs=(
                        "prompt_embeds",
                        "negative_prompt_embeds",
                        "pooled_prompt_embeds",
                        "negative_pooled_prompt_embeds",
                    ),
                    negative=Negative.TOGETHER,
                    arguments=MappingProxyType(
                        {"prompt_2": None, "prompt_3": None, "max_sequence_length": 154}
                    ),
                ),
                guidance=Guidance("guidance_scale", slow=7.0, fast=1.0),  # diffusers' default; none
                learning_rate=5e-4,  # nobody has published one: FLUX's
                trains_on_mps=True,
            ),
            Family(
                name="qwen_image",
                title="Qwen-Image",
                simpletuner_name="qwen_image",
                pipeline="QwenImagePipeline",
                default_model="Qwen/Qwen-Image",
                text=Text(
                    tokens=1024,
                    outputs=("prompt_embeds", "prompt_embeds_mask"),
                    negative=Negative.APART,
                    arguments=MappingProxyType({"max_sequence_length": 1024}),
                ),
                guidance=Guidance("true_cfg_scale", slow=4.0, fast=1.0),  # diffusers' default; none
                learning_rate=3e-4,  # the method's published value (rank 32, alpha 4 x rank)
                trains_on_mps=False,  # "not supported" (SimpleTuner's QWEN_IMAGE.md)
                # Without it SimpleTuner 4.10 would take another architecture for its default.
                training_options=MappingProxyType({"model_flavour": "v1.0"}),
                # The pipeline cuts given embeddings at 512 otherwise.
                sampling_options=MappingProxyType({"max_sequence_length": 1024}),
            ),
            Family(
                name="z_image",
                title="Z-Image",
                simpletuner_name="z_image",
                pipeline="ZImagePipeline",
                default_model="Tongyi-MAI/Z-Image",
                text=Text(
                    tokens=512,
                    outputs=("prompt_embeds", "negative_prompt_embeds"),
                    negative=Negative.TOGETHER,
                ),
                # cond + scale x (cond - uncond): 0 is none. The slow one is diffusers' default.
                guidance=Guidance("guidance_scale", slow=5.0, fast=0.0, off=0.0),
                learning_rate=5e-4,  # nobody has published one: FLUX's
                trains_on_mps=True,
            ),
            Family(
                name="lumina2",
                title="Lumina-Image 2",
                simpletuner_name="lumina2",
                pipeline="Lumina2Pipeline",
                default_model="Alpha-VLLM/Lumina-Image-2.0",
                text=Text(
                    tokens=256,
                    outputs=(
                        "prompt_embeds",
                        "prompt_attention_mask",
                        "negative_prompt_embeds",
                        "negative_prompt_attention_mask",
                    ),
                    negative=Negative.TOGETHER,
                ),
                guidance=Guidance("guidance_scale", slow=4.0, fast=1.0),  # diffusers' default; none
                learning_rate=5e-4,  # nobody has published one: FLUX's
                trains_on_mps=True,
            ),
            Family(
                name="krea2",
                title="Krea 2",
                simpletuner_name="krea2",
                pipeline="Krea2Pipeline",
                default_model="krea/Krea-2-Raw",
                text=Text(
                    tokens=512,
                    outputs=("prompt_embeds", "prompt_embeds_mask"),
                    negative=Negative.APART,
                ),
                # As Z-Image's.
                guidance=Guidance("guidance_scale", slow=4.5, fast=0.0, off=0.0),
                learning_rate=5e-4,  # nobody has published one: FLUX's
                trains_on_mps=False,  # SimpleTuner's KREA2.md
            ),
        )
    }
)


NOT_FLOWS: Mapping[str, str] = MappingProxyType(
    {
        "StableDiffusionPipeline": "Stable Diffusion 1.5 and 2",
        "StableDiffusionXLPipeline": "SDXL",
        "KolorsPipeline": "Kolors",
        "PixArtAlphaPipeline": "PixArt",
        "PixArtSigmaPipeline": "PixArt",
        "HunyuanDiTPipeline": "Hunyuan-DiT",
        "StableCascadeCombinedPipeline": "Stable Cascade",
    }
)
"""Pipelines of models that learnt to predict noise: they have no sigmas that a list could name."""


def family_of_pipeline(pipeline: str) -> Family:
    """Return the row of a diffusers pipeline class; raise SettingsError if there is none."""
    for family in FAMILIES.values():
        if family.pipeline == pipeline:
            return family
    if pipeline in NOT_FLOWS:
        raise SettingsError(
            f"{NOT_FLOWS[pipeline]} ({pipeline}) is no flow model: it predicts noise at DDPM "
            "timesteps, and the method's lists mean nothing to it",
            hint=f"glance trains: {', '.join(FAMILIES)}",
        )
    raise SettingsError(
        f"models of {pipeline} are not supported", hint=f"glance trains: {', '.join(FAMILIES)}"
    )


def find_family(name: str) -> Family:
    """Return the row of `name`; raise SettingsError naming the known ones."""
    family = FAMILIES.get(name)
    if family is None:
        raise SettingsError(
            f"family {name!r} is not supported",
            hint=f"choose one of: {', '.join(FAMILIES)}",
        )
    return family
