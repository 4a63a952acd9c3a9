"""`glance info`: all that a LoRA, a run or an image says of itself. Reads, and changes nothing.

Metadata are anybody's: whatever a terminal would obey is shown escaped, and long values are cut.
"""

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import (
    Findings,
    GlanceError,
    InputError,
    LoraError,
    Problem,
    RunError,
    quoted,
    reason_of,
    shown,
)
from glance.core.files import is_readable
from glance.core.hub import is_hub_file
from glance.core.phase import Phase
from glance.core.plot import PLAIN, Terminal
from glance.models.base import shown_model
from glance.models.lora.examine import examine_lora
from glance.models.lora.file import hash_data, hash_file, read_header, unreadable
from glance.models.lora.keys import parse_finite, read_strength, sort_keys
from glance.runs.checkpoints import checkpoint_names
from glance.runs.folder import RunFolder
from glance.runs.locate import locate_lora
from glance.runs.lora import SPEC
from glance.runs.losses import chart_course, describe_course, read_courses
from glance.runs.manifest import Attempt, Manifest, PhaseState, load_manifest
from glance.sampling.provenance import (
    FORMATS,
    KEY,
    TENSOR,
    ExtraUse,
    LoraUse,
    Recorded,
    read_handover,
    read_record,
)
from glance.schedule.lists import MAX_TIMESTEP
from glance.training.resume import made_by

_REMEDY: Final = "give a .safetensors file, a run folder, or an image that `glance infer` wrote"
_WIDTH: Final = 240  # characters of a value
_NAME: Final = 24  # no name is given more room than this
_SMALL_CHART, _LARGE_CHART = 7, 16  # lines
_OWN: Final = "glance."
_STYLES: Final = {
    "lora_unet_": "kohya",
    "lora_transformer_": "OneTrainer",
    "base_model.model.": "PEFT",
    "transformer.": "diffusers",
    "diffusion_model.": "ComfyUI",
    "model.diffusion_model.": "ComfyUI, of a whole checkpoint",
}
"""Whose names a key has, by how it begins."""
_BARE: Final = "bare names of layers"


@dataclass(frozen=True, slots=True)
class Description:
    """One file or folder: everything as JSON, and in lines for a person."""

    document: Mapping[str, Any]
    lines: tuple[str, ...]


def describe(path: Path, *, terminal: Terminal = PLAIN) -> Description:
    """Return all that is to be known of a LoRA, a run folder, an image or saved latents.

    What is wrong with a file that can be read is part of it. Charts are for `terminal`. Raises
    InputError: nothing is there, or it cannot be read at all.
    """
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError) as exc:  # out of reach; a NUL in the path
        reason = reason_of(exc)
        raise InputError([Problem(f"{shown(path)} cannot be read: {reason}", _REMEDY)]) from exc
    if is_folder:
        if RunFolder(path).manifest.exists():
            return describe_run(path, terminal=terminal)
        try:
            return _describe_lora(_read_lora(locate_lora(str(path))))
        except LoraError as exc:
            (problem,) = exc.problems
            raise RunError(f"not a run folder: {problem.message}", hint=problem.hint) from exc
    found = Findings()
    if not is_readable(path, shown(path), found, remedy=_REMEDY):
        raise InputError(found.problems)
    if path.suffix.lower() in FORMATS:
        record = read_record(path)
        command = f"glance infer --from-image {quoted(path)}"
        if record.init_latents_sha256 is not None:
            command += " --init-latents FILE"
        return _describe_recorded(Recorded(record, path), "picture", command)
    header = read_header(path)
    if KEY in header.metadata and list(header.entries) == [TENSOR]:
        command = f"glance infer --init-latents {quoted(path)}"
        return _describe_recorded(Recorded(read_handover(path), path), "latents", command)
    return _describe_lora(_read_lora(path))


# --- a LoRA -----------------------------------------------------------------------------------


