"""A tiny model's transformer as one file, in the layouts that people have."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

COMFY = "model.diffusion_model."
FP8 = torch.float8_e4m3fn
Tensors = Mapping[str, torch.Tensor]


def weights(model: Path) -> dict[str, torch.Tensor]:
    """The transformer's tensors by diffusers' names."""
    return load_file(model / "transformer/diffusion_pytorch_model.safetensors")


def write(tensors: Tensors, path: Path, *, prefix: str = "") -> Path:
    """Write them, each name after `prefix`."""
    save_file({f"{prefix}{name}": tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def original_z_image(tensors: Tensors) -> dict[str, torch.Tensor]:
    """As Z-Image itself and ComfyUI name them: q, k and v are one."""
    fused: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if ".attention.to_q." in name:
            parts = [tensors[name.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            fused[name.replace(".to_q.", ".qkv.")] = torch.cat(parts)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            for ours, theirs in _Z_IMAGE.items():
                name = name.replace(ours, theirs)
            fused[name] = tensor
    return fused


def in_fp8(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Matrices in eight bits, as they are."""
    return {
        name: tensor.to(FP8) if tensor.ndim == 2 else tensor for name, tensor in tensors.items()
    }


def in_scaled_fp8(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Matrices in eight bits, each with the factor that fills their range, as ComfyUI has them."""
    scaled: dict[str, torch.Tensor] = {"scaled_fp8": torch.empty(2, dtype=FP8)}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or not name.endswith(".weight"):
            scaled[name] = tensor
            continue
        scale = tensor.abs().max() / torch.finfo(FP8).max
        scaled[name] = (tensor / scale).to(FP8)
        scaled[name.removesuffix(".weight") + ".scale_weight"] = scale
    return scaled


_Z_IMAGE = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    ".attention.to_out.0": ".attention.out",
    ".attention.norm_k": ".attention.k_norm",
    ".attention.norm_q": ".attention.q_norm",
}
