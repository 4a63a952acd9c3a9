"""What a run was made with, as a request again: `--resume`, and the commands that `info` prints."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from glance.core.device import Device, Quantize
from glance.core.errors import ModelNotFound, Problem, RunError, UsageError, as_typed, quoted, shown
from glance.core.files import find_place
from glance.core.hub import is_hub_file
from glance.core.options import command_line, show_size
from glance.core.phase import Phase
from glance.models.base import PACKAGED, BaseModel, packaged_fingerprint
from glance.models.checkpoint import is_checkpoint
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, load_manifest
from glance.runs.settings import USUAL, Teacher
from glance.runs.view import Crop
from glance.sampling.prompts import teaching_prompts
from glance.schedule.lists import DEFAULT_SCHEDULE, PRESETS
from glance.schedule.options import ScheduleOptions
from glance.schedule.shift import TEACHER_STEPS
from glance.training import distillation
from glance.training.request import DistillRequest, TrainingRequest, TrainRequest, Vram
from glance.training.simpletuner.config import render_timesteps


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
        if field.name not in ("run", "resume", "schedule")
        and (value := getattr(request, field.name)) != field.default
    }
    return cast("R", recall(run, manifest, said, schedule=request.schedule))


def recall(
    run: RunFolder,
    manifest: Manifest,
    said: Mapping[str, Any] = MappingProxyType({}),
    *,
    schedule: ScheduleOptions | None = None,
) -> TrainRequest | DistillRequest:
    """Return the request that makes such a run in its folder, of what it holds.

    What is `said` stands in for what the run holds, by the fields' names. Raises RunError where a
    file that it needs is gone, ModelNotFound where its base model is not where it was.
    """
    settings, teacher = manifest.settings, manifest.settings.teacher
    common = {
        "family": settings.family,
        **_recall_model(manifest, run, said),
        "run": run.path,
        "steps": settings.steps,
        "rank": settings.rank,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
        "overrides": tuple(
            f"{name}={str(value).lower() if isinstance(value, bool) else as_typed(value)}"
            for name, value in settings.overrides.items()
        ),
        "schedule": _recall_schedule(manifest, teacher, schedule or ScheduleOptions()),
        "device": settings.device.value,
        "vram": settings.preset.removesuffix("gb"),
    }
    if manifest.previews is not None:
        common["preview_every"] = manifest.previews.every
        common["preview_prompts"] = manifest.previews.prompts
    if teacher is None:
        own = {
            **_recall_pairs(manifest, run, said),
            "resolution": ",".join(map(str, (settings.resolution, *settings.also_resolutions))),
            "crop": ",".join(settings.crops),
        }
        return TrainRequest(**{**common, **own, **said})
    own = {
        "prompts": () if "prompt_file" in said else teacher.prompts,
        "sizes": tuple(map(show_size, teacher.sizes)),
        "noises": teacher.noises,
        "batch_size": settings.batch_size,
        "guidance": teacher.guidance,
        "quantize": teacher.quantize or Quantize.NONE,
        **_recall_files(teacher, run, said),
    }
    return DistillRequest(**{**common, **own, **said})


def made_by(run: RunFolder, manifest: Manifest) -> list[str]:
    """Return the command that makes such a run, without flags that change nothing.

    Raises RunError where a file that it needs is gone, ModelNotFound where its base model is not
    where it was.
    """
    request, settings = recall(run, manifest), manifest.settings
    family = find_family(settings.family)
    usual: dict[str, Any] = {**USUAL, "learning_rate": family.learning_rate}
    same = dict[str, Any]()
    if isinstance(request, TrainRequest):
        if request.crop == Crop.WHOLE:
            same["crop"] = None
        if request.schedule.name == DEFAULT_SCHEDULE:
            same["schedule"] = ScheduleOptions()
    if settings.device is not Device.CUDA:
        same["vram"] = Vram.AUTO  # it decides nothing
    if isinstance(request, DistillRequest):
        base = BaseModel.resolve(request.model, base=request.base, family=request.family)
        usual = {**distillation.USUAL, "guidance": family.guidance.slow}
        usual["learning_rate"] = distillation.usual_rate(base)
        if request.prompts == teaching_prompts(distillation.PROMPTS, world=base.is_packaged):
            same["prompts"] = ()
        if request.schedule.teacher_steps == TEACHER_STEPS:
            same["schedule"] = replace(request.schedule, teacher_steps=None)
    same |= {name: None for name, value in usual.items() if getattr(request, name) == value}
    return [*manifest.command.split(), *command_line(replace(request, **same))]


def _recall_model(manifest: Manifest, run: RunFolder, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return where its base model is; of what is said, that the rest of a single file is as was."""
    settings, is_said = manifest.settings, "model" in said
    is_file = settings.transformer is not None and (not is_said or is_checkpoint(said["model"]))
    file = None if is_said else settings.transformer
    try:
        base = BaseModel.recorded(settings.model, file, family=settings.family, start=run.path)
    except ModelNotFound:
        if is_said and is_file and "base" not in said:
            raise ModelNotFound(
                f"what {said['model']} belongs to is not where it was",
                hint="say where that model is with --pipeline",
            ) from None
        if is_said:
            return {}
        if manifest.base_model == packaged_fingerprint():  # of another installation
            return {"model": PACKAGED}
        raise
    whole = base.location if base.folder is None else os.path.relpath(base.folder)
    if is_said:
        return {"base": whole} if is_file else {}
    if base.transformer is not None:
        return {"model": os.path.relpath(base.transformer), "base": whole}
    return {"model": PACKAGED if base.is_packaged else whole}