def _describe_lora(document: dict[str, Any]) -> Description:
    return Description(document, tuple(_lora_lines(document)))


def _read_lora(path: Path) -> dict[str, Any]:
    """Return all that is to be known of a file; raises LoraError when it is no whole safetensors.

    `scales`: what B A is multiplied by -> in how many layers; none where that cannot be made out,
    for a reason in `problems`. `alpha` is where alpha is said; None: nowhere, so it is the rank.
    """
    header = read_header(path)
    keys, entries = sort_keys(header.entries), header.entries.values()
    strength, problems = None, keys.problems
    try:
        digest, data_digest = hash_file(path), hash_data(header)
        with suppress(LoraError):  # told among the problems
            strength = read_strength(header, keys.pairs)
        if keys.pairs:  # else it may be a whole model, of which no tensor need be read
            problems = _examine(path)
    except OSError as exc:
        raise unreadable(path, exc) from exc
    said = {name.removeprefix(_OWN): text for name, text in header.metadata.items()}
    try:
        timesteps = [float(value) for value in json.loads(said.get("timesteps", ""))]
    except (ValueError, TypeError):
        timesteps = None
    ranks = (next(iter(header.entries[pair.down].shape), 0) for pair in keys.pairs)
    scales = Counter({} if strength is None else strength.factors.values())
    return {
        "kind": "lora" if keys.pairs else "safetensors",
        "path": str(path),
        "bytes": header.bytes,
        "sha256": digest,
        "autov2": digest[:10],
        "autov3": data_digest[:12],
        "keys": sorted({_style(pair.down) for pair in keys.pairs}),
        "layers": len(keys.pairs),
        "ranks": {str(rank): count for rank, count in Counter(sorted(ranks)).items()},
        "alpha": None if strength is None else strength.source,
        "scales": {f"{scale:g}": count for scale, count in scales.items()},
        "dtypes": dict(Counter(sorted(entry.dtype for entry in entries))),
        "parameters": sum(math.prod(entry.shape) for entry in entries),
        "family": said.get("family"),
        "phase": said.get("phase"),
        "timesteps": timesteps,
        "sigmas": timesteps and [value / MAX_TIMESTEP for value in timesteps],
        "boundary": parse_finite(said.get("boundary")),
        "guidance": parse_finite(said.get("guidance")),
        "pair_id": said.get("pair_id"),
        "base_model": said.get("base_model"),
        "modelspec": {
            key.removeprefix(SPEC): text
            for key, text in sorted(header.metadata.items())
            if key.startswith(SPEC)
        },
        "metadata": dict(header.metadata),
        "problems": [one.to_json() for one in problems],
    }


def _style(key: str) -> str:
    return next((one for start, one in _STYLES.items() if key.startswith(start)), _BARE)


def _examine(path: Path) -> tuple[Problem, ...]:
    try:
        examine_lora(path)
    except LoraError as exc:
        mark = f"{path}: "
        return tuple(Problem(item.message.removeprefix(mark), item.hint) for item in exc.problems)
    return ()


def _summarise(document: Mapping[str, Any]) -> str:
    """Return in one line what kind of LoRA it is, safe to print."""
    if document["layers"]:
        layers = _count(document["layers"], "layer")
        what = f"LoRA of {layers}, rank {_counted(document['ranks'])}"
    else:
        what = f"safetensors, no LoRA: {_count(sum(document['dtypes'].values()), 'tensor')}"
    kinds = "".join(f", {dtype}" for dtype in document["dtypes"])
    size = document["bytes"]
    weight = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"
    return f"{what}{kinds}, {document['parameters']:,} parameters, {weight}"


