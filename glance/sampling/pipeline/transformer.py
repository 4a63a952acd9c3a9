"""The transformer of a single file, in the layout that both SimpleTuner and diffusers load."""

import shutil
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from safetensors.torch import load_file

from glance.core.errors import ModelNotFound
from glance.models.checkpoint import Checkpoint, scale_of

_FP8: Final = (torch.float8_e4m3fn, torch.float8_e5m2)
_BESIDE: Final = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant")


def load_transformer(checkpoint: Checkpoint, base: str, dtype: torch.dtype | None = None) -> Any:
    """Return the file's transformer, built as that of the whole model `base`.

    Without `dtype` it keeps the file's own; fp8, which nothing computes in, becomes bfloat16.
    Raises ModelNotFound when the file does not fit the base.
    """
    path = checkpoint.path
    try:
        _, class_name = diffusers.DiffusionPipeline.load_config(base)["transformer"]
        tensors = _read(checkpoint)
        transformer = getattr(diffusers, class_name).from_single_file(
            tensors,
            config=base,
            subfolder="transformer",
            torch_dtype=dtype or _dtype_of(tensors),
        )
    except (OSError, ValueError, RuntimeError, LookupError, NotImplementedError) as exc:
        raise ModelNotFound(
            f"model {path} does not fit {base}: {str(exc).strip().splitlines()[0]}",
            hint="say with --base which whole model it was made of",
        ) from exc
    missing = [name for name, tensor in transformer.state_dict().items() if tensor.is_meta]
    if missing:
        raise ModelNotFound(
            f"model {path} lacks {len(missing)} tensors that {base} has, {missing[0]} among them",
            hint="say with --base which whole model it was made of",
        )
    return transformer


def write_transformer(checkpoint: Checkpoint, base: str, target: Path) -> None:
    """Write the file's transformer to the folder `target`, whole or not at all."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    load_transformer(checkpoint, base).save_pretrained(unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def _read(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the tensors without prefix and other parts, scaled fp8 multiplied out."""
    found = {
        name.removeprefix(checkpoint.prefix): tensor
        for name, tensor in load_file(checkpoint.path).items()
        if name.startswith(checkpoint.prefix)
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        if tensor.dtype not in _FP8:
            tensors[name] = tensor
        elif scale := scale_of(name, found):
            tensors[name] = (tensor.float() * found[scale].float()).bfloat16()
        else:
            tensors[name] = tensor.bfloat16()
    for name in found:
        if name == "scaled_fp8" or name.endswith(_BESIDE):
            tensors.pop(name)
    return tensors


def _dtype_of(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """Return what most numbers are in."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype])
