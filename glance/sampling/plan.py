"""Decide a sampling: pair, schedule, pictures, device and where they go. Loads no model."""

from pathlib import Path

from glance.core.device import Device, Precision, require_compiler, require_device, resolve_device
from glance.core.memory import Quantize, check_memory
from glance.models.lora.file import hash_file
from glance.models.schedules import Subject
from glance.sampling.handover import require_fitting
from glance.sampling.outputs import place_pictures
from glance.sampling.pair import Pair, find_pair
from glance.sampling.pictures import Asked, lay_out
from glance.sampling.provenance.picture import require_room
from glance.sampling.recorded import check_loras, differences, fill_in, find_recorded
from glance.sampling.records import RecordMaker, base_revision, stack_versions
from glance.sampling.request import GenerationPlan, InferRequest
from glance.sampling.schedules import Trained, decide_levels
from glance.sampling.workflow import name_elsewhere
from glance.schedule.lists import Schedule


def plan_generation(request: InferRequest, *, needs_device: bool = True) -> GenerationPlan:
    """Check the request and decide the rest. Reads the LoRAs, writes nothing.

    With `needs_device` off the device may be one that is not here.

    Raises UsageError, RunError, LoraError, ModelNotFound, ScheduleError, SettingsError,
    InputError, SetupError.
    """
    typed, recorded = request, find_recorded(request)
    if recorded is not None:
        request = fill_in(request, recorded)
    pair = find_pair(request)
    asked = lay_out(
        request,
        pair.family,
        resolution=pair.resolution,
        recorded=recorded,
        trained=pair.trained,
    )
    pictures = [one.settings for one in asked]
    levels = decide_levels(
        request,
        Trained(
            pair.schedule if recorded is None else recorded.record.schedule.resolve(),
            pair.resolution,
        ),
        Subject(pair.family, pair.model, (pictures[0].width, pictures[0].height)),
        pictures,
    )
    if request.init_latents is not None:
        require_fitting(request.init_latents, pair.family, levels.schedule, asked[0].settings)
    maker = _record_maker(request, pair, levels.schedule, needs_device=needs_device)
    notes = [*pair.notes, *levels.notes]
    if recorded is not None:
        notes += check_loras(recorded, typed, pair.hashes)
        notes += differences(recorded, maker.make(asked[0], Path()))
    return _put_together(request, pair, maker, asked, tuple(notes))


def _record_maker(
    request: InferRequest, pair: Pair, schedule: Schedule, *, needs_device: bool
) -> RecordMaker:
    device = resolve_device(request.device)
    if needs_device:
        require_device(device)
    dtype = request.dtype or (Precision.FP32 if device is Device.CPU else Precision.BF16)
    quantize = request.quantize or Quantize.NONE
    check_memory(
        request.memory,
        quantize,
        device,
        is_single_file=pair.transformer is not None,
        is_compiled=request.compiled,
    )
    if request.compiled:
        require_compiler(device)
    latents = request.init_latents
    return RecordMaker(
        pair=pair,
        schedule=schedule,
        device=device,
        dtype=dtype,
        quantize=quantize,
        versions=stack_versions(),
        revision=base_revision(pair),
        init_latents_sha256=None if latents is None else hash_file(latents),
    )


def _put_together(
    request: InferRequest,
    pair: Pair,
    maker: RecordMaker,
    asked: tuple[Asked, ...],
    notes: tuple[str, ...],
) -> GenerationPlan:
    pictures = place_pictures(
        request,
        asked,
        images=Path() if pair.run is None else pair.run.images,
        make_record=maker.make,
    )
    if request.metadata:
        for one in pictures:
            require_room(one.output, one.record)
    return GenerationPlan(
        model=pair.model,
        transformer=pair.transformer,
        family=pair.family,
        loras=pair.loras,
        base_loras=request.base_loras,
        schedule=maker.schedule,
        pictures=pictures,
        device=maker.device,
        dtype=maker.dtype,
        memory=request.memory,
        quantize=maker.quantize,
        compiled=request.compiled,
        batch_size=request.batch_size,
        init_latents=request.init_latents,
        save_latents=request.save_latents,
        save_phases=request.save_phases,
        metadata=request.metadata,
        names=name_elsewhere(pair),
        notes=notes,
    )
