"""What glance believes about SimpleTuner, asked of the installed one in one process of its own."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from glance.models.families import FAMILIES

ROOT = Path(__file__).parents[2]
QUESTIONS = """
import gc; gc.disable()
import json, runpy, sys, torch
from peft import LoraConfig
from simpletuner.helpers.configuration.cli_utils import mapping_to_cli_args
from simpletuner.helpers.configuration.cmd_args import parse_cmdline_args
from simpletuner.helpers.models.registry import ModelRegistry

asked = json.load(sys.stdin)
parsed = []
for given in asked["configs"]:
    # what SimpleTuner itself does with config.json; parsing checks names, types and choices
    found = vars(parse_cmdline_args(mapping_to_cli_args(given), exit_on_error=True))
    parsed.append({name: str(found[name]) for name in given})
layers = []
for family, config, ends in asked["models"]:
    with torch.device("meta"):
        model = ModelRegistry.get(family).MODEL_CLASS.from_config(config)
    model.add_adapter(LoraConfig(r=2, target_modules=ends))
    names = sorted(name for name, module in model.named_modules() if hasattr(module, "lora_A"))
    layers.append([type(model).__module__, names])
print("answers", json.dumps({"parsed": parsed, "layers": layers}))
print("options")
sys.argv = ["record_options", "--print"]
runpy.run_path(asked["script"], run_name="__main__")
"""
COMPARED = ("model_family", "lora_rank", "flow_custom_timesteps", "max_train_steps", "optimizer")
CONFIGS = [json.loads(path.read_bytes()) for path in sorted(ROOT.glob("configs/**/config.json"))]


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """Each family's transformer, built in diffusers."""
    return [import_module(f"tiny_models.{family}").make().transformer for family in FAMILIES]


@pytest.fixture(scope="module")
def answers(models: list[Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    asked = {
        "configs": CONFIGS,
        "models": [
            [family.simpletuner_name, dict(model.config), list(family.block_layers)]
            for family, model in zip(FAMILIES.values(), models, strict=True)
        ],
        "script": str(ROOT / "scripts/record_options.py"),
    }
    done = subprocess.run(
        [sys.executable, "-c", QUESTIONS],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("asked"),
        env={**os.environ, "GLANCE_WEBHOOK": "", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told, _, options = done.stdout.partition("\noptions\n")
    found: dict[str, Any] = json.loads(told.rpartition("answers ")[2])
    return {**found, "options": json.loads(options)}


def test_its_parser_takes_every_rendered_config(answers: dict[str, Any]) -> None:
    assert len(CONFIGS) >= 2 * len(FAMILIES)
    for given, parsed in zip(CONFIGS, answers["parsed"], strict=True):
        assert {n: parsed[n] for n in COMPARED} == {n: str(given[n]) for n in COMPARED}


def test_its_options_are_those_recorded(answers: dict[str, Any]) -> None:
    recorded = ROOT / "glance/training/simpletuner/options.json"

    assert answers["options"] == json.loads(recorded.read_bytes())


def test_the_same_layers_get_an_adapter_in_its_models_and_in_diffusers(
    answers: dict[str, Any], models: list[Any]
) -> None:
    for family, model in zip(FAMILIES.values(), models, strict=True):
        model.add_adapter(LoraConfig(r=2, target_modules=list(family.block_layers)))
    expected = [sorted(n for n, m in one.named_modules() if hasattr(m, "lora_A")) for one in models]

    assert [names for _, names in answers["layers"]] == expected
    assert {place.split(".")[0] for place, _ in answers["layers"]} == {"simpletuner"}