def _lora_lines(document: Mapping[str, Any]) -> Iterator[str]:
    metadata, timesteps = document["metadata"], document["timesteps"]
    boundary, scale = document["boundary"], None
    if document["scales"]:
        said = document["alpha"] or "alpha is not recorded; taken as the rank"
        scale = f"{_counted(document['scales'])} ({said})"
    yield f"{shown(document['path'])}: {_summarise(document)}"
    yield from _list_values(
        {
            "SHA-256": document["sha256"],
            "AutoV2": document["autov2"],
            "AutoV3": f"{document['autov3']} (tensors alone)",
            "keys": ", ".join(document["keys"]) or None,
            "scale": scale,
            "family": document["family"],
            "base model": document["base_model"],
            "phase": document["phase"],
            "timesteps": None if timesteps is None else _join_numbers(timesteps),
            "boundary": None if boundary is None else f"sigma {boundary:.6g}",
            "guidance": metadata.get(f"{_OWN}guidance"),
            "pair": document["pair_id"],
            "glance": metadata.get(f"{_OWN}version"),
        }
    )
    yield from _list_problems(document["problems"])
    if document["modelspec"]:
        yield "ModelSpec:"
        yield from _list_values(document["modelspec"])
    others = {key: text for key, text in metadata.items() if not key.startswith((SPEC, _OWN))}
    if others:
        yield "other metadata:"
        yield from _list_values(dict(sorted(others.items())))


def _counted(counts: Mapping[str, int]) -> str:
    """Return the values, and how many of each there are where there is more than one."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items())


# --- an image, or latents that were saved -----------------------------------------------------


def _describe_recorded(recorded: Recorded, kind: str, command: str) -> Description:
    record = recorded.record
    uses: list[LoraUse | ExtraUse] = [*record.loras, *record.extra_loras]
    found = [(use, *_find_lora(recorded, use)) for use in uses]
    document = {
        "kind": kind,
        "path": str(recorded.source),
        "record": record.model_dump(mode="json"),
        "loras": [
            {**use.model_dump(mode="json"), "place": place, "state": state}
            for use, place, state in found
        ],
        "command": command,
    }
    lines = [*_recorded_lines(recorded, kind), "LoRAs:" if found else "LoRAs: none"]
    for use, place, state in found:
        if isinstance(use, LoraUse):
            which, strength = use.phase.value, use.scale
        else:
            which, strength = "further", use.strength
        lines.append(f"  {which}: {shown(place)}, strength {strength:g}, {state}")
        lines.append(f"    SHA-256 {use.sha256}, AutoV2 {use.sha256[:10]}")
    return Description(document, (*lines, f"again: {command}"))


def _find_lora(recorded: Recorded, use: LoraUse | ExtraUse) -> tuple[str, str]:
    """Return a recorded LoRA's place as seen from here, and whether it is still there."""
    place = recorded.place(use.file)
    path = Path(place)
    if not path.is_file():
        return place, "on the Hub" if is_hub_file(use.file) else "missing"
    try:
        is_same = hash_file(path) == use.sha256
    except OSError:
        return place, "unreadable"
    return place, "there" if is_same else "another file by now"


def _recorded_lines(recorded: Recorded, kind: str) -> Iterator[str]:
    record, settings = recorded.record, recorded.record.settings
    what = "image" if kind == "picture" else kind
    size = f"{settings.width}x{settings.height}"
    yield f"{shown(recorded.source)}: {what}, {size}, {record.steps} steps, seed {settings.seed}"
    schedule = record.schedule.resolve()
    yield from _list_values(
        {
            "prompt": settings.prompt,
            "negative prompt": settings.negative_prompt or None,
            "guidance": f"{settings.slow_guidance:g} slow, {settings.fast_guidance:g} fast",
            "family": record.family,
            "model": recorded.place(record.model),
            "transformer": record.transformer and recorded.place(record.transformer),
            "revision": record.base_revision,
            "run": record.run and recorded.place(record.run),
            "schedule": record.schedule.name,
            **{phase: _join_numbers(schedule.phase(phase).timesteps) for phase in Phase},
            "boundary": f"sigma {schedule.phase(Phase.SLOW).end_sigma:.6g}",
            "reference": settings.reference,
            "made on": f"{record.device}, {record.dtype}, quantised: {record.quantize}",
            "made with": ", ".join(f"{name} {own}" for name, own in record.versions.items()),
            "glance": record.glance,
        }
    )


