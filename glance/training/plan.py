"""Decide a training: check everything that can be known before the trainer's long start."""

import re
from collections.abc import Mapping
from pathlib import Path

from glance.core.device import AUTO, Device, resolve_device
from glance.core.errors import Checks, Problem, SettingsError
from glance.core.phase import Phase
from glance.dataset.sample import Sample, safe_name
from glance.models.base import locate_base, resolve_family
from glance.models.checkpoint import is_checkpoint, read_checkpoint
from glance.models.families import Family, find_family
from glance.models.schedules import LevelsRequest, ResolvedLevels, Subject, resolve_levels
from glance.models.weights import weigh
from glance.runs.folder import RUNS, RunFolder
from glance.runs.settings import TrainSettings, resolve_preset, resolve_train_settings
from glance.schedule.lists import Schedule
from glance.training.pair import examine_pair, parse_crops, parse_resolutions
from glance.training.prepare import check_run
from glance.training.request import TrainingPlan, TrainingRequest, TrainRequest
from glance.training.simpletuner.config import parse_overrides, render_trainer_config


def plan_training(request: TrainRequest) -> TrainingPlan:
    """Check the request and decide the rest. Reads the pair, writes nothing.

    Raises InputError with all problems of pair, schedule, settings and options together,
    ModelNotFound, or RunError when the run folder holds something else.
    """
    run = RunFolder(request.run or RUNS / safe_name(request.image))
    family = resolve_family(request.family, request.model)
    checks = Checks()
    overrides = checks.make(lambda: parse_overrides(request.overrides))
    devices = checks.make(lambda: parse_devices(request.devices))
    settings = checks.make(lambda: _resolve_settings(request, family, overrides or {}))
    side = settings.resolution if settings else family.resolution
    # by the area of a square SimpleTuner trains
    levels = checks.make(lambda: resolve_levels_of(request, family, (side, side)))
    pair = checks.make(lambda: examine_pair(request, family, settings))
    if overrides is None or settings is None or levels is None or pair is None or devices is None:
        raise checks.refusal()
    settings = with_model(settings, request, run)
    if settings.sample_every is not None and settings.sample_prompt is None:
        settings = settings.model_copy(update={"sample_prompt": pair.sample.caption})
    return put_together(
        request,
        run=run,
        sample=pair.sample,
        settings=settings,
        levels=levels,
        devices=devices,
        reference=pair.sample.reference_size,
        warnings=pair.warnings,
    )


def put_together(
    request: TrainingRequest,
    *,
    run: RunFolder,
    sample: Sample | None,
    settings: TrainSettings,
    levels: ResolvedLevels,
    devices: tuple[int, ...],
    warnings: tuple[Problem, ...],
    reference: tuple[int, int] | None = None,
) -> TrainingPlan:
    """Return the plan of what was decided, with all that is to be said of it.

    Raises RunError when the run folder holds something else.
    """
    family = find_family(settings.family)
    plan = TrainingPlan(
        run=run,
        sample=sample,
        settings=settings,
        schedule=levels.schedule,
        phases=request.phases,
        restart=request.restart,
        trust=request.trust,
        stop_within=request.stop_within,
        launcher=request.launcher,
        devices=devices[: len(request.phases)],
        reference=reference,
        warnings=(
            *warnings,
            *_device_warnings(request, settings),
            *_model_warnings(settings, family),
            *_doubtful_family(request, family),
            *levels.doubts,
            *_warnings(settings, levels.schedule),
        ),
    )
    check_run(plan)
    return plan


