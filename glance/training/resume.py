"""What a run was made with, as a request again: `--resume`, and the commands that `info` prints."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, cast

from glance.core.device import Device
from glance.core.errors import RunError, UsageError, as_typed, quoted
from glance.core.files import find_place
from glance.core.options import command_line
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, load_manifest
from glance.runs.settings import USUAL, Teacher, TrainSettings
from glance.sampling.prompts import teaching_prompts
from glance.schedule.lists import PRESETS
from glance.schedule.options import ScheduleOptions
from glance.schedule.shift import TEACHER_STEPS
from glance.training import distillation
from glance.training.request import DistillRequest, TrainingRequest, TrainRequest, Vram
from glance.training.simpletuner.config import render_timesteps

_PRINTED: Final = 4
"""So many prompts stand in a command; more are in a file."""


def resume[R: TrainingRequest](request: R) -> R:
    """Return the request with what the run that it resumes was made with.

    What the request says itself stands: more steps, how to train, or what makes the run refuse it.
    Raises UsageError for a --run beside it, RunError for no run that this command has begun,
    ModelNotFound where its base model is not where it was.
    """
    assert request.resume is not None
    if request.run is not None:
        raise UsageError("--run and --resume exclude each other", hint="drop --run")
    run = RunFolder(request.resume)
    manifest = load_manifest(run)
    if manifest.imported is not None:
        raise RunError(f"run {run.path} was imported: there is nothing to train in it")
    kind = TrainRequest if manifest.settings.teacher is None else DistillRequest
    if not isinstance(request, kind):
        remedy = f"{manifest.command} --resume {quoted(run.path)}"
        raise RunError(f"run {run.path} was begun by `{manifest.command}`", hint=remedy)
    said = {
        field.name: value
        for field in fields(request)
        if field.name not in ("run", "resume")
        and (value := getattr(request, field.name))
        # a schedule's default is made anew for each request
        not in (field.default, ScheduleOptions())
    }
    return cast("R", replace(recall(run, manifest, model=request.model), **said))


def recall(
    run: RunFolder, manifest: Manifest, *, model: str | None = None
) -> TrainRequest | DistillRequest:
    """Return the request that makes such a run in its folder, of what it holds.

    `model` stands in for the base model where that has been moved. Raises ModelNotFound where it
    is not there.
    """
    settings, teacher = manifest.settings, manifest.settings.teacher
    common = {
        "family": settings.family,
        **_recall_model(settings, run, model),
        "run": run.path,
        "steps": settings.steps,
        "rank": settings.rank,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
        "overrides": tuple(
            f"{name}={str(value).lower() if isinstance(value, bool) else as_typed(value)}"
            for name, value in settings.overrides.items()
        ),
        "schedule": _recall_schedule(manifest, teacher),
        "device": settings.device.value,
        "vram": settings.preset.removesuffix("gb"),
    }
    if teacher is not None:
        return DistillRequest(
            **common,
            prompts=teacher.prompts,
            sizes=tuple(f"{width}x{height}" for width, height in teacher.sizes),
            noises=teacher.noises,
            batch_size=settings.batch_size,
            guidance=teacher.guidance,
            teacher_loras=tuple(
                _find(teacher.places.get(one), run) for one in teacher.loras.values()
            ),
            reference=Path(_find(teacher.places.get(teacher.reference), run))
            if teacher.reference
            else None,
        )
    reference = manifest.samples[0].reference if manifest.samples else None
    return TrainRequest(
        **common,
        image=tuple(run.path / one.image for one in manifest.samples),
        reference=None if reference is None else run.path / reference,
        resolution=",".join(map(str, (settings.resolution, *settings.also_resolutions))),
        crop=",".join(settings.crops),
        sample_every=settings.sample_every,
        sample_prompt=settings.sample_prompt,
    )


def made_by(run: RunFolder, manifest: Manifest) -> list[str]:
    """Return the command that makes such a run, without flags that change nothing.

    Of a distillation on many prompts a file stands in for them: they are in glance.json. Raises
    ModelNotFound where the base model is not where it was.
    """
    request, settings = recall(run, manifest), manifest.settings
    family = find_family(settings.family)
    usual: dict[str, Any] = {**USUAL, "learning_rate": family.learning_rate}
    same = dict[str, Any]()
    if settings.device is not Device.CUDA:
        same["vram"] = Vram.AUTO  # it decides nothing
    if isinstance(request, DistillRequest):
        base = BaseModel.resolve(request.model, base=request.base, family=request.family)
        usual = {**distillation.USUAL, "guidance": family.guidance.slow}
        usual["learning_rate"] = distillation.usual_rate(base)
        if request.prompts == teaching_prompts(distillation.PROMPTS, world=base.is_packaged):
            same["prompts"] = ()
        elif len(request.prompts) > _PRINTED:
            same |= {"prompts": (), "prompt_file": Path("prompts.txt")}
        if request.schedule.teacher_steps == TEACHER_STEPS:
            same["schedule"] = replace(request.schedule, teacher_steps=None)
    same |= {name: None for name, value in usual.items() if getattr(request, name) == value}
    return [*manifest.command.split(), *command_line(replace(request, **same))]


def _recall_model(settings: TrainSettings, run: RunFolder, moved: str | None) -> dict[str, Any]:
    if moved is not None:
        return {"model": moved}
    base = BaseModel.recorded(
        settings.model, settings.transformer, family=settings.family, start=run.path
    )
    whole = base.location if base.folder is None else os.path.relpath(base.folder)
    if base.transformer is None:
        return {"model": whole}
    return {"model": os.path.relpath(base.transformer), "base": whole}


def _recall_schedule(manifest: Manifest, teacher: Teacher | None) -> ScheduleOptions:
    """Return its lists, whatever their name stands for by now."""
    schedule = manifest.resolve_schedule()
    preset = PRESETS.get(schedule.name)
    steps = None if teacher is None else teacher.steps
    if preset is not None and preset.schedule == schedule:
        return ScheduleOptions(name=schedule.name, teacher_steps=steps)
    slow, fast = (render_timesteps(schedule.phase(phase)) for phase in Phase)
    return ScheduleOptions(slow_timesteps=slow, fast_timesteps=fast, teacher_steps=steps)


def _find(place: str | None, run: RunFolder) -> str:
    """Return where a file of the teacher's is by now, as it is given to a command."""
    found = None if place is None else find_place(place, run.path)
    if found is not None and found.exists():
        return os.path.relpath(found)
    return place or "?"
