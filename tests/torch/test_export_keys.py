"""Does diffusers read a LoRA by ComfyUI's names as it reads the run's own?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from plain_loops import load

from glance.interop.comfyui import to_comfyui
from glance.models.families import find_family
from glance.models.lora.file import ADAPTER_METADATA, Lora, read_lora, write_lora
from glance.models.lora.keys import adapter_config

EXPORTED = Path("exported.safetensors")


def changes(model: Path, lora: Path) -> dict[str, torch.Tensor]:
    """Let a pipeline load a LoRA; return what it adds to each layer's weight: scale B A."""
    transformer = load(model, {"slow": lora.resolve()}).transformer
    return {
        name: module.scaling["slow"] * (module.lora_B["slow"].weight @ module.lora_A["slow"].weight)
        for name, module in transformer.named_modules()
        if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize("is_finished", [False, True], ids=["bare", "finished"])
def test_diffusers_makes_the_same_changes_of_both(
    is_finished: bool, tiny_flux: Path, loras: dict[str, Path]
) -> None:
    own = read_lora(loras["slow"])
    # what a finished run says of alpha: diffusers refuses it beside tensors of alpha
    config = adapter_config(dict.fromkeys(own.modules, own.rank))
    metadata = {ADAPTER_METADATA: json.dumps(config)} if is_finished else {}
    write_lora(to_comfyui(Lora(own.tensors, metadata), find_family("flux")), EXPORTED)

    exported = changes(tiny_flux, EXPORTED)

    expected = changes(tiny_flux, loras["slow"])
    assert exported.keys() == expected.keys() == set(own.modules)
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    assert all(change.abs().max() > 0 for change in expected.values())


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("lumina2", single_file_utils.convert_lumina2_to_diffusers),
        ("z_image", single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers),
    ],
)
def test_diffusers_gives_comfyuis_layers_the_names_that_they_had(name: str, read: Any) -> None:
    """With what it reads single files of these families, which have ComfyUI's names."""
    layers = find_family(name).comfyui.layer_names
    weights = {f"layers.3.{own}.weight": torch.tensor(i) for i, own in enumerate(layers.values())}

    expected = {f"layers.3.{end}.weight": torch.tensor(i) for i, end in enumerate(layers)}
    assert read(weights) == expected
