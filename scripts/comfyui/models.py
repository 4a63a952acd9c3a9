"""The families' transformers at full size, as diffusers and as ComfyUI build them; no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import diffusers
import torch

from scripts.comfyui.checkout import Checkout


@dataclass(frozen=True, slots=True)
class FullSize:
    """One family's transformer."""

    diffusers: str
    """The class in diffusers."""
    config: Mapping[str, Any] = MappingProxyType({})
    """What the published model has that the class's defaults have not."""
    comfyui: str | None = None
    """The class in ComfyUI's supported_models, where its own detection needs more than shapes."""
    unet_config: Mapping[str, Any] = MappingProxyType({})
    """What that is told."""
    differs: tuple[str, ...] = ()
    """Ends of layers that it has otherwise, where it is a related family's."""


FULL_SIZE: Final[Mapping[str, FullSize]] = MappingProxyType(
    {
        "flux": FullSize("FluxTransformer2DModel", {"guidance_embeds": True}),
        "sd3": FullSize(
            "SD3Transformer2DModel",
            {
                "num_layers": 24,
                "num_attention_heads": 24,
                "attention_head_dim": 64,
                "caption_projection_dim": 1536,
                "dual_attention_layers": tuple(range(13)),
                "qk_norm": "rms_norm",
                "pos_embed_max_size": 384,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 2048,
                "out_channels": 16,
            },
        ),
        "qwen_image": FullSize("QwenImageTransformer2DModel"),
        "qwen_image_edit_2509": FullSize("QwenImageTransformer2DModel"),
        "qwen_image_edit_2511": FullSize("QwenImageTransformer2DModel"),
        "auraflow": FullSize("AuraFlowTransformer2DModel", {"pos_embed_max_size": 9216}),
        "lumina2": FullSize(
            "Lumina2Transformer2DModel",
            {"cap_feat_dim": 2304},
            "Lumina2",
            {
                "image_model": "lumina2",
                "patch_size": 2,
                "in_channels": 16,
                "dim": 2304,
                "cap_feat_dim": 2304,
                "n_layers": 26,
                "n_heads": 24,
                "n_kv_heads": 8,
                "qk_norm": True,
                "axes_dims": [32, 32, 32],
                "axes_lens": [300, 512, 512],
            },
        ),
        "chroma": FullSize(
            "ChromaTransformer2DModel",
            {},
            "Chroma",
            {
                "image_model": "chroma",
                "in_channels": 64,
                "out_channels": 64,
                "in_dim": 64,
                "out_dim": 3072,
                "hidden_dim": 5120,
                "n_layers": 5,
                "patch_size": 2,
                "context_in_dim": 4096,
                "hidden_size": 3072,
                "mlp_ratio": 4.0,
                "num_heads": 24,
                "depth": 19,
                "depth_single_blocks": 38,
                "axes_dim": [16, 56, 56],
                "theta": 10000,
                "qkv_bias": True,
            },
        ),
        "hidream": FullSize(
            "HiDreamImageTransformer2DModel",
            {
                "patch_size": 2,
                "in_channels": 16,
                "out_channels": 16,
                "num_layers": 16,
                "num_single_layers": 32,
                "attention_head_dim": 128,
                "num_attention_heads": 20,
                "caption_channels": [4096, 4096],
                "text_emb_dim": 2048,
                "num_routed_experts": 4,
                "num_activated_experts": 2,
                "axes_dims_rope": (64, 32, 32),
                "max_resolution": (128, 128),
                "llama_layers": [*range(32), *[31] * 16],
            },
        ),
        "flux2": FullSize("Flux2Transformer2DModel"),
        "flux2_klein": FullSize(
            "Flux2Transformer2DModel",
            {
                "num_layers": 5,
                "num_single_layers": 20,
                "num_attention_heads": 24,
                "joint_attention_dim": 7680,
                "guidance_embeds": False,
            },
        ),
        # ComfyUI's Lumina 2 is what its Z-Image is made of: the same layers by the same names, but
        # for the modulation, which has one more module before it.
        "z_image": FullSize(
            "ZImageTransformer2DModel",
            {},
            "Lumina2",
            {
                "image_model": "lumina2",
                "patch_size": 2,
                "in_channels": 16,
                "dim": 3840,
                "cap_feat_dim": 2560,
                "n_layers": 30,
                "n_heads": 30,
                "n_kv_heads": 30,
                "qk_norm": True,
                "axes_dims": [32, 48, 48],
                "ffn_dim_multiplier": 2 / 3,
                "axes_lens": [300, 512, 512],
            },
            ("adaLN_modulation.0",),
        ),
        "krea2": FullSize("Krea2Transformer2DModel"),
    }
)


def build_in_diffusers(name: str) -> torch.nn.Module:
    """Return the transformer of a family, all of its weights on the device `meta`."""
    full = FULL_SIZE[name]
    with torch.device("meta"):
        model: torch.nn.Module = getattr(diffusers, full.diffusers)(**full.config)
    return model


def build_in_comfyui(checkout: Checkout, name: str, model: torch.nn.Module) -> Any | None:
    """Return ComfyUI's own model of the family, on `meta`; None: the checkout has none.

    Where it can, ComfyUI itself converts and detects it from the weights of diffusers' `model`.
    """
    full = FULL_SIZE[name]
    detection = checkout.module("comfy.model_detection")
    if full.comfyui is not None:
        supported = checkout.module("comfy.supported_models")
        config = getattr(supported, full.comfyui)(dict(full.unet_config))
    else:
        weights = dict(model.state_dict())
        config = _detect(detection, weights)
        if config is None:
            return None
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, "", device="meta")


def _detect(detection: Any, weights: dict[str, torch.Tensor]) -> Any | None:
    try:
        converted = detection.convert_diffusers_mmdit(dict(weights), "")
        return detection.model_config_from_unet(converted or weights, "")
    except (KeyError, RuntimeError):  # a newer family that looks like one that it knows
        return None
