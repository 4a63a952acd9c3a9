"""The header of a finished LoRA: glance's own keys, ModelSpec 1.0.1, and what kohya's readers
show.

SimpleTuner's final file loses alpha: its header holds nothing but `format`, so every tool reads
the pair at scale 1 where it was trained at alpha / rank. Finalising multiplies that factor into
lora_B and says so in the header; from then on scale 1 is right everywhere.

ModelSpec: the README of Stability-AI/ModelSpec. Its `prediction_type` is left out, as kohya's
trainers do for flow models: readers know `v` and `epsilon`, and neither would be true. So is its
`date`: two trainings of the same give the same files, and glance.json knows when.
"""

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from glance.core.errors import LoraError, RunError, quoted
from glance.core.files import replacing
from glance.core.phase import Phase
from glance.models.families import Family, find_family
from glance.models.lora.examine import verify_lora
from glance.models.lora.file import (
    ADAPTER_METADATA,
    DOWN,
    FOLDED,
    UP,
    Header,
    Lora,
    hash_data,
    hash_file,
    hash_tensors,
    read_header,
    read_lora,
    read_metadata,
    rewrite_metadata,
    write_lora,
)
from glance.models.lora.keys import adapter_config
from glance.runs.folder import RunFolder
from glance.runs.manifest import LoraRecord, Manifest
from glance.runs.sample import name_safely
from glance.schedule.lists import MAX_TIMESTEP, PhaseSchedule, Schedule

SPEC: Final = "modelspec."