def _recall_schedule(
    manifest: Manifest, teacher: Teacher | None, said: ScheduleOptions
) -> ScheduleOptions:
    """Return its lists, whatever their name stands for by now; what is said in place of them."""
    schedule = manifest.resolve_schedule()
    preset = PRESETS.get(schedule.name)
    steps = None if teacher is None else teacher.steps
    if said.teacher_steps is not None:
        steps = said.teacher_steps
    if (said.name, said.slow_steps, said.fast_steps) != (None, None, None):
        return replace(said, teacher_steps=steps)
    if preset is not None and preset.schedule == schedule:
        own = ScheduleOptions(name=schedule.name)
    else:
        slow, fast = (render_timesteps(schedule.phase(phase)) for phase in Phase)
        own = ScheduleOptions(slow_timesteps=slow, fast_timesteps=fast)
    return replace(
        own,
        slow_timesteps=said.slow_timesteps or own.slow_timesteps,
        fast_timesteps=said.fast_timesteps or own.fast_timesteps,
        teacher_steps=steps,
    )


def _recall_pairs(manifest: Manifest, run: RunFolder, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's own copies of its images; raises RunError where one is gone."""
    if "image" in said:
        return {}
    names = [name for one in manifest.samples for name in (one.image, one.caption)]
    gone = [name for name in names if not (run.path / name).is_file()]
    if gone:
        raise RunError(
            f"{shown(run.path)} holds {', '.join(gone)} no longer",
            hint="give the images again, their captions beside them: --image x.png",
        )
    pairs = {"image": tuple(run.path / one.image for one in manifest.samples)}
    reference = manifest.samples[0].reference
    if reference is None or "reference" in said:
        return pairs
    if not (run.path / reference).is_file():
        raise RunError(
            f"{shown(run.path)} holds {reference} no longer",
            hint="give the source image again: --source-image x.png",
        )
    return {**pairs, "reference": run.path / reference}


def _recall_files(teacher: Teacher, run: RunFolder, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the files that a teacher samples with; raises RunError for all that are gone."""
    found, problems = dict[str, Any](), list[Problem]()
    if "teacher_loras" not in said:
        places = {name: _find(teacher.places.get(one), run) for name, one in teacher.loras.items()}
        found["teacher_loras"] = tuple(filter(None, places.values()))
        if gone := [name for name, place in places.items() if place is None]:
            every = " ".join(f"--teacher-lora {quoted(Path(name))}" for name in places)
            message = (
                f"{shown(run.path)} was taught with {', '.join(map(shown, gone))}, which is not "
            )
            problems.append(Problem(f"{message}where it was", f"say where: {every}"))
    if teacher.reference is not None and "reference" not in said:
        place = _find(teacher.places.get(teacher.reference), run)
        found["reference"] = None if place is None else Path(place)
        if place is None:
            message = f"the source image of {shown(run.path)} is not where it was"
            problems.append(Problem(message, "say where: --source-image x.png"))
    if problems:
        raise RunError(problems)
    return found


def _find(place: str | None, run: RunFolder) -> str | None:
    """Return where a recorded file is by now, as it is given to a command; None: it is gone."""
    if place is None:
        return None
    found = find_place(place, run.path)
    if found.exists():
        return os.path.relpath(found)
    return place if is_hub_file(place) else None
