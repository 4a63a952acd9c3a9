"""Decide a sampling: LoRAs, schedule, images, device and where they go. Loads no model."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from glance.core.device import (
    AUTO,
    Device,
    Memory,
    Precision,
    Quantize,
    check_memory,
    default_precision,
    is_present,
    require_compiler,
    require_device,
    resolve_device,
)
from glance.core.errors import (
    Checks,
    InputError,
    LoraError,
    Problem,
    ScheduleError,
    UsageError,
    as_typed,
)
from glance.core.files import record_place
from glance.core.hub import find_revision, is_hub_file
from glance.core.phase import Phase
from glance.core.tables import Rows, continued, format_table, short
from glance.models.base import BaseModel
from glance.models.lora.file import hash_file
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.sampling.extra_loras import FoundLora, extra_notes, file_names, find_extras
from glance.sampling.images import Asked, PlannedImage, lay_out, place_images
from glance.sampling.lora_pair import LoraPair, find_pair
from glance.sampling.provenance import (
    ExtraUse,
    LoraUse,
    Record,
    Recorded,
    ScheduleUse,
    base_path,
    read_handover,
    read_record,
    require_room,
)
from glance.sampling.request import ExtraLora, InferRequest
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule
from glance.schedule.shift import depends_on_size, reshift, shift_factor

_STACK: Final = ("torch", "diffusers", "transformers", "peft")
_LISTED: Final = 20  # images
_FELT: Final = 0.05  # of the shift's factor: a difference of size that is worth a word


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """Everything decided: which files, along which schedule, to where."""

    base: BaseModel
    loras: Mapping[Phase, Path]
    extra_loras: Mapping[str, FoundLora]
    """By what their files are called in other tools."""
    schedule: Schedule
    images: tuple[PlannedImage, ...]
    device: Device
    dtype: Precision
    memory: Memory
    quantize: Quantize
    compiled: bool
    batch_size: int
    init_latents: Path | None
    save_latents: bool
    save_phases: bool
    metadata: bool
    names: Mapping[Phase, str]
    """What the LoRAs' files are called in other tools."""
    notes: tuple[str, ...]

    @property
    def settings(self) -> SampleSettings:
        """The first image's."""
        return self.images[0].settings

    def to_json(self) -> dict[str, Any]:
        """Return what `glance infer --dry-run` prints."""
        transformer = self.base.transformer
        return {
            "model": self.base.location,
            "transformer": None if transformer is None else str(transformer),
            "family": self.base.family.name,
            "loras": {phase.value: str(path) for phase, path in self.loras.items()},
            "extra_loras": [one.to_json() for one in self.extra_loras.values()],
            "schedule": self.schedule.to_json(),
            "device": self.device.value,
            "dtype": self.dtype.value,
            "memory": self.memory.value,
            "quantize": self.quantize.value,
            "pictures": [one.to_json() for one in self.images],
            "notes": list(self.notes),
        }


def plan_generation(
    request: InferRequest, *, needs_device: bool = True, folder: Path | None = None
) -> GenerationPlan:
    """Check the request and decide the rest. Reads the LoRAs, writes nothing.

    With `needs_device` off the device may be one that is not here. `folder` is where images go
    unless the request says it; None: the run's.

    Raises UsageError, RunError, LoraError, ModelNotFound, ScheduleError, SettingsError,
    InputError, SetupError.
    """
    typed, recorded = request, _find_recorded(request)
    if recorded is not None:
        request = _fill_in(request, recorded)
    pair, extras = _find_loras(request)
    asked = lay_out(request, pair, recorded)
    if recorded is not None:
        pair = replace(pair, schedule=recorded.record.schedule.resolve())
    schedule, notes = decide_schedule(request, pair, [one.settings for one in asked])
    if request.init_latents is not None:
        _require_fitting(request.init_latents, pair, schedule, asked[0].settings)
    device = resolve_device(request.device)
    if needs_device:
        require_device(device)
    dtype = request.dtype or default_precision(device, stays_in_fp16=pair.base.family.stays_in_fp16)
    quantize, is_file = request.quantize or Quantize.NONE, pair.base.transformer is not None
    check_memory(
        request.memory, quantize, device, is_single_file=is_file, is_compiled=request.compiled
    )
    if request.compiled:
        require_compiler(device)
    latents = request.init_latents
    common = {
        "versions": {name: version(name) for name in _STACK},
        "base_revision": _base_revision(pair.base),
        "device": device,
        "dtype": dtype,
        "quantize": quantize.value,
        "schedule": ScheduleUse.of(schedule),
        "init_latents_sha256": None if latents is None else hash_file(latents),
    }
    shared = None if pair.run is None else pair.run.path
    # what all images of a folder have in common is looked up once: that is most of a plan
    make_record = partial(_make_record, common, pair, extras, cache(partial(_place, shared)))
    notes = [*pair.notes, *notes, *extra_notes([*extras.values()], pair.base.family)]
    notes += _taught_with(pair, extras)
    if recorded is not None:
        notes += _check_loras(recorded, typed, pair.hashes)
        notes += _check_extras(recorded, typed, [one.facts.sha256 for one in extras.values()])
        notes += _differences(recorded, make_record(asked[0], Path()))
    if folder is None:
        folder = Path() if pair.run is None else pair.run.images
    images = place_images(request, asked, folder=folder, make_record=make_record)
    if request.metadata:
        for one in images:
            require_room(one.output, one.record)
    return GenerationPlan(
        base=pair.base,
        loras=pair.loras,
        extra_loras=extras,
        schedule=schedule,
        images=images,
        device=device,
        dtype=dtype,
        memory=request.memory,
        quantize=quantize,
        compiled=request.compiled,
        batch_size=request.batch_size,
        init_latents=latents,
        save_latents=request.save_latents,
        save_phases=request.save_phases,
        metadata=request.metadata,
        names=pair.exported_names(),
        notes=tuple(notes),
    )