# --- a run ------------------------------------------------------------------------------------


def describe_run(path: Path, *, terminal: Terminal = PLAIN, is_large: bool = False) -> Description:
    """Return the description of a run, with charts of its losses for `terminal`.

    Raises RunError when `path` is none.
    """
    run = RunFolder(path)
    manifest = load_manifest(run)
    courses = {course.phase: course for course in read_courses(run, manifest)}
    found = {phase: _read_phase(run, manifest, phase) for phase in Phase}
    files = {}
    for phase, record in manifest.phases.items():
        if record.lora is not None:
            state = "changed" if (run.path / record.lora.path).is_file() else "missing"
            files[record.lora.path] = "sound" if found[phase]["is_recorded"] else state
    recorded = manifest.model_dump(mode="json")
    pair_ids = [one["lora"] and one["lora"]["pair_id"] for one in found.values()]
    is_pair = None if None in pair_ids else set(pair_ids) == {manifest.pair_id}
    name, made = quoted(run.path), None
    go_on = f"{manifest.command} --resume {name}"
    if manifest.is_finished:
        commands = [f'glance infer --run {name} --prompt "..."', f"glance export comfyui {name}"]
    else:
        commands = [go_on]
    if manifest.imported is None:
        with suppress(GlanceError):  # its base model is not where it was
            made = shlex.join(made_by(run, manifest))
        if manifest.is_finished and all(checkpoint_names(run, phase) for phase in Phase):
            commands.append(f"{go_on} --steps {math.ceil(manifest.settings.steps * 4 / 3)}")
    document = {
        **recorded,
        "kind": "run",
        "path": str(path),
        "run": str(path),
        "is_pair": is_pair,
        "manifest": recorded,
        "phases": {p.value: {**recorded["phases"][p.value], **one} for p, one in found.items()},
        "files": files,
        "losses": {p.value: [row.to_json() for row in one.losses] for p, one in courses.items()},
        "made_by": made,
        "next": commands,
    }
    lines = list(_head(run, manifest))
    for phase, course in courses.items():
        lines += _phase_lines(manifest, phase, found[phase], files)
        if manifest.phases[phase].attempts:
            height = _LARGE_CHART if is_large else _SMALL_CHART
            chart = chart_course(course, terminal, height=height)
            lines += (f"  {line}" for line in (describe_course(course), *chart.splitlines()))
    where = {
        True: "in the headers of both LoRAs",
        False: "but its LoRAs are of another pair",
        None: "not in the headers of both LoRAs",
    }
    named = f"{manifest.pair_id}, {where[is_pair]}"
    lines.append(f"pair: {named if manifest.pair_id else 'named when both LoRAs are done'}")
    if made is not None:
        lines.append(f"made by: {shown(made)}")
    lines += (f"next: {command}" for command in commands)
    return Description(document, tuple(lines))


def _read_phase(run: RunFolder, manifest: Manifest, phase: Phase) -> dict[str, Any]:
    """Return a phase's LoRA as it is on the disk; None: it is not there, or cannot be read.

    `is_recorded`: whether it is the one that the run recorded; None: there is none to compare.
    """
    record, path = manifest.phases[phase], run.lora(phase)
    file, problems = None, tuple[Problem, ...]()
    try:
        file = _read_lora(path)
    except LoraError as exc:
        problems = exc.problems if record.state is PhaseState.DONE else ()
    known = None if file is None or record.lora is None else file["sha256"] == record.lora.sha256
    if known is False:
        problems = (
            Problem(
                f"{path} is not the file that the run recorded when it was trained",
                "put the right one back, or train in another --run",
            ),
        )
    return {"lora": file, "is_recorded": known, "problems": [one.to_json() for one in problems]}