def require_recorded(run: RunFolder, manifest: Manifest, phase: Phase) -> str:
    """Return the SHA-256 of a finished phase's LoRA.

    Raises LoraError for a file that cannot be used, RunError where it is gone or another than the
    run recorded.
    """
    path, record = run.lora(phase), manifest.phases[phase].lora
    if not path.exists():
        again = f"{manifest.command} --resume {quoted(run.path)}"
        hint = again if manifest.imported is None else "import the pair again"
        raise RunError(f"LoRA not found: {path}", hint=hint)
    verify_lora(read_lora(path), path=path)
    found = hash_file(path)
    if record is not None and found != record.sha256:
        raise RunError(
            f"{path} is not the file that the run recorded when it was trained",
            hint="put the right one back, or train in another --run",
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where one LoRA of a pair comes from, as far as its header tells."""

    phase: Phase
    schedule: Schedule
    family: Family
    model: str
    """The base model as people call it: its Hub id, or the name of its folder or file."""
    base_model: str
    """What tells it from others: its Hub id, or its folder's fingerprint."""
    pair: str
    """What the pair is called outside its run."""
    pair_id: str | None
    """What tells the pair from all others; None: its other half is still to come."""
    resolution: int | None
    """Trained at about this many pixels squared; None: not known of an imported pair."""
    version: str
    """Of the glance that made it."""
    is_imported: bool = False
    """Whether something else than glance trained it."""
    images: int = 1
    """How many it was trained on, where the base model did not teach itself."""
    guidance: float | None = None
    """What it is trained to be sampled with, where the base model taught itself."""

    @property
    def boundary(self) -> float:
        """The sigma (0-1) at which the slow LoRA hands over to the fast one."""
        return self.schedule.phase(Phase.SLOW).end_sigma

    @property
    def part(self) -> PhaseSchedule:
        """The steps of its phase."""
        return self.schedule.phase(self.phase)


def find_origin(manifest: Manifest, phase: Phase, *, version: str | None = None) -> Origin:
    """Return what a run says of one of its LoRAs.

    `version` is of the glance that finishes it now; None: that which began the run. Raises
    SettingsError for a family that this glance does not know.
    """
    settings, imported = manifest.settings, manifest.imported
    unknown = () if imported is None else imported.unknown
    return Origin(
        phase=phase,
        schedule=manifest.resolve_schedule(),
        family=find_family(settings.family),
        model=_model_name(manifest),
        base_model=manifest.base_model,
        pair=pair_name(manifest),
        pair_id=manifest.pair_id,
        resolution=None if "resolution" in unknown else settings.resolution,
        version=version or manifest.glance,
        is_imported=imported is not None,
        images=len(manifest.samples),
        guidance=manifest.sampling.get(f"{phase}_guidance"),
    )


def describe_origin(origin: Origin, *, rank: int, data_sha256: str) -> dict[str, str]:
    """Return all keys of a finished LoRA's header that follow from where it comes from.

    `data_sha256` is of all that follows the header.
    """
    return {
        **_own_keys(origin),
        **{f"{SPEC}{key}": value for key, value in _spec_keys(origin, data_sha256).items()},
        **_kohya_keys(origin, rank),
    }


def finalise_lora(path: Path, *, rank: int, alpha: float, origin: Origin) -> None:
    """Verify the trainer's file and make it final, in place and atomically.

    lora_B is multiplied by alpha / rank; the header keeps what the trainer wrote and gains
    diffusers' adapter metadata (so that alpha = rank is explicit) and all that `describe_origin`
    tells. A file that is final already stays as it is.
    Raises LoraError as `read_lora` and `verify_lora` do.
    """
    lora = read_lora(path)
    verify_lora(lora, path=path, rank=rank)
    if FOLDED in lora.metadata:
        return
    factor = alpha / rank
    tensors = {
        key: tensor.scaled(factor) if key.endswith(UP) else tensor
        for key, tensor in lora.tensors.items()
    }
    metadata = {
        **lora.metadata,
        ADAPTER_METADATA: json.dumps(
            adapter_config(dict.fromkeys(lora.modules, lora.rank)), sort_keys=True
        ),
        **describe_origin(origin, rank=rank, data_sha256=hash_tensors(tensors)),
        FOLDED: json.dumps(factor),
    }
    with replacing(path) as temporary:
        write_lora(Lora(tensors, metadata), temporary)


def is_final(path: Path) -> bool:
    """Whether the file exists and has been finalised."""
    try:
        return FOLDED in read_metadata(path)
    except LoraError:
        return False


def complete_metadata(manifest: Manifest, phase: Phase, header: Header) -> dict[str, str]:
    """Return the metadata that belong to a finished LoRA of a run: its own, and those it lacks.

    A run from before glance wrote them all lacks some; what a file has already stays as it is.
    Raises OSError: the file cannot be read; SettingsError as `find_origin` does.
    """
    rank = next((entry.shape[0] for key, entry in header.entries.items() if key.endswith(DOWN)), 0)
    origin = find_origin(manifest, phase)
    return {**describe_origin(origin, rank=rank, data_sha256=hash_data(header)), **header.metadata}


def copy_completed(manifest: Manifest, phase: Phase, *, source: Path, target: Path) -> None:
    """Copy a finished LoRA of a run with all metadata that belong there.

    A file that lacks none is copied byte by byte; `source` is never changed. Raises LoraError as
    `read_header` does, OSError where it cannot be written.
    """
    header = read_header(source)
    metadata = complete_metadata(manifest, phase, header)
    if metadata == header.metadata:
        shutil.copyfile(source, target)
    else:
        rewrite_metadata(header, metadata, target)


def pair_name(manifest: Manifest) -> str:
    """Return what the pair is called elsewhere: its picture's name and the pair's id.

    No two pairs share it, so that nothing is replaced in a folder full of LoRAs; and it does not
    depend on what the run folder is called here.
    """
    sample = manifest.sample
    name = manifest.settings.family if sample is None else name_safely(Path(sample.image).stem)
    if manifest.is_taught:
        name = f"{name}-distilled"
    return name if manifest.pair_id is None else f"{name}-{manifest.pair_id[:8]}"


def lora_name(manifest: Manifest, phase: Phase) -> str:
    """Return the file name of one phase's LoRA elsewhere."""
    return f"{pair_name(manifest)}-{phase}.safetensors"


def name_pair(
    run: RunFolder, manifest: Manifest, *, headers_of: Collection[Phase] = tuple(Phase)
) -> Manifest:
    """Give the pair of a finished run its id, in these headers; return the manifest with it.

    Safe to repeat: the id is that of the tensors. Raises LoraError when one of the files is gone or
    damaged, OSError where it cannot be written.
    """
    headers = {phase: read_header(run.lora(phase)) for phase in Phase}
    data = {phase: hash_data(header) for phase, header in headers.items()}
    named = manifest.with_pair_id(data)
    phases = dict(named.phases)
    for phase, header in headers.items():
        record = named.phases[phase].lora
        if record is None:
            raise LoraError(f"{header.path} is not recorded")
        if phase in headers_of and header.metadata.get("glance.pair_id") != named.pair_id:
            origin = find_origin(named, phase, version=header.metadata.get("glance.version"))
            new = describe_origin(origin, rank=record.rank, data_sha256=data[phase])
            rewrite_metadata(header, {**header.metadata, **new}, header.path)
        made = record_lora(run, phase, rank=record.rank)
        phases[phase] = named.phases[phase].model_copy(update={"lora": made})
    return named.model_copy(update={"phases": phases})


def record_lora(run: RunFolder, phase: Phase, *, rank: int) -> LoraRecord:
    """Return the manifest's form of a finished LoRA, as it is on the disk."""
    path = run.lora(phase)
    return LoraRecord(
        path=path.relative_to(run.path).as_posix(),
        sha256=hash_file(path),
        data_sha256=hash_data(read_header(path)),
        bytes=path.stat().st_size,
        rank=rank,
    )


def _own_keys(origin: Origin) -> dict[str, str]:
    part = origin.part
    return {
        "glance.version": origin.version,
        "glance.family": origin.family.name,
        "glance.phase": origin.phase.value,
        "glance.timesteps": json.dumps(part.timesteps),
        "glance.sigmas": json.dumps(part.sigmas),
        "glance.end_sigma": json.dumps(part.end_sigma),
        "glance.boundary": json.dumps(origin.boundary),
        "glance.base_model": origin.base_model,
        **({} if origin.pair_id is None else {"glance.pair_id": origin.pair_id}),
        **({} if origin.guidance is None else {"glance.guidance": json.dumps(origin.guidance)}),
    }


def _spec_keys(origin: Origin, data_sha256: str) -> dict[str, str]:
    architecture = origin.family.architecture.of_model(origin.model)
    boundary = round(origin.boundary * MAX_TIMESTEP)
    return {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture.modelspec}/lora",
        "implementation": "diffusers",
        "title": f"{origin.pair} ({origin.phase})",
        "description": _description(origin),
        "usage_hint": _usage_hint(origin),
        # of the steps that it takes, whose starts alone are in its list
        "timestep_range": {
            Phase.SLOW: f"{boundary},{round(MAX_TIMESTEP)}",
            Phase.FAST: f"0,{boundary}",
        }[origin.phase],
        "hash_sha256": f"0x{data_sha256}",
        **({"resolution": f"{side}x{side}"} if (side := origin.resolution) else {}),
    }