def plan_base(plan: GenerationPlan, request: InferRequest) -> GenerationPlan:
    """Return the plan of the base model's own images, along the same timesteps, beside a plan's.

    Raises UsageError where no LoRA of the pair is at work, and what `plan_generation` raises.
    """
    if not any(one.settings.loras for one in plan.images):
        raise UsageError("--with-base and --no-lora exclude each other", hint="drop one of them")
    alone = plan_generation(replace(request, loras=(), save_phases=False, save_latents=False))
    twins = (
        replace(twin, output=base_path(one.output), is_done=False)
        for twin, one in zip(alone.images, plan.images, strict=True)
    )
    images = tuple(replace(one, is_done=one.is_there) for one in twins)
    return replace(alone, images=images, notes=())


def _find_loras(request: InferRequest) -> tuple[LoraPair, Mapping[str, FoundLora]]:
    """Return the pair, and the extra LoRAs by names of their own; raise the problems of both."""
    checks = Checks()
    pair = checks.make(partial(find_pair, request))
    found = checks.make(partial(find_extras, request.extra_loras))
    if pair is None or found is None:
        raise checks.refusal()
    names = file_names(found, taken=pair.exported_names().values())
    return pair, dict(zip(names, found, strict=True))


def _taught_with(pair: LoraPair, extras: Mapping[str, FoundLora]) -> Iterator[str]:
    teacher = None if pair.run is None else load_manifest(pair.run).settings.teacher
    taught = {} if teacher is None or not pair.loras else teacher.loras
    for one in extras.values():
        if one.asked.with_pair and one.facts.sha256 in taught.values():
            yield f"{one.facts.path} is what the pair was taught with: it is in the pair already"


# --- the schedule --------------------------------------------------------------------------------


def decide_schedule(
    request: InferRequest, pair: LoraPair, images: Sequence[SampleSettings]
) -> tuple[Schedule, list[str]]:
    """Return the user's own lists, else the trained ones, else the guide's; and what to note.

    With `reshift` the lists are moved from the trained size to the images'. Raises what
    BaseModel.resolve_schedule raises, ScheduleError too when the images differ in size and the
    schedule depends on it, or none depends on the size that should be moved.
    """
    options, size = request.schedule, (images[0].width, images[0].height)
    if options.name is None and pair.schedule is not None and not options.gives_steps:
        schedule, notes = options.replace_lists(pair.schedule), []
    else:
        resolved = pair.base.resolve_schedule(options, size)
        schedule, notes = resolved.schedule, [doubt.message for doubt in resolved.doubts]
    if request.reshift:
        _require_one_size("--reshift", images)
        return _move(schedule, pair, size), notes
    if options.is_of_one_size:
        _require_one_size(f"--schedule {options.name}", images)
    return schedule, [
        *notes,
        *_disagreement(schedule, pair.schedule, images),
        *_other_size(schedule, pair, images),
    ]


def _require_one_size(flag: str, images: Sequence[SampleSettings]) -> None:
    sizes = sorted({(one.width, one.height) for one in images})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sizes)
        message = f"{flag} gives one schedule, and the images have several sizes: {shown}"
        raise ScheduleError(message, hint="generate one size at a time")