def _head(run: RunFolder, manifest: Manifest) -> Iterator[str]:
    settings, imported = manifest.settings, manifest.imported
    samples = [f"{one.image}, {one.width}x{one.height}" for one in manifest.samples]
    states = ", ".join(f"{phase} {manifest.phases[phase].state}" for phase in Phase)
    yield f"{shown(run.path)}: run, {states}"
    unknown = () if imported is None else imported.unknown
    asked = {
        name.replace("_", " ") if name != "device" else "trained on": getattr(settings, name)
        for name in ("steps", "rank", "learning_rate", "resolution", "seed", "device")
        if name not in unknown
    }
    yield from _list_values(
        {
            "family": settings.family,
            "model": shown_model(settings.model, run=run.path),
            "transformer": settings.transformer and shown_model(settings.transformer, run=run.path),
            "base model": manifest.base_model,
            "sample": "; ".join(samples) or None,
            "taught by": None if settings.teacher is None else settings.teacher.describe(),
            **asked,
            "not known": ", ".join(unknown) or None,
            "overrides": dict(settings.overrides) or None,
            "begun" if imported is None else "imported": manifest.created.isoformat(),
            "glance": manifest.glance,
            "schedule": manifest.schedule.name,
        }
    )
    if imported is not None:
        for phase in Phase:
            source = f"{imported.sources[phase]}, {imported.folded[phase]}"
            yield f"imported: {phase} from {shown(source)}"


def _phase_lines(
    manifest: Manifest, phase: Phase, found: Mapping[str, Any], files: Mapping[str, str]
) -> Iterator[str]:
    record, part = manifest.phases[phase], manifest.resolve_schedule().phase(phase)
    file = found["lora"]
    timesteps = _join_numbers(part.timesteps)
    yield f"{phase}: {record.state}, timesteps {timesteps}, to {part.end_timestep:g}"
    for number, attempt in enumerate(record.attempts, 1):
        yield f"  start {number}: {_describe_attempt(attempt)}"
    if record.lora is not None:
        size = record.lora.bytes / 1e6
        yield f"  {shown(record.lora.path)}: {size:.1f} MB, {files[record.lora.path]}"
    if file is not None:
        yield f"  {_summarise(file)}{'' if record.lora else ', not recorded'}"
        yield f"  SHA-256 {file['sha256']}, AutoV2 {file['autov2']}"
        yield from _list_problems(file["problems"])
    yield from _list_problems(found["problems"])


def _describe_attempt(attempt: Attempt) -> str:
    parts = [f"{attempt.started:%Y-%m-%d %H:%M:%S}"]
    if attempt.ended is not None:
        parts.append(f"took {attempt.ended - attempt.started}")
    if attempt.resumed:
        parts.append(f"from step {attempt.resumed}")
    parts.append(f"{attempt.measured.steps} steps")
    if attempt.measured.last_loss is not None:
        parts.append(f"last loss {attempt.measured.last_loss:.4f}")
    return ", ".join(parts)


# --- words that are safe to print -------------------------------------------------------------


def _list_values(values: Mapping[str, object]) -> Iterator[str]:
    """Yield indented lines of names and values; None has no line."""
    known = {shown(name): value for name, value in values.items() if value is not None}
    width = min(max(map(len, known), default=0), _NAME)
    for name, value in known.items():
        text = str(value)
        rest = f"... ({len(text):,} characters)" if len(text) > _WIDTH else ""
        yield f"  {name:<{width}}  {shown(text[:_WIDTH])}{rest}"


def _list_problems(problems: Iterable[Mapping[str, str | None]]) -> Iterator[str]:
    for problem in problems:
        yield f"  problem: {shown(problem['message'])}"
        if problem["hint"]:
            yield f"    hint: {shown(problem['hint'])}"


def _join_numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