def _kohya_keys(origin: Origin, rank: int) -> dict[str, str]:
    """Return what readers of kohya's files show; alpha is folded in, so it is the rank."""
    version = origin.family.architecture.of_model(origin.model).kohya
    return {
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_output_name": f"{origin.pair}-{origin.phase}",
        "ss_sd_model_name": origin.model,
        **({"ss_base_model_version": version} if version else {}),
    }


def _description(origin: Origin) -> str:
    steps = sum(len(origin.schedule.phase(phase).timesteps) for phase in Phase)
    which = {Phase.SLOW: "early, noisy", Phase.FAST: "late"}[origin.phase]
    count = "one image" if origin.images == 1 else f"{origin.images} images"
    trained = "" if origin.is_imported else f", trained by glance from {count}"
    if origin.guidance is not None:
        trained = ", trained by glance on the base model's own many steps"
    other = ""
    if origin.pair_id is not None:
        other = f"; its other half has the same glance.pair_id, {origin.pair_id}"
    return (
        f"The {origin.phase} half of a pair of LoRAs for {origin.family.title} for "
        f"{steps} steps{trained}. This one is for the {which} steps{other}."
    )


def _usage_hint(origin: Origin) -> str:
    part, boundary = origin.part, f"{origin.boundary:.4g}"
    timesteps = ", ".join(f"{value:g}" for value in part.timesteps)
    span, other = {
        Phase.SLOW: (f"from sigma {part.sigmas[0]:.4g} to {boundary}", "then the fast half"),
        Phase.FAST: (f"from sigma {boundary} to 0", "after the slow half"),
    }[origin.phase]
    guided = "" if origin.guidance is None else f", guidance {origin.guidance:g}"
    return f"Strength 1{guided}, {span}, in steps from timesteps {timesteps}; {other}."


def _model_name(manifest: Manifest) -> str:
    settings = manifest.settings
    if settings.transformer is not None:
        return PurePosixPath(settings.transformer).name
    if manifest.base_model == settings.model:  # a Hub id; a folder has a fingerprint
        return settings.model
    return PurePosixPath(settings.model).name or find_family(settings.family).title
