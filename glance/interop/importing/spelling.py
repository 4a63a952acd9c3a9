"""Anybody's spelling of a LoRA's keys as diffusers' own, without torch: names alone are needed.

What only diffusers' converters can bring over, a model's original layout with its fused layers,
is refused here: `glance infer --slow-lora` takes it as it is.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from glance.core.errors import LoraError, Problem
from glance.core.files import require_file
from glance.models.base import read_model_json
from glance.models.lora.file import DOWN, PREFIX, UP, Lora, Tensor
from glance.models.lora.pairs import name_some, sort_keys

_INDEX: Final = "transformer/diffusion_pytorch_model.safetensors.index.json"
_ORIGINAL: Final = re.compile(r"(double|single|joint)_blocks[._]")
_WEIGHT: Final = ".weight"


def layer_names(model: str) -> frozenset[str] | None:
    """Return the layers of a model's transformer: a folder's, or a Hub model's by its index.

    None where nobody can say without loading it.
    """
    index = read_model_json(model, _INDEX)
    if index is not None and isinstance(index.get("weight_map"), dict):
        return _layers(index["weight_map"])
    keys: list[str] = []
    for path in sorted(Path(model).expanduser().glob("transformer/*.safetensors")):
        with suppress(OSError, SafetensorError):
            require_file(path)
            with safe_open(path, framework="numpy") as file:
                keys += file.keys()
    return _layers(keys) or None


def respell(
    lora: Lora, factors: Mapping[str, float], *, path: Path, known: Collection[str] | None
) -> Lora:
    """Return the LoRA with diffusers' keys, each layer's factor multiplied into lora_B.

    A factor of 1 leaves the values as they are, to the bit. `known` are the model's layers, None
    when nobody can say: then names with dots are taken as they are. Raises LoraError naming the
    layers that the model lacks, or ranks that differ.
    """
    pairs = sort_keys(lora.tensors).pairs
    names = _place([pair.layer for pair in pairs], known, path=path)
    ranks = {lora.tensors[pair.down].shape[0] for pair in pairs}
    if len(ranks) > 1:
        raise LoraError(
            f"{path}: its layers have ranks {', '.join(map(str, sorted(ranks)))}, a run has one",
            hint=_AS_IT_IS,
        )
    tensors: dict[str, Tensor] = {}
    for pair in pairs:
        name, factor = names[pair.layer], factors[pair.layer]
        up = lora.tensors[pair.up]
        tensors[f"{PREFIX}{name}{DOWN}"] = lora.tensors[pair.down]
        tensors[f"{PREFIX}{name}{UP}"] = up if factor == 1 else up.scaled(factor)
    return Lora(tensors, {"format": "pt"})


def _layers(keys: Collection[str]) -> frozenset[str]:
    return frozenset(key.removesuffix(_WEIGHT) for key in keys if key.endswith(_WEIGHT))


def _place(layers: list[str], known: Collection[str] | None, *, path: Path) -> dict[str, str]:
    """Return each layer's name in the model; kohya has "_" where the model has "."."""
    if known is not None:
        underscored = {layer.replace(".", "_"): layer for layer in known}
        places = {layer: underscored.get(layer.replace(".", "_")) for layer in layers}
    else:
        places = {layer: layer if _is_diffusers(layer) else None for layer in layers}
    if lost := [layer for layer, place in places.items() if place is None]:
        raise LoraError([_lost_problem(lost, len(layers), path, is_known=known is not None)])
    return {layer: place for layer, place in places.items() if place is not None}


def _is_diffusers(layer: str) -> bool:
    return "." in layer and not _ORIGINAL.match(layer)


def _lost_problem(lost: list[str], count: int, path: Path, *, is_known: bool) -> Problem:
    named = f"{path}: {len(lost)} of its {count} layers are not named as diffusers names them"
    if is_known and not any(_ORIGINAL.match(layer) for layer in lost):
        return Problem(
            f"{path}: the model has no layer {name_some(lost)}", "is it for another base model?"
        )
    if not is_known and not any(_ORIGINAL.match(layer) for layer in lost):
        return Problem(
            f"{named}, first {lost[0]}, and the model is not here to find them in",
            "give --model a folder that holds it",
        )
    return Problem(f"{named} but in the model's original layout, first {lost[0]}", _AS_IT_IS)


_AS_IT_IS: Final = (
    "it cannot be imported, but is painted with: glance infer --slow-lora, --fast-lora"
)
