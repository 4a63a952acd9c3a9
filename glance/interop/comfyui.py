"""`glance export comfyui`: both LoRAs by ComfyUI's names, and the workflow that runs them.

ComfyUI (comfy/lora.py) maps `transformer.<module of diffusers>` for most families, and reads alpha
only from tensors: without them it is taken as the rank. Where it maps nothing, the file gets the
names of ComfyUI's model.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.core.tables import name_some
from glance.interop.export import Exported, Source, list_files, whole_folder
from glance.interop.foreign import respell
from glance.models.families import Family
from glance.models.families.family import ComfyFile
from glance.models.lora.examine import drop_text
from glance.models.lora.file import (
    ADAPTER_METADATA,
    DOWN,
    PREFIX,
    UP,
    Lora,
    Tensor,
    encode_lora,
    hash_tensors,
    read_header,
    read_lora,
)
from glance.models.lora.keys import is_text_key
from glance.runs.lora import SPEC, complete_metadata
from glance.runs.manifest import read_caption
from glance.runs.sample import measure_picture
from glance.sampling.comfyui import (
    Graph,
    Job,
    build_workflow,
    describe_phase,
    guess_model,
    lay_out_page,
)
from glance.sampling.extra_loras import FoundLora, extra_notes, file_names, find_extras
from glance.sampling.generate import unseen_factor
from glance.sampling.request import ExtraLora
from glance.sampling.settings import resolve_sample_settings

_REFERENCE_SIDE: Final = 1024  # of TextEncodeQwenImageEditPlus
_PAGE_SEED: Final = 2**53 - 1  # a browser's numbers are whole up to here
_NATIVE: Final = "diffusion_model."
_ALPHA: Final = ".alpha"
_PROJECTIONS: Final = ("to_q", "to_k", "to_v")
_PROJECTION: Final = re.compile(r"(.+)\.(?:attn|attention)\.(to_q|to_k|to_v)")


@dataclass(frozen=True, slots=True)
class ComfyExport:
    """What would be written, decided: nothing of it depends on where the run lies."""

    source: Source
    job: Job
    extra_loras: Mapping[str, FoundLora] = field(default_factory=dict)
    """By their file names."""
    is_model_named: bool = False
    """The user has said what the base model's file is called."""
    withholds_reference: bool = False
    """The image to edit is the user's own, and does not go along."""

    @property
    def reference(self) -> Path | None:
        """The image to edit, in the run."""
        sample = self.source.manifest.sample
        if sample is None or sample.reference is None or self.withholds_reference:
            return None
        return self.source.run.path / sample.reference

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before it is used."""
        extras = extra_notes([*self.extra_loras.values()], self.source.family)
        return (*self.source.notes, *extras, *_notes(self))


def plan_comfyui(
    source: Source,
    *,
    prompt: str | None = None,
    model_file: str | None = None,
    extra_loras: Sequence[str | ExtraLora] = (),
    **asked: Any,
) -> ComfyExport:
    """Decide the workflow.

    `prompt` is the caption of the sample, if it is not given; `model_file` the base model's name
    in ComfyUI's folders, if it is not the usual one; `extra_loras` work in both phases; `asked` are
    fields of SampleSettings.

    Raises RunError, SampleError: the caption or the reference is wanted and cannot be read.
    Raises SettingsError on bad values, and what find_extras raises.
    """
    found = find_extras(extra_loras)
    family, settings, sample = source.family, source.manifest.settings, source.manifest.sample
    if prompt is None:
        teacher = settings.teacher
        prompt = teacher.prompts[0] if teacher else read_caption(source.run, sample)
    model = guess_model(family, settings.model, settings.transformer)
    if model_file is not None:
        model = ComfyFile(model_file, model.folder)
    reference = None if sample is None else sample.reference
    aspect = measure_picture(source.run.path / reference) if reference else None
    sampling = resolve_sample_settings(
        family,
        resolution=settings.resolution,
        aspect=aspect,
        trained=source.manifest.sampling,
        prompt=prompt,
        **asked,
    )
    extras = dict(zip(file_names(found, taken=[*map(source.lora_name, Phase)]), found, strict=True))
    job = Job(
        family=family,
        model=model,
        loras={phase: source.lora_name(phase) for phase in sampling.loras},
        extra_loras={name: _strength(one) for name, one in extras.items()},
        schedule=source.schedule,
        settings=sampling,
        name=source.name,
        reference=f"{source.name}-reference.png" if family.edits else None,
    )
    return ComfyExport(source, job, extras, is_model_named=model_file is not None)


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
    source, loras = export.source, {}
    for phase in Phase:
        path = source.run.lora(phase)
        metadata = complete_metadata(source.manifest, phase, read_header(path))
        lora = to_comfyui(Lora(read_lora(path).tensors, metadata), source.family)
        loras[source.lora_name(phase)] = b"".join(encode_lora(lora))
    return {
        **loras,
        **{name: _encode_extra(one, source.family) for name, one in export.extra_loras.items()},
        **render_workflow(export),
    }


def render_workflow(export: ComfyExport) -> dict[str, bytes]:
    """Return what says how the LoRAs are used: the workflow for page and API, and README.md."""
    graph = build_workflow(export.job)
    places = _list_places(export, graph)
    page = lay_out_page(graph, note=_page_note(export, places))
    return {
        "workflow-api.json": _encode(graph.to_api()),
        "workflow.json": _encode(page),
        "README.md": _readme(export, places).encode(),
    }


def _has_diffusers_names(one: FoundLora) -> bool:
    return all(key.startswith(PREFIX) or is_text_key(key) for key in one.header.entries)


def _strength(one: FoundLora) -> float:
    """Return what the loader is told; a file that is written anew has its alpha in tensors."""
    unseen = 1.0 if _has_diffusers_names(one) else unseen_factor(one.facts.strength)
    return one.asked.strength * unseen


def _encode_extra(one: FoundLora, family: Family) -> bytes:
    """Return the file as ComfyUI reads it: as it is, or made as those of the pair are."""
    path = one.facts.path
    if not _has_diffusers_names(one):
        return path.read_bytes()
    lora, factors = drop_text(read_lora(path)), one.facts.strength.factors
    plain = respell(lora, factors, path=path, known=None, for_run=False)
    return b"".join(encode_lora(to_comfyui(plain, family)))


def _encode(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _notes(export: ComfyExport) -> list[str]:
    job, notes = export.job, []
    if job.family.edits and export.reference is None:
        notes.append(f"put the image that is edited into ComfyUI's input/ as {job.reference}")
    if job.family.edits and job.settings.reference_side != _REFERENCE_SIDE:
        side = job.settings.reference_side
        notes.append(
            f"ComfyUI shows the transformer the reference at about {_REFERENCE_SIDE} x "
            f"{_REFERENCE_SIDE} pixels, glance at {side} x {side}: the images will differ"
        )
    if job.model.url is None and not export.is_model_named:
        notes.append(
            f"the workflow opens the base model as {job.model.name}: choose yours in ComfyUI, or "
            "say its name with --model-file"
        )
    if job.settings.seed > _PAGE_SEED:
        notes.append(
            f"ComfyUI's page rounds seeds above {_PAGE_SEED}: only POST /prompt takes "
            f"{job.settings.seed} as it is"
        )
    if (first := job.schedule.phase(Phase.SLOW).sigmas[0]) < 1:
        notes.append(
            f"the schedule begins at sigma {first:g}: ComfyUI scales the noise by that, glance "
            "does not, so the images will differ"
        )
    guided = any(job.settings.guidance(phase) > job.family.guidance.off for phase in Phase)
    if job.family.comfyui.rescales_guidance and guided:
        notes.append(
            "diffusers gives a guided prediction the length of the unguided one, ComfyUI does not: "
            "the images are alike, not equal"
        )
    return notes


def _list_places(export: ComfyExport, graph: Graph) -> str:
    """Return a table in Markdown: which file belongs into which folder."""
    rows = ["| folder | file |", "|---|---|"]
    for file in (file for node in graph.nodes for file in node.files):
        link = f"[{file.name}]({file.url})" if file.url else f"{file.name} (yours)"
        rows.append(f"| `models/{file.folder}/` | {link} |")
    job = export.job
    rows += [f"| `models/loras/` | {name} |" for name in (*job.loras.values(), *job.extra_loras)]
    return "\n".join(rows)


def _title(job: Job) -> str:
    steps = sum(len(job.schedule.phase(phase).timesteps) for phase in Phase)
    return f"{job.family.title} in {steps} steps"


def _page_note(export: ComfyExport, places: str) -> str:
    job = export.job
    phases = "\n".join(f"- {describe_phase(job.schedule, phase)}" for phase in Phase)
    further = "".join(
        f"\n{name} is at work in both phases, at strength {strength:g}.\n"
        for name, strength in job.extra_loras.items()
    )
    return f"""\
