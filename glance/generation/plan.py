"""Decide a sampling: settings, schedule, device and where the picture goes. Loads no model."""

import os
import re
from pathlib import Path

from glance.device import Device, Precision, require_device, resolve_device
from glance.errors import InputError, UsageError
from glance.families import Family
from glance.generation.pair import find_pair
from glance.generation.request import GenerationPlan, InferRequest
from glance.sample import measure_picture
from glance.schedule import Schedule, replace_lists, resolve_schedule
from glance.settings import DEFAULT_SCHEDULE, SampleSettings, resolve_sample_settings

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def plan_generation(request: InferRequest) -> GenerationPlan:
    """Check the request and decide the rest. Reads the LoRAs, writes nothing.

    Raises UsageError, RunError, LoraError, ModelNotFound, ScheduleError, SettingsError, InputError.
    """
    pair = find_pair(request)
    aspect = _measure_reference(request.reference, pair.family)
    settings = resolve_sample_settings(
        pair.family,
        prompt=request.prompt,
        seed=request.seed,
        slow_guidance=request.slow_guidance,
        fast_guidance=request.fast_guidance,
        width=request.width,
        height=request.height,
        resolution=pair.resolution,
        reference=request.reference,
        aspect=aspect,
    )
    device = resolve_device(request.device)
    require_device(device)
    return GenerationPlan(
        model=pair.model,
        transformer=pair.transformer,
        family=pair.family,
        loras=pair.loras,
        schedule=_resolve_schedule(request, pair.schedule),
        settings=settings,
        device=device,
        dtype=request.dtype or (Precision.FP32 if device is Device.CPU else Precision.BF16),
        output=_resolve_output(request.output, pair.images, settings),
        notes=pair.notes,
    )


def _measure_reference(reference: Path | None, family: Family) -> tuple[int, int] | None:
    """Return the width and height of the picture to edit; None where nothing is edited."""
    if family.edits and reference is None:
        raise UsageError(
            f"{family.title} edits a picture, and there is no --reference",
            hint="say which one with --reference x.png",
        )
    if reference is None:
        return None
    if not family.edits:
        raise UsageError(
            f"--reference: {family.title} paints from text alone", hint="drop --reference"
        )
    return measure_picture(reference)


def _resolve_schedule(request: InferRequest, trained: Schedule | None) -> Schedule:
    """The user's own, else the trained one, else the guide's."""
    if request.schedule is not None or trained is None:
        base = resolve_schedule(request.schedule or DEFAULT_SCHEDULE)
    else:
        base = trained
    return replace_lists(
        base, slow_timesteps=request.slow_timesteps, fast_timesteps=request.fast_timesteps
    )


def _resolve_output(given: Path | None, images: Path, settings: SampleSettings) -> Path:
    """Return where the image goes: a path given is used as it is, a name of ours is new."""
    if given is not None and not given.is_dir():
        if given.suffix.lower() not in FORMATS:
            raise InputError(
                f"--output {given}: {given.suffix or 'no ending'} is not a picture format",
                hint=f"use one of {', '.join(FORMATS)}",
            )
        _require_writable(given)
        return given
    words = re.sub(r"[^\w]+", "-", settings.prompt.lower()).strip("-")[:40].strip("-")
    stem = f"{words or 'image'}-{settings.seed}"
    folder = given or images
    _require_writable(folder)
    names = (f"{stem}{'' if number == 1 else f'-{number}'}.png" for number in range(1, 10_000))
    return next(folder / name for name in names if not (folder / name).exists())


def _require_writable(path: Path) -> None:
    """Raise InputError now, not after the sampling, where nothing can be written."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    folder = place if place.is_dir() else place.parent
    if (place not in (path.absolute(), folder)) or not os.access(folder, os.W_OK):
        raise InputError(f"nothing can be written at {path}", hint="give --output another path")
