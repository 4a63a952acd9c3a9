"""The workflow that paints a picture of a plan in ComfyUI, as the picture carries it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glance.core.phase import Phase
from glance.models.lora.keys import read_file_strength
from glance.runs.folder import LORA_FILE
from glance.runs.lora import lora_name
from glance.runs.manifest import load_manifest
from glance.sampling.comfyui import Job, build_workflow, guess_model
from glance.sampling.pair import Pair
from glance.sampling.request import GenerationPlan, PlannedPicture
from glance.sampling.settings import SampleSettings


def describe_workflow(plan: GenerationPlan, one: PlannedPicture) -> dict[str, Any]:
    """Return ComfyUI's API JSON of one picture; the LoRAs have the names that exports give them."""
    transformer = None if plan.transformer is None else str(plan.transformer)
    reference = one.settings.reference
    settings = _as_comfyui_scales(plan, one)
    job = Job(
        family=plan.family,
        model=guess_model(plan.family, plan.model, transformer),
        loras={phase: name for phase, name in plan.names.items() if phase in one.settings.loras},
        schedule=plan.schedule,
        settings=settings,
        reference=None if reference is None else reference.name,
    )
    return build_workflow(job).to_api()


def _as_comfyui_scales(plan: GenerationPlan, one: PlannedPicture) -> SampleSettings:
    """Return the settings with what ComfyUI misses, which reads alpha from tensors alone.

    Where each layer has a factor of its own there is no number that says it.
    """
    scales = {}
    for phase in one.settings.loras:
        strength = read_file_strength(plan.loras[phase]) if phase in plan.loras else None
        if strength is not None and not strength.is_in_tensors and strength.factor is not None:
            scales[f"{phase}_scale"] = one.settings.scale(phase) * strength.factor
    return one.settings.model_copy(update=scales)


def name_elsewhere(pair: Pair) -> Mapping[Phase, str]:
    """Return what the LoRAs are called in other tools: as exported, else as their files are."""
    if pair.run is not None:
        manifest = load_manifest(pair.run)
        return {phase: lora_name(manifest, phase) for phase in pair.loras}
    return {phase: _own_name(path, phase) for phase, path in pair.loras.items()}


def _own_name(path: Path, phase: Phase) -> str:
    """Return a file's name; both of a pair have diffusers' usual one, so that says nothing."""
    return (
        path.name if path.name != LORA_FILE else f"{path.resolve().parent.name}-{phase}.safetensors"
    )
