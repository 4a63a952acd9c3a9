"""`glance export comfyui`: both LoRAs by ComfyUI's names, and the workflow that runs them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.phase import Phase
from glance.dataset.examine import measure_picture
from glance.interop.comfyui.keys import to_comfyui
from glance.interop.folder import Exported, list_files, whole_folder
from glance.interop.source import Source
from glance.models.families.comfyui import ComfyFile
from glance.models.lora.file import Lora, encode_lora, read_lora
from glance.models.lora.header import read_header
from glance.runs.modelspec import complete_metadata
from glance.runs.reading import read_caption
from glance.sampling.comfyui.graph import Graph
from glance.sampling.comfyui.page import lay_out_page
from glance.sampling.comfyui.workflow import Job, build_workflow, describe_phase, guess_model
from glance.sampling.settings import resolve_sample_settings

_REFERENCE_SIDE: Final = 1024  # of TextEncodeQwenImageEditPlus


@dataclass(frozen=True, slots=True)
class ComfyExport:
    """What would be written, decided: nothing of it depends on where the run lies."""

    source: Source
    job: Job
    is_model_named: bool = False
    """The user has said what the base model's file is called."""
    withholds_reference: bool = False
    """The picture to edit is the user's own, and does not go along."""

    @property
    def graph(self) -> Graph:
        """The workflow."""
        return build_workflow(self.job)

    @property
    def files(self) -> tuple[ComfyFile, ...]:
        """The model files that it opens, besides the LoRAs."""
        return tuple(file for node in self.graph.nodes for file in node.files)

    @property
    def reference(self) -> Path | None:
        """The picture to edit, in the run."""
        sample = self.source.manifest.sample
        if sample is None or sample.reference is None or self.withholds_reference:
            return None
        return self.source.run.path / sample.reference

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before it is used."""
        return (*self.source.notes, *_notes(self))


def plan_comfyui(
    source: Source, *, prompt: str | None = None, model_file: str | None = None, **asked: Any
) -> ComfyExport:
    """Decide the workflow.

    `prompt` is the caption of the sample, if it is not given; `model_file` the base model's name
    in ComfyUI's folders, if it is not the usual one; `asked` are fields of SampleSettings.

    Raises RunError, SampleError: the caption or the reference is wanted and cannot be read.
    Raises SettingsError on bad values.
    """
    family, settings = source.family, source.manifest.settings
    model = guess_model(family, settings.model, settings.transformer)
    if model_file is not None:
        model = ComfyFile(model_file, model.folder)
    sample = source.manifest.sample
    reference = None if sample is None else sample.reference
    aspect = measure_picture(source.run.path / reference) if reference else None
    sampling = resolve_sample_settings(
        family,
        resolution=settings.resolution,
        aspect=aspect,
        trained=source.manifest.sampling,
        prompt=_usual_prompt(source) if prompt is None else prompt,
        **asked,
    )
    job = Job(
        family=family,
        model=model,
        loras={phase: source.lora_name(phase) for phase in sampling.loras},
        schedule=source.schedule,
        settings=sampling,
        name=source.name,
        reference=f"{source.name}-reference.png" if family.edits else None,
    )
    return ComfyExport(source, job, is_model_named=model_file is not None)


def _usual_prompt(source: Source) -> str:
    """Return the sample's caption, or the first prompt that the base model taught itself with."""
    teacher = source.manifest.settings.teacher
    return teacher.prompts[0] if teacher else read_caption(source.run, source.manifest.sample)


def export_comfyui(export: ComfyExport, folder: Path, *, force: bool = False) -> Exported:
    """Write both LoRAs, workflow.json for ComfyUI's page, workflow-api.json, and README.md.

    Raises LoraError for layers that ComfyUI has no place for, InputError when the folder may not
    be replaced, SetupError when it cannot be written.
    """
    rendered = render_comfyui(export)
    with whole_folder(folder, force=force) as made:
        for name, content in rendered.items():
            (made / name).write_bytes(content)
        if export.reference is not None and export.job.reference is not None:
            shutil.copyfile(export.reference, made / export.job.reference)
    return Exported(folder, tuple(sorted(list_files(folder))), export.notes)