def plan_settings(request: TrainRequest) -> TrainSettings:
    """Decide what does not depend on the pair; raises what plan_training raises of it."""
    family = resolve_family(request.family, request.model)
    settings = _resolve_settings(request, family, parse_overrides(request.overrides))
    return with_model(settings, request, RunFolder(request.run or RUNS))


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the accelerators of --devices, by number; raise SettingsError."""
    devices = [part.strip() for part in text.split(",")]
    if len(devices) > len(Phase) or not all(re.fullmatch(r"[0-9]{1,4}", one) for one in devices):
        raise SettingsError(
            f"--devices {text}: not the number of one accelerator, or of two",
            hint="--devices 1, or for both phases at once --devices 0,1",
        )
    return tuple(map(int, devices))


def with_model(settings: TrainSettings, request: TrainingRequest, run: RunFolder) -> TrainSettings:
    """Return the settings with the base model as the run names it, and its weights."""
    family = find_family(settings.family)
    model, transformer = locate_base(request.model, request.base, family=family, run=run.path)
    weights = weigh(model, transformer, family=family, run=run.path)
    return settings.model_copy(
        update={"model": model, "transformer": transformer, "weights": weights}
    )


def resolve_levels_of(
    request: TrainingRequest, family: Family, size: tuple[int, int]
) -> ResolvedLevels:
    """Return the schedule for pictures of `size`, width and height in pixels."""
    model = family.default_model if request.model is None else request.model
    return resolve_levels(
        LevelsRequest(
            name=request.schedule,
            slow_timesteps=request.slow_timesteps,
            fast_timesteps=request.fast_timesteps,
            slow_steps=request.slow_steps,
            fast_steps=request.fast_steps,
            teacher_steps=request.teacher_steps,
        ),
        Subject(
            family,
            request.base or family.default_model if is_checkpoint(model) else model,
            size,
        ),
    )


def _resolve_settings(
    request: TrainRequest, family: Family, overrides: Mapping[str, bool | int | float | str]
) -> TrainSettings:
    return resolve_train_settings(
        device=resolve_device(request.device),
        family=family.name,
        model=request.model,
        steps=request.steps,
        rank=request.rank,
        learning_rate=request.learning_rate,
        resolution=parse_resolutions(request, family),
        crops=parse_crops(request.crop),
        seed=request.seed,
        preset=resolve_preset(request.preset),
        sample_every=request.sample_every,
        sample_prompt=request.sample_prompt,
        overrides=overrides,
    )


def _device_warnings(request: TrainingRequest, settings: TrainSettings) -> list[Problem]:
    if request.device != AUTO or settings.device is not Device.CPU:
        return []
    return [
        Problem(
            "there is no accelerator: this trains on the CPU, in reasonable time only small models",
            "--device cpu says that it is meant",
        )
    ]


def _model_warnings(settings: TrainSettings, family: Family) -> list[Problem]:
    names = [Path(path).name for path in (settings.model, settings.transformer) if path]
    return [
        Problem(
            f"{name} is distilled to a few steps already: it has no 50 steps that a list could be "
            "taken from, and training on it as on a base model undoes its distillation",
            f"train on a base model such as {family.default_model}",
        )
        for name in names
        if any(fragment in name.lower() for fragment in family.distilled)
    ]


def _doubtful_family(request: TrainingRequest, family: Family) -> list[Problem]:
    if request.family is not None or request.model is None or not is_checkpoint(request.model):
        return []
    families = read_checkpoint(Path(request.model).expanduser()).families
    others = [other for other in families if other is not family]
    if not others:
        return []
    titles = " or ".join(other.title for other in others)
    return [
        Problem(
            f"{request.model} is taken for {family.title}; by its tensors it may also be {titles}",
            f"say which with --family, for example --family {others[0].name}",
        )
    ]


def _warnings(settings: TrainSettings, schedule: Schedule) -> list[Problem]:
    """Say aloud what an override replaces, and what a short run leaves out."""
    plain = settings.model_copy(update={"overrides": {}})
    ours = render_trainer_config(plain, Phase.SLOW, schedule.phase(Phase.SLOW))
    warnings = [
        Problem(f"--set {name}={value}: replaces glance's {ours[name]}")
        for name, value in settings.overrides.items()
        if name in ours and ours[name] != value
    ]
    if settings.sample_prompt is not None and settings.sample_every is None:
        warnings.append(
            Problem("--sample-prompt: nothing is painted while training", "add --sample-every 20")
        )
    for phase in Phase:
        count = len(schedule.phase(phase).timesteps)
        if settings.steps * settings.batch_size < count:
            warnings.append(
                Problem(
                    f"{settings.steps} steps cannot visit the {phase} phase's {count} timesteps"
                )
            )
    return warnings
