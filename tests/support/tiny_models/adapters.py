"""Random LoRAs for any tiny model, strong enough to be seen, with the keys SimpleTuner writes."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

PHASES = ("slow", "fast")


def make_loras(model: Path, folder: Path) -> dict[str, Path]:
    """Write `<phase>/pytorch_lora_weights.safetensors` below `folder`, on q, k and v."""
    _, class_name = json.loads((model / "model_index.json").read_text())["transformer"]
    transformer = getattr(diffusers, class_name).from_pretrained(model / "transformer")
    targets = {
        name: module
        for name, module in transformer.named_modules()
        if name.endswith((".to_q", ".to_k", ".to_v"))
    }
    paths: dict[str, Path] = {}
    for seed, phase in enumerate(PHASES):
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, Any] = {}
        for name, module in targets.items():
            key, shapes = f"transformer.{name}", ((4, module.in_features), (module.out_features, 4))
            down, up = (torch.randn(shape, generator=generator) for shape in shapes)
            tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": 0.3 * up}
        paths[phase] = folder / phase / "pytorch_lora_weights.safetensors"
        paths[phase].parent.mkdir(parents=True)
        save_file(tensors, paths[phase], metadata={"format": "pt"})
    return paths