## {job.name}

{_title(job)}: two LoRAs, trained together on {export.source.manifest.trained_on}.

{phases}
{further}
The first sampler leaves off where the second begins: it gives its `output`, noise and all, and the
second adds none of its own. Any prompt, size and seed will do; the sigmas are the ones that the
LoRAs were trained on.

{places}
"""


def _readme(export: ComfyExport, places: str) -> str:
    job, reference = export.job, ""
    loras = " and ".join(f"`{lora}`" for lora in (*job.loras.values(), *job.extra_loras))
    if export.reference is not None:
        reference = f"\n`{job.reference}` goes to `input/`: it is the image that is edited.\n"
    notes = "".join(f"\n- {note}" for note in _notes(export))
    return f"""\
# {job.name}: {_title(job)}, in ComfyUI

1. Put {loras} into ComfyUI's `models/loras/`.
2. Open `workflow.json`: drop it on ComfyUI's page. It needs the node ManualSigmas, which ComfyUI
   has since December 2025. What it opens of the base model:

{places}
{reference}
`workflow-api.json` is the same for ComfyUI's API: `POST /prompt` takes it as `prompt`.
{notes}
"""


def to_comfyui(lora: Lora, family: Family) -> Lora:
    """Return the LoRA as ComfyUI reads it: the same change of the same weights.

    `lora` has diffusers' names and scale 1, as a finished run's has; the pairs keep their values.
    Where ComfyUI has one projection for q, k and v, theirs become one pair of three times the
    rank: A stacks the three, (3 rank, in), B has them in its diagonal, (q + k + v, 3 rank).

    Raises LoraError for layers that have no name in ComfyUI.
    """
    pairs = {
        f"{PREFIX}{module}": (
            lora.tensors[f"{PREFIX}{module}{DOWN}"],
            lora.tensors[f"{PREFIX}{module}{UP}"],
        )
        for module in lora.modules
    }
    if family.comfyui.fuses_qkv:
        pairs = _fuse(pairs, family)
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        rank = np.array(down.shape[0], dtype="<f4")
        tensors |= {
            f"{name}{DOWN}": down,
            f"{name}{UP}": up,
            f"{name}{_ALPHA}": Tensor("F32", (), rank.tobytes()),
        }
    return Lora(tensors, _correct_metadata(lora.metadata, tensors, family))


def _correct_metadata(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor], family: Family
) -> dict[str, str]:
    # diffusers takes alpha from tensors or from its metadata, and refuses both
    kept = {key: text for key, text in metadata.items() if key != ADAPTER_METADATA}
    if f"{SPEC}hash_sha256" in kept:
        kept[f"{SPEC}hash_sha256"] = f"0x{hash_tensors(tensors)}"
    if family.comfyui.fuses_qkv:
        rank = max(tensor.shape[0] for key, tensor in tensors.items() if key.endswith(DOWN))
        changed = {
            f"{SPEC}implementation": "https://github.com/comfyanonymous/ComfyUI",
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(rank),
        }
        kept |= {key: text for key, text in changed.items() if key in kept}
    return kept


def _fuse(
    pairs: Mapping[str, tuple[Tensor, Tensor]], family: Family
) -> dict[str, tuple[Tensor, Tensor]]:
    """Give the layers ComfyUI's names, and one pair for q, k and v."""
    blocks: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    named: dict[str, tuple[Tensor, Tensor]] = {}
    strangers = []
    for name, pair in pairs.items():
        module = name.removeprefix(PREFIX)
        if match := _PROJECTION.fullmatch(module):
            blocks.setdefault(match[1], {})[match[2]] = pair
        elif own := _own_name(module, family):
            named[f"{_NATIVE}{own}"] = pair
        else:
            strangers.append(name)
    partial = [block for block, parts in blocks.items() if len(parts) < len(_PROJECTIONS)]
    if strangers or partial:
        names = name_some([*strangers, *partial])
        raise LoraError(
            f"ComfyUI's {family.title} has no layer to put these in: {names}",
            hint="train without --set lora targets, or use `glance export diffusers`",
        )
    for block, parts in blocks.items():
        three = [parts[name] for name in _PROJECTIONS]
        downs, ups = (_alike([pair[half] for pair in three]) for half in (0, 1))
        rows = np.concatenate([_bits(tensor) for tensor in downs])
        stacked = Tensor(downs[0].dtype, rows.shape, rows.tobytes())
        named[f"{_NATIVE}{block}.attention.qkv"] = (stacked, _diagonal(ups))
    return named


