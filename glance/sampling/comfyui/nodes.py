"""The nodes of ComfyUI that a workflow of ours is made of, as `/object_info` describes them.

A test holds this table to a recording of that description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_WIDGETS: Final = ("INT", "FLOAT", "STRING", "COMBO")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output."""

    name: str
    type: str

    @property
    def is_widget(self) -> bool:
        """Whether a value is typed into it, in place of a link."""
        return self.type in _WIDGETS


@dataclass(frozen=True, slots=True)
class NodeKind:
    """One class of nodes; its ports are in ComfyUI's order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    extra_widgets: tuple[str, ...] = ()
    """Values that the page's own widgets add behind those of the inputs."""


def _kind(inputs: str, outputs: str, *extra_widgets: str) -> NodeKind:
    return NodeKind(_ports(inputs), _ports(outputs), extra_widgets)


def _ports(text: str) -> tuple[Port, ...]:
    """Read `name:TYPE name:TYPE`; a type alone is its own name."""
    pairs = (word.partition(":") for word in text.split())
    return tuple(Port(name, kind or name) for name, _, kind in pairs)


NODES: Final[Mapping[str, NodeKind]] = MappingProxyType(
    {
        "UNETLoader": _kind("unet_name:COMBO weight_dtype:COMBO", "MODEL"),
        "CheckpointLoaderSimple": _kind("ckpt_name:COMBO", "MODEL CLIP VAE"),
        "CLIPLoader": _kind("clip_name:COMBO type:COMBO device:COMBO", "CLIP"),
        "DualCLIPLoader": _kind(
            "clip_name1:COMBO clip_name2:COMBO type:COMBO device:COMBO", "CLIP"
        ),
        "QuadrupleCLIPLoader": _kind(
            "clip_name1:COMBO clip_name2:COMBO clip_name3:COMBO clip_name4:COMBO", "CLIP"
        ),
        "VAELoader": _kind("vae_name:COMBO", "VAE"),
        "LoraLoaderModelOnly": _kind("model:MODEL lora_name:COMBO strength_model:FLOAT", "MODEL"),
        "CLIPTextEncode": _kind("text:STRING clip:CLIP", "CONDITIONING"),
        "FluxGuidance": _kind("conditioning:CONDITIONING guidance:FLOAT", "CONDITIONING"),
        "BasicGuider": _kind("model:MODEL conditioning:CONDITIONING", "GUIDER"),
        "CFGGuider": _kind(
            "model:MODEL positive:CONDITIONING negative:CONDITIONING cfg:FLOAT", "GUIDER"
        ),
        # the page adds what happens to the seed after each picture
        "RandomNoise": _kind("noise_seed:INT", "NOISE", "fixed"),
        "DisableNoise": _kind("", "NOISE"),
        "KSamplerSelect": _kind("sampler_name:COMBO", "SAMPLER"),
        "ManualSigmas": _kind("sigmas:STRING", "SIGMAS"),
        "SplitSigmas": _kind("sigmas:SIGMAS step:INT", "high_sigmas:SIGMAS low_sigmas:SIGMAS"),
        "EmptySD3LatentImage": _kind("width:INT height:INT batch_size:INT", "LATENT"),
        "EmptyLatentImage": _kind("width:INT height:INT batch_size:INT", "LATENT"),
        "EmptyFlux2LatentImage": _kind("width:INT height:INT batch_size:INT", "LATENT"),
        "SamplerCustomAdvanced": _kind(
            "noise:NOISE guider:GUIDER sampler:SAMPLER sigmas:SIGMAS latent_image:LATENT",
            "output:LATENT denoised_output:LATENT",
        ),
        "VAEDecode": _kind("samples:LATENT vae:VAE", "IMAGE"),
        "SaveImage": _kind("images:IMAGE filename_prefix:STRING", ""),
        # the page adds the button that uploads
        "LoadImage": _kind("image:COMBO", "IMAGE MASK", "image"),
        "TextEncodeQwenImageEditPlus": _kind(
            "clip:CLIP prompt:STRING vae:VAE image1:IMAGE", "CONDITIONING"
        ),
        "FluxKontextMultiReferenceLatentMethod": _kind(
            "conditioning:CONDITIONING reference_latents_method:COMBO", "CONDITIONING"
        ),
    }
)
"""By ComfyUI's names; optional inputs that are never used are left out."""