def _move(schedule: Schedule, pair: LoraPair, size: tuple[int, int]) -> Schedule:
    family, shift = pair.base.family, pair.base.find_shift().shift
    if not depends_on_size(shift):
        raise ScheduleError(
            f"--reshift: {family.title} has the same schedule at every size", hint="drop it"
        )
    side = pair.side or family.resolution
    return reshift(schedule, shift, made_for=(side, side), wanted=size)


def _other_size(
    schedule: Schedule, pair: LoraPair, images: Sequence[SampleSettings]
) -> Iterator[str]:
    """Say what it changes to sample trained lists at another size."""
    side, has_loras = pair.side, any(one.loras for one in images)
    if side is None or not has_loras or schedule != pair.schedule:
        return
    try:
        shift = pair.base.find_shift().shift
    except ScheduleError:  # nobody knows what would change
        return
    width, height = images[0].width, images[0].height
    there, here = shift_factor(shift, side, side), shift_factor(shift, width, height)
    if abs(here / there - 1) < _FELT:
        return
    more = "more" if here > there else "less"
    yield (
        f"the pair was trained at {side}x{side}; at {width}x{height} the model itself stays "
        f"{more} in the noise (shift {here:.2f} instead of {there:.2f}). The trained timesteps are "
        "kept; --reshift moves them along, to levels that the LoRAs were not trained on"
    )


def _disagreement(
    schedule: Schedule, trained: Schedule | None, images: Sequence[SampleSettings]
) -> Iterator[str]:
    """Warn of LoRAs that will see noise levels which they were not trained on."""
    used = {phase for one in images for phase in one.loras}
    for phase in Phase:
        if trained is None or phase not in used:
            continue
        runs, knows = (one.phase(phase).timesteps for one in (schedule, trained))
        if not set(runs) <= set(knows):
            runs_at, trained_on = (" ".join(f"{step:g}" for step in one) for one in (runs, knows))
            yield f"the {phase} LoRA runs at timesteps {runs_at}, it was trained on {trained_on}"


def _require_fitting(
    path: Path, pair: LoraPair, schedule: Schedule, settings: SampleSettings
) -> None:
    """Raise InputError unless the fast phase can begin from the latents in `path` as they are."""
    record, family = read_handover(path), pair.base.family
    at, begins = record.schedule.fast.timesteps[0], schedule.phase(Phase.FAST).timesteps[0]
    made, wanted = ((one.width, one.height) for one in (record.settings, settings))
    wrong: dict[str, str] = {}
    if record.family != family.name:
        what = f"latents of {record.family}, the model is {family.name}"
        wrong[what] = "give the model that they were made with"
    if at != begins:
        what = f"latents at timestep {at:g}, the fast phase begins at {begins:g}"
        wrong[what] = "leave out --schedule and --fast-timesteps"
    if made != wanted:
        what = f"latents of {made[0]}x{made[1]} pixels, not of {wanted[0]}x{wanted[1]}"
        wrong[what] = "leave out --width and --height"
    if wrong:
        raise InputError(Problem(f"{path} holds {what}", hint) for what, hint in wrong.items())


# --- the record of each image: everything that decides its pixels, written down before -----------


def _make_record(
    common: Mapping[str, Any],
    pair: LoraPair,
    extras: Mapping[str, FoundLora],
    place_from: Callable[[Path, Path], str],
    asked: Asked,
    folder: Path,
) -> Record:
    """Return the record of an image that goes to `folder`: its paths start from there."""
    base, settings = pair.base, asked.settings
    place = partial(place_from, folder)
    reference = settings.reference
    if reference is not None:
        settings = settings.model_copy(update={"reference": Path(place(reference))})
    return Record(
        **common,
        family=base.family.name,
        model=base.location if base.folder is None else place(base.folder),
        transformer=None if base.transformer is None else place(base.transformer),
        run=None if pair.run is None else place(pair.run.path),
        loras=tuple(
            LoraUse(
                phase=phase,
                file=pair.names.get(phase) or place(pair.loras[phase]),
                sha256=pair.hashes[phase],
                scale=settings.scale(phase),
            )
            for phase in settings.loras
            if phase in pair.loras
        ),
        extra_loras=tuple(
            ExtraUse(
                name=name,
                file=one.hub_name or place(one.facts.path),
                sha256=one.facts.sha256,
                strength=one.asked.strength,
                with_pair=one.asked.with_pair,
            )
            for name, one in extras.items()
        ),
        settings=settings,
        reference_sha256=None if reference is None else hash_file(reference),
    )