def _own_name(module: str, family: Family) -> str | None:
    """Return what ComfyUI's model calls a block's layer; None: it has no such layer."""
    for end, own in family.comfyui.layer_names.items():
        if re.fullmatch(rf".+\.\d+\.{re.escape(end)}", module):
            return module.removesuffix(end) + own
    return None


def _alike(tensors: list[Tensor]) -> list[Tensor]:
    """Return them in one format: their own, or one that holds the values of all."""
    if len({tensor.dtype for tensor in tensors}) == 1:
        return tensors
    values = [tensor.to_float() for tensor in tensors]
    widest = np.result_type(*values, np.float32)  # bf16 and f16 hold what the other cannot
    return [
        Tensor(f"F{8 * widest.itemsize}", one.shape, one.astype(widest).tobytes()) for one in values
    ]


def _diagonal(tensors: list[Tensor]) -> Tensor:
    blocks = [_bits(tensor) for tensor in tensors]
    height, width = (sum(block.shape[axis] for block in blocks) for axis in (0, 1))
    whole = np.zeros((height, width), blocks[0].dtype)  # no bits: the number 0 in every format
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return Tensor(tensors[0].dtype, whole.shape, whole.tobytes())


def _bits(tensor: Tensor) -> NDArray[np.unsignedinteger[Any]]:
    """Return the values' bits: numpy has no bf16, and nothing is computed."""
    width = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}[tensor.dtype]
    bits: NDArray[np.unsignedinteger[Any]] = np.frombuffer(tensor.data, dtype=width)
    return bits.reshape(tensor.shape)
