"""One row a model family: every fact in which families differ, and no behaviour.

A new family is a new row here, a test and a golden config; no other file names a family.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from glance.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Family:
    """How one family is called, trained and sampled."""

    name: str
    title: str
    simpletuner_name: str
    pipeline: str
    """The diffusers pipeline class, by name: looked up only when a model is loaded."""
    default_model: str
    resolution: int
    size_multiple: int
    """Width and height of a picture must be multiples of this many pixels."""
    text_tokens: int
    """What the longest text encoder reads; the rest of a caption is cut."""
    learning_rate: float
    prompt_outputs: tuple[str | None, ...]
    """What `encode_prompt` returns, as keyword arguments of the pipeline (None: not passed on)."""
    guidance_argument: str
    slow_guidance: float
    fast_guidance: float
    trains_on_mps: bool
    training_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """SimpleTuner options that only this family has."""


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "flux": Family(
            name="flux",
            title="FLUX.1",
            simpletuner_name="flux",
            pipeline="FluxPipeline",
            default_model="black-forest-labs/FLUX.1-dev",
            resolution=1024,
            size_multiple=16,  # 8x in the VAE, 2x2 packing
            text_tokens=512,  # T5; SimpleTuner pads to it
            learning_rate=5e-4,  # the method's published value for FLUX (with alpha = 4 x rank)
            prompt_outputs=("prompt_embeds", "pooled_prompt_embeds", None),
            guidance_argument="guidance_scale",
            slow_guidance=3.5,  # the guide leaves the pipeline's default here ...
            fast_guidance=1.0,  # ... and asks for 1.0 here
            trains_on_mps=False,  # "Apple GPUs do not currently work" (SimpleTuner's FLUX.md)
            training_options=MappingProxyType(
                {
                    # Every attention projection of both block kinds: SimpleTuner's default, stated.
                    "flux_lora_target": "all",
                    # The method trains the guidance-distilled model at guidance 1.
                    "flux_guidance_mode": "constant",
                    "flux_guidance_value": 1.0,
                }
            ),
        ),
    }
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