def _place(shared: Path | None, folder: Path, path: Path) -> str:
    """Return where `path` is as seen from `folder`: never like a name on the Hub.

    An image is shown to anybody: of folders above it, or above its run, no name is written.
    """
    found = record_place(path, folder, shared=shared)
    return f"./{found}" if is_hub_file(found) else found


def _base_revision(base: BaseModel) -> str:
    """Return what tells the base model from another one of the same name."""
    if base.folder is not None:
        return base.fingerprint
    revision = find_revision(base.location) or "unknown"
    return revision if base.transformer is None else f"{revision} {base.transformer.name}"


# --- what a record says, as the request that would make the same image again ---------------------


def _find_recorded(request: InferRequest) -> Recorded | None:
    """Return what the request builds on: an image's record, else that of saved latents.

    Raises InputError when there is none in the file, or an image was generated from saved latents
    and they are not given.
    """
    if request.from_image is not None:
        record = read_record(request.from_image)
        if record.init_latents_sha256 is not None:
            _require_latents(request, record.init_latents_sha256)
        return Recorded(record, request.from_image)
    if request.init_latents is not None:
        return Recorded(read_handover(request.init_latents), request.init_latents)
    return None


def _require_latents(request: InferRequest, sha256: str) -> None:
    if request.init_latents is None:
        raise InputError(
            f"{request.from_image} was generated from saved latents",
            hint="give them: --init-latents FILE",
        )
    if request.init_latents.is_file() and hash_file(request.init_latents) != sha256:
        raise InputError(
            f"{request.init_latents} holds other latents than {request.from_image} began from",
            hint="give those, or leave out --from-image",
        )


def _fill_in(request: InferRequest, recorded: Recorded) -> InferRequest:
    """Return the request with the record's model, LoRAs and precision where it says nothing.

    What the images show is filled in later, image by image.
    """
    record = recorded.record
    is_here = request.device == AUTO and is_present(record.device)
    changes: dict[str, Any] = {
        "loras": record.settings.loras if request.loras is None else request.loras,
        "dtype": request.dtype or record.dtype,
        "quantize": request.quantize or Quantize(record.quantize),
        "device": record.device.value if is_here else request.device,
    }
    if request.model is None and request.base is None and request.run is None:
        whole = recorded.place(record.model)
        changes["family"] = request.family or record.family
        changes["model"] = whole
        if record.transformer is not None:
            changes |= {"model": recorded.place(record.transformer), "base": whole}
    if request.run is None and request.slow_lora is None and request.fast_lora is None:
        changes |= _recorded_loras(request, recorded)
    if not request.extra_loras:
        changes["extra_loras"] = _recorded_extras(recorded)
    return replace(request, **changes)


def _recorded_loras(request: InferRequest, recorded: Recorded) -> dict[str, Any]:
    run = recorded.record.run
    if run is not None and RunFolder(Path(recorded.place(run))).manifest.is_file():
        return {"run": Path(recorded.place(run))}
    wanted = request.loras or tuple(Phase)
    if request.init_latents is not None:
        wanted = (Phase.FAST,)
    files = {use: recorded.place(use.file) for use in recorded.record.loras if use.phase in wanted}
    lost = [use for use in files if not Path(files[use]).exists() and not is_hub_file(use.file)]
    if lost:
        raise LoraError(
            Problem(
                f"{recorded.source} was made with {use.file}, which is not there any more",
                "say where the LoRAs are: --run, or --slow-lora and --fast-lora",
            )
            for use in lost
        )
    return {f"{use.phase}_lora": file for use, file in files.items()}


def _recorded_extras(recorded: Recorded) -> tuple[ExtraLora, ...]:
    uses = recorded.record.extra_loras
    files = {use: recorded.place(use.file) for use in uses}
    lost = [use for use in uses if not Path(files[use]).exists() and not is_hub_file(use.file)]
    if lost:
        flags = _say_extras({use: "FILE" if use in lost else files[use] for use in uses})
        raise LoraError(
            Problem(
                f"{recorded.source} was made with {use.name} at strength {as_typed(use.strength)}, "
                f"which is not at {use.file} any more (SHA-256 {use.sha256[:10]}...)",
                f"say where it is: {flags}",
            )
            for use in lost
        )
    return tuple(ExtraLora(files[use], use.strength, use.with_pair) for use in uses)


