"""What a repository holds besides the LoRAs: what the other exports would write."""

from dataclasses import dataclass, replace

from glance.core.errors import InputError
from glance.interop.comfyui.write import plan_comfyui, render_comfyui
from glance.interop.diffusers.write import render_diffusers
from glance.interop.hub.card import COMFYUI
from glance.interop.source import Source

# The sample's caption would tell what the sample shows.
_PROMPT = "a lighthouse at dusk"


@dataclass(frozen=True, slots=True)
class Extra:
    """Files by their path in the repository, and why others are missing."""

    files: dict[str, bytes]
    notes: tuple[str, ...]


def find_extra(source: Source) -> Extra:
    """Return the files of the diffusers and the ComfyUI export that the run can have."""
    files: dict[str, bytes] = {}
    notes: list[str] = []
    try:
        files |= render_diffusers(source)
    except InputError as exc:
        notes.append(f"no script for diffusers: {exc.problems[0].message}")
    try:
        planned = replace(plan_comfyui(source, prompt=_PROMPT), withholds_reference=True)
        workflow = render_comfyui(planned)
        files |= {f"{COMFYUI}/{name}": content for name, content in workflow.items()}
    except InputError as exc:
        notes.append(f"no workflow for ComfyUI: {exc.problems[0].message}")
    return Extra(files, tuple(notes))
