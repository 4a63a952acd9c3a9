"""The layers of a family's `block_layers`: what PEFT makes of their names in diffusers' models."""

import re
from importlib import import_module
from typing import Any, Final

import pytest
import torch
from peft import LoraConfig

from glance.models.families import FAMILIES, find_family

_BLOCKS: Final = re.compile(r"(text_fusion\.)?(\w+_blocks|\w+_refiner|layers)\.\d+\..+")
"""Where a transformer's repeated blocks are; Chroma's guidance layer has `layers` of its own."""
OUTSIDE: Final = {"flux": {"proj_out"}, "chroma": {"proj_out"}}
"""The last layer of the model, where no end of a name tells it from those of the blocks."""


def cover(transformer: Any, ends: tuple[str, ...]) -> set[str]:
    """Give a transformer an adapter as SimpleTuner does; return the layers that got one."""
    transformer.add_adapter(LoraConfig(r=2, target_modules=list(ends)), adapter_name="probe")
    return {name for name, module in transformer.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_all_linear_layers_of_the_blocks_and_diffusers_loads_them(family: str) -> None:
    row, make = find_family(family), import_module(f"tiny_models.{family}").make
    pipe, transformer = make(), make().transformer
    layers = dict(pipe.transformer.named_modules())
    linear = {name for name, module in layers.items() if isinstance(module, torch.nn.Linear)}
    names = [name for name, module in layers.items() if not list(module.children())]
    trained = {name for name in names if name.endswith(tuple(f".{e}" for e in row.lora_targets))}

    covered = cover(transformer, row.block_layers)

    assert covered - OUTSIDE.get(family, set()) == {n for n in linear if _BLOCKS.fullmatch(n)}
    assert OUTSIDE.get(family, set()) <= covered
    assert set() < trained <= covered, "what is trained by default is among them"
    # The tiny models have one block or two, and the names with a number are for all of a model's.
    ends = {re.sub(r"\d+(?=\.a)", "0", end) for end in row.block_layers}
    idle = [end for end in ends if not any(f".{name}".endswith(f".{end}") for name in covered)]
    assert idle == []
    tensors = {}
    for name in covered:
        tensors[f"transformer.{name}.lora_A.weight"] = torch.ones(2, layers[name].in_features)
        tensors[f"transformer.{name}.lora_B.weight"] = torch.ones(layers[name].out_features, 2)
    pipe.load_lora_weights(tensors, adapter_name="slow")
    loaded = {name for name, m in pipe.transformer.named_modules() if hasattr(m, "lora_A")}
    assert loaded == covered