def _say_extras(files: Mapping[ExtraUse, str]) -> str:
    said = (shlex.quote(f"{file}:{as_typed(use.strength)}") for use, file in files.items())
    return " ".join(f"--lora {one}" for one in said)


def _check_extras(recorded: Recorded, typed: InferRequest, hashes: Sequence[str]) -> Iterator[str]:
    """Raise LoraError for extra LoRAs that changed; note others that were asked for."""
    uses = recorded.record.extra_loras
    if typed.extra_loras:
        if {use.sha256 for use in uses} != set(hashes):
            names = ", ".join(use.name for use in uses) or "none"
            yield f"the further LoRAs of {recorded.source} are others: {names}"
        return
    changed = [use for use, sha256 in zip(uses, hashes, strict=True) if use.sha256 != sha256]
    if changed:
        flags = _say_extras({use: recorded.place(use.file) for use in uses})
        raise LoraError(
            Problem(
                f"{recorded.place(use.file)} is not the file that {recorded.source} was made with "
                f"(SHA-256 {use.sha256[:10]}...)",
                f"to use it all the same: {flags}",
            )
            for use in changed
        )


def _check_loras(
    recorded: Recorded, typed: InferRequest, hashes: Mapping[Phase, str]
) -> tuple[str, ...]:
    """Raise LoraError for LoRAs that are others than the record's, unless they were asked for.

    Returns what is worth saying.
    """
    changed = [
        use for use in recorded.record.loras if hashes.get(use.phase, use.sha256) != use.sha256
    ]
    if typed.run is not None or typed.slow_lora is not None or typed.fast_lora is not None:
        return tuple(f"the {use.phase} LoRA is not that of {recorded.source}" for use in changed)
    if changed:
        raise LoraError(
            Problem(
                f"{recorded.place(use.file)} is not the file that {recorded.source} was made with",
                "was it trained again? say which LoRAs to use: --run, or --slow-lora and "
                "--fast-lora",
            )
            for use in changed
        )
    return ()


def _differences(recorded: Recorded, record: Record) -> Iterator[str]:
    """Say what may keep the same settings from giving the same pixels."""
    before, source = recorded.record, recorded.source
    for name, number in before.versions.items():
        here = record.versions.get(name, "none")
        if here != number:
            yield f"{source} was made with {name} {number}, here is {here}: the image may differ"
    if record.base_revision != before.base_revision:
        yield f"the base model is not that of {source}: the image may differ"
    if record.reference_sha256 != before.reference_sha256:
        yield f"the reference is not that of {source}: the image will differ"
    if record.device is not before.device:
        yield f"{source} was made on {before.device}, this will be on {record.device}"


def sampling_rows(plan: GenerationPlan) -> Rows:
    """Yield what is generated, with what, and where it goes."""
    yield "model", f"{plan.base.shown} ({plan.base.family.name})"
    if plan.base.transformer is not None:
        yield "transformer", str(plan.base.transformer)
    for phase in Phase:
        yield f"{phase} LoRA", str(plan.loras.get(phase, "none"))
    yield from extra_rows(plan)
    yield from plan.schedule.rows()
    precision = f"{plan.dtype}, memory {plan.memory}, quantize {plan.quantize}"
    yield "sampling", f"{plan.device}, {precision}, {plan.batch_size} at once"
    done = sum(one.is_done for one in plan.images)
    steps = len(plan.schedule.sigmas)
    yield "images", f"{len(plan.images):,}{said_done(done)}, {steps} steps each"
    lines = [
        (
            str(one.output),
            f"{one.settings.width}x{one.settings.height}",
            f"seed {one.settings.seed}",
            f"guidance {one.settings.slow_guidance:g}, {one.settings.fast_guidance:g}",
            short(one.settings.prompt) + (" (there already)" if one.is_done else ""),
        )
        for one in plan.images[:_LISTED]
    ]
    for line in format_table(lines[0], lines[1:], align=str.ljust).splitlines():
        yield "", line
    if len(plan.images) > _LISTED:
        yield "", f"... and {len(plan.images) - _LISTED:,} more"


def extra_rows(plan: GenerationPlan) -> Rows:
    """Yield the LoRAs that are none of the pair's."""
    found = (one.lora for one in plan.extra_loras.values())
    yield from continued(
        "further LoRAs", (f"{one.file}, strength {one.strength:g}" for one in found)
    )


def said_done(done: int) -> str:
    """Say how many images an earlier start has made; nothing for none."""
    return f", {done:,} of them there already" if done else ""
