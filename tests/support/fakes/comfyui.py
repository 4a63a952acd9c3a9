"""Workflows of every family for the tests, and what a real ComfyUI says of its nodes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glance.core.phase import Phase
from glance.models.families import FAMILIES, Family, Negative, find_family
from glance.sampling.comfyui import Job, guess_model
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import PRESETS

RECORDING = Path(__file__).parents[2] / "fixtures/comfyui-nodes.json"
WIDGETS = {"COMBO": (str,), "STRING": (str,), "INT": (int,), "FLOAT": (int, float)}
"""What Python types ComfyUI takes for the values that are typed in; none of them is a boolean."""

_WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "unguided": {"slow_guidance": 0.0, "fast_guidance": 0.0},
    "guided in both phases": {"slow_guidance": 5.0, "fast_guidance": 2.5},
    "negative prompt": {"negative_prompt": "blurry"},
    "true_cfg": {"true_cfg": 2.5, "negative_prompt": "blurry"},
    "slow LoRA only": {"loras": ("slow",)},
    "no LoRA": {"loras": ()},
}


def recorded_nodes() -> dict[str, dict[str, Any]]:
    """Return ComfyUI's description of its nodes, as `python -m scripts.comfyui --record` wrote it.

    0.3.64 is from before FLUX.2. Later versions describe the empty latents of that as they do
    those of SD3 (comfy_extras/nodes_flux.py).
    """
    nodes: dict[str, dict[str, Any]] = json.loads(RECORDING.read_text())["nodes"]
    return {"EmptyFlux2LatentImage": nodes["EmptySD3LatentImage"], **nodes}


def ports(node: Mapping[str, Any]) -> dict[str, str]:
    """Return a recorded node's inputs, name -> type, in the order in which a page has them."""
    return {**node["input"]["required"], **node["input"]["optional"]}


def make_job(name: str, *, loras: tuple[str, ...] = tuple(Phase), **changes: Any) -> Job:
    """Return a picture of the family's default model; `changes` are of the settings."""
    family = find_family(name)
    schedule = changes.pop("schedule", PRESETS["guide"].schedule)
    asked = {"prompt": "a lighthouse at dusk", **changes}
    return Job(
        family=family,
        model=guess_model(family, family.default_model),
        loras={Phase(phase): f"pair-{phase}.safetensors" for phase in loras},
        schedule=schedule,
        settings=resolve_sample_settings(family, **asked),
    )


def every_way() -> list[tuple[str, dict[str, Any]]]:
    """Return each family's name with each way of painting that it has."""
    return [
        (name, dict(asked))
        for name, family in FAMILIES.items()
        for way, asked in _WAYS.items()
        if _has(family, way)
    ]


def _has(family: Family, way: str) -> bool:
    if way == "true_cfg":
        return family.guidance.true_cfg is not None
    return way != "negative prompt" or family.text.negative is not Negative.NONE