def render_comfyui(export: ComfyExport) -> dict[str, bytes]:
    """Return every file by its name, but for the reference of a family that edits."""
    source, graph = export.source, export.graph
    page = lay_out_page(graph, note=_page_note(export))
    return {
        **{source.lora_name(phase): _convert(source, phase) for phase in Phase},
        "workflow-api.json": _encode(graph.to_api()),
        "workflow.json": _encode(page),
        "README.md": _readme(export).encode(),
    }


def _encode(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _convert(source: Source, phase: Phase) -> bytes:
    path = source.run.lora(phase)
    metadata = complete_metadata(source.manifest, phase, read_header(path))
    lora = to_comfyui(Lora(read_lora(path).tensors, metadata), source.family)
    return b"".join(encode_lora(lora))


def _notes(export: ComfyExport) -> list[str]:
    job, notes = export.job, []
    if job.family.edits and export.reference is None:
        notes.append(f"put the picture that is edited into ComfyUI's input/ as {job.reference}")
    if job.family.edits and job.settings.reference_side != _REFERENCE_SIDE:
        side = job.settings.reference_side
        notes.append(
            f"ComfyUI shows the transformer the reference at about {_REFERENCE_SIDE} x "
            f"{_REFERENCE_SIDE} pixels, glance at {side} x {side}: the pictures will differ"
        )
    if job.model.url is None and not export.is_model_named:
        notes.append(
            f"the workflow opens the base model as {job.model.name}: choose yours in ComfyUI, or "
            "say its name with --model-file"
        )
    if (first := job.schedule.phase(Phase.SLOW).sigmas[0]) < 1:
        notes.append(
            f"the schedule begins at sigma {first:g}: ComfyUI scales the noise by that, glance "
            "does not, so the pictures will differ"
        )
    guided = any(job.settings.guidance(phase) > job.family.guidance.off for phase in Phase)
    if job.family.comfyui.rescales_guidance and guided:
        notes.append(
            "diffusers gives a guided prediction the length of the unguided one, ComfyUI does not: "
            "the pictures are alike, not equal"
        )
    return notes


def _page_note(export: ComfyExport) -> str:
    """Return Markdown for the page: what this is, and which file belongs where."""
    job = export.job
    phases = "\n".join(f"- {describe_phase(job.schedule, phase)}" for phase in Phase)
    return f"""\
## {job.name}

{job.family.title} in {_steps(job)} steps: two LoRAs, trained together {export.source.trained_on}.

{phases}

The first sampler leaves off where the second begins: it gives its `output`, noise and all, and the
second adds none of its own. Any prompt, size and seed will do; the sigmas are the ones that the
LoRAs were trained on.

{_places(export)}
"""


def _readme(export: ComfyExport) -> str:
    job, name = export.job, export.job.name
    reference = (
        f"\n`{job.reference}` goes to `input/`: it is the picture that is edited.\n"
        if export.reference is not None
        else ""
    )
    notes = "".join(f"\n- {note}" for note in _notes(export))
    return f"""\
# {name}: {job.family.title} in {_steps(job)} steps, in ComfyUI

1. Put {" and ".join(f"`{lora}`" for lora in job.loras.values())} into ComfyUI's `models/loras/`.
2. Open `workflow.json`: drop it on ComfyUI's page. It needs the node ManualSigmas, which ComfyUI
   has since December 2025. What it opens of the base model:

{_places(export)}
{reference}
`workflow-api.json` is the same for `POST /prompt`; `glance export comfyui --submit URL` sends it.
{notes}
"""


def _places(export: ComfyExport) -> str:
    rows = [
        f"| `models/{file.folder}/` | "
        + (f"[{file.name}]({file.url})" if file.url else f"{file.name} (yours)")
        + " |"
        for file in export.files
    ]
    rows += [f"| `models/loras/` | {name} |" for name in export.job.loras.values()]
    return "\n".join(["| folder | file |", "|---|---|", *rows])


def _steps(job: Job) -> int:
    return sum(len(job.schedule.phase(phase).timesteps) for phase in Phase)
