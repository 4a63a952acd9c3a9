"""SimpleTuner's own transformers have the layers of `block_layers` by the same names."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from peft import LoraConfig

from glance.models.families import FAMILIES, Family

LIST_LAYERS = """
import json, sys, torch
from peft import LoraConfig
from simpletuner.helpers.models.registry import ModelRegistry
for line in sys.stdin:
    family, config, ends = json.loads(line)
    with torch.device("meta"):
        model = ModelRegistry.get(family).MODEL_CLASS.from_config(config)
    model.add_adapter(LoraConfig(r=2, target_modules=ends))
    names = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    print("layers", type(model).__module__, *sorted(names))
"""


def build_in_diffusers(family: Family) -> Any:
    return import_module(f"tiny_models.{family.name}").make().transformer


def test_the_same_layers_get_an_adapter_in_its_model_and_in_diffusers(tmp_path: Path) -> None:
    expected, asked = [], []
    for family in FAMILIES.values():
        model = build_in_diffusers(family)
        ends = list(family.block_layers)
        asked.append(json.dumps([family.simpletuner_name, dict(model.config), ends]))
        model.add_adapter(LoraConfig(r=2, target_modules=ends))
        expected.append(sorted(n for n, m in model.named_modules() if hasattr(m, "lora_A")))

    done = subprocess.run(
        [sys.executable, "-c", LIST_LAYERS],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )

    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("layers ")]
    assert [names for _, *names in found] == expected, done.stderr[-2000:]
    assert {place.split(".")[0] for place, *_ in found} == {"simpletuner"}
