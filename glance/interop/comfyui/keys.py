"""A finished LoRA by the names that ComfyUI maps to its own models, with alpha beside each pair.

ComfyUI (comfy/lora.py) maps `transformer.<module of diffusers>` for most families, and reads alpha
only from tensors: without them it is taken as the rank. Where it maps nothing, the file gets the
names of ComfyUI's model.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from glance.core.errors import LoraError, Problem
from glance.models.families import Family
from glance.models.lora.file import ADAPTER_METADATA, DOWN, PREFIX, UP, Lora, Tensor, hash_tensors
from glance.models.lora.pairs import name_some
from glance.runs.modelspec import SPEC

_NATIVE: Final = "diffusion_model."
_ALPHA: Final = ".alpha"
_PROJECTIONS: Final = ("to_q", "to_k", "to_v")
_PROJECTION: Final = re.compile(r"(.+)\.(?:attn|attention)\.(to_q|to_k|to_v)")


def to_comfyui(lora: Lora, family: Family) -> Lora:
    """Return the LoRA as ComfyUI reads it: the same change of the same weights.

    `lora` has diffusers' names and scale 1, as a finished run's has; the pairs keep their values.
    Where ComfyUI has one projection for q, k and v, theirs become one pair of three times the
    rank: A stacks the three, (3 rank, in), B has them in its diagonal, (q + k + v, 3 rank).

    Raises LoraError for layers that have no name in ComfyUI.
    """
    pairs = {
        f"{PREFIX}{module}": (
            lora.tensors[f"{PREFIX}{module}{DOWN}"],
            lora.tensors[f"{PREFIX}{module}{UP}"],
        )
        for module in lora.modules
    }
    if family.comfyui.fuses_qkv:
        pairs = _fuse(pairs, family)
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        rank = np.array(down.shape[0], dtype="<f4")
        tensors |= {
            f"{name}{DOWN}": down,
            f"{name}{UP}": up,
            f"{name}{_ALPHA}": Tensor("F32", (), rank.tobytes()),
        }
    return Lora(tensors, _rename(lora.metadata, tensors, family))


def _rename(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor], family: Family
) -> dict[str, str]:
    """Return the header's metadata, true again."""
    # diffusers takes alpha from tensors or from its metadata, and refuses both
    kept = {key: text for key, text in metadata.items() if key != ADAPTER_METADATA}
    if f"{SPEC}hash_sha256" in kept:
        kept[f"{SPEC}hash_sha256"] = f"0x{hash_tensors(tensors)}"
    if family.comfyui.fuses_qkv:
        rank = max(tensor.shape[0] for key, tensor in tensors.items() if key.endswith(DOWN))
        changed = {
            f"{SPEC}implementation": "https://github.com/comfyanonymous/ComfyUI",
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(rank),
        }
        kept |= {key: text for key, text in changed.items() if key in kept}
    return kept


def _fuse(
    pairs: Mapping[str, tuple[Tensor, Tensor]], family: Family
) -> dict[str, tuple[Tensor, Tensor]]:
    """Give the layers ComfyUI's names, and one pair for q, k and v."""
    blocks: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    named: dict[str, tuple[Tensor, Tensor]] = {}
    strangers = []
    for name, pair in pairs.items():
        module = name.removeprefix(PREFIX)
        if match := _PROJECTION.fullmatch(module):
            blocks.setdefault(match[1], {})[match[2]] = pair
        elif own := _own_name(module, family):
            named[f"{_NATIVE}{own}"] = pair
        else:
            strangers.append(name)
    partial = [block for block, parts in blocks.items() if len(parts) < len(_PROJECTIONS)]
    if strangers or partial:
        raise LoraError([_unnamed(family, [*strangers, *partial])])
    for block, parts in blocks.items():
        three = [parts[name] for name in _PROJECTIONS]
        downs, ups = (_alike([pair[half] for pair in three]) for half in (0, 1))
        named[f"{_NATIVE}{block}.attention.qkv"] = (_stack(downs), _diagonal(ups))
    return named


def _own_name(module: str, family: Family) -> str | None:
    """Return what ComfyUI's model calls a block's layer; None: it has no such layer."""
    for end, own in family.comfyui.layer_names.items():
        if re.fullmatch(rf".+\.\d+\.{re.escape(end)}", module):
            return module.removesuffix(end) + own
    return None


def _unnamed(family: Family, names: list[str]) -> Problem:
    return Problem(
        f"ComfyUI's {family.title} has no layer to put these in: {name_some(names)}",
        "train without --set lora targets, or use `glance export diffusers`",
    )


def _alike(tensors: list[Tensor]) -> list[Tensor]:
    """Return them in one format: their own, or one that holds the values of all."""
    if len({tensor.dtype for tensor in tensors}) == 1:
        return tensors
    values = [tensor.to_float() for tensor in tensors]
    widest = np.result_type(*values, np.float32)  # bf16 and f16 hold what the other cannot
    return [
        Tensor(f"F{8 * widest.itemsize}", one.shape, one.astype(widest).tobytes()) for one in values
    ]


def _stack(tensors: list[Tensor]) -> Tensor:
    rows = np.concatenate([_bits(tensor) for tensor in tensors])
    return Tensor(tensors[0].dtype, rows.shape, rows.tobytes())


def _diagonal(tensors: list[Tensor]) -> Tensor:
    blocks = [_bits(tensor) for tensor in tensors]
    height, width = (sum(block.shape[axis] for block in blocks) for axis in (0, 1))
    whole = np.zeros((height, width), blocks[0].dtype)  # no bits: the number 0 in every format
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return Tensor(tensors[0].dtype, whole.shape, whole.tobytes())


def _bits(tensor: Tensor) -> NDArray[np.unsignedinteger[Any]]:
    """Return the values' bits: numpy has no bf16, and nothing is computed."""
    width = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}[tensor.dtype]
    bits: NDArray[np.unsignedinteger[Any]] = np.frombuffer(tensor.data, dtype=width)
    return bits.reshape(tensor.shape)
