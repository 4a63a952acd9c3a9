"""Decide a training: everything that can be known before the trainer's long start is checked here.

What is trained of an image is decided here too: at which areas, in which shape. Nothing is written.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from glance.core.device import AUTO, Device, resolve_device
from glance.core.errors import Checks, Problem, SampleError, ScheduleError, SettingsError
from glance.core.phase import Phase
from glance.dataset.sample import Sample, Stage, examine_sample, fitting_area, name_safely
from glance.dataset.view import REFUSED, WARNED, Crop, View, fit_reference, fit_view
from glance.models.base import BaseModel
from glance.models.checkpoint import read_checkpoint
from glance.models.families import Family
from glance.runs.folder import RUNS, RunFolder
from glance.runs.settings import TrainSettings, resolve_preset, resolve_train_settings
from glance.schedule.lists import DEFAULT_SCHEDULE, ResolvedSchedule, Schedule
from glance.schedule.options import AUTO as AUTO_SCHEDULE
from glance.schedule.options import ScheduleOptions
from glance.training.request import Launcher, TrainingRequest, TrainRequest
from glance.training.simpletuner.config import (
    REFERENCE_FOLDER,
    OptionValue,
    build_command,
    parse_overrides,
    render_files,
    render_trainer_config,
    view_folder,
)

_STEP: Final = 64
_FAR: Final = 2
"""So many times a model's side, or so small a part of it, is far from what it can do."""
_CROPS: Final = (Crop.WHOLE, Crop.CENTER)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything decided: what will be written, and what will be run."""

    run: RunFolder
    base: BaseModel
    sample: Sample | None
    """The pair; None: what the base model teaches itself, recorded before the trainer starts."""
    settings: TrainSettings
    schedule: Schedule
    phases: tuple[Phase, ...]
    restart: bool
    trust: bool
    stop_within: float
    launcher: Launcher
    devices: tuple[int, ...]
    """The accelerators by number; two: both phases at once."""
    warnings: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    """Worth knowing of what was decided."""
    reference: tuple[int, int] | None = None
    """Width and height of the image that is edited; None: the family edits none."""

    @cached_property
    def views(self) -> tuple[View, ...]:
        """What is trained of the image, a data set each; none without a pair."""
        return () if self.sample is None else self.settings.views(self.sample.size)

    @property
    def told(self) -> tuple[str, ...]:
        """Say in a line each what is trained of the image, and what is sampled meanwhile."""
        views = tell_views(self.sample, self.views) if self.sample else ()
        return (*views, *self.notes, *self.told_samples)

    @property
    def told_samples(self) -> tuple[str, ...]:
        """Say in a line a phase what SimpleTuner samples while it trains, and where."""
        every = self.settings.sample_every
        return tuple(
            f"{phase}: every {every} steps SimpleTuner samples into {self.run.samples(phase)}"
            for phase in (() if every is None else self.phases)
        )

    @property
    def shown_reference(self) -> tuple[int, int] | None:
        """The size at which the reference is shown to the transformer."""
        if self.reference is None:
            return None
        step = self.base.family.training_multiple
        return fit_reference(self.reference, self.settings.resolution, step=step)

    @property
    def stage(self) -> Stage:
        """Where the pair goes."""
        shown, run = self.shown_reference, self.run
        views = {run.path / view_folder(view): view for view in self.views}
        reference = None if shown is None else (run.path / REFERENCE_FOLDER, shown)
        return Stage(run.data, run.references, views, reference)

    @property
    def files(self) -> dict[str, Any]:
        """Every config file: path within the run -> JSON content."""
        return render_files(
            self.settings, self.schedule, views=self.views, reference=self.shown_reference
        )

    @property
    def model_elsewhere(self) -> str | None:
        """Where the base model is as seen from the run; None: in it, or on the Hub."""
        folder, run = self.base.folder, self.run.path.resolve()
        if folder is None or folder.resolve().is_relative_to(run):
            return None
        return os.path.relpath(folder.resolve(), run)

    def trainer_config(self, phase: Phase) -> Mapping[str, Any]:
        """SimpleTuner's options for one phase, as its config.json holds them."""
        return render_trainer_config(self.settings, phase, self.schedule.phase(phase))

    def to_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        return {
            "run": str(self.run.path),
            "schedule": self.schedule.to_json(),
            "pictures": [view.to_json() for view in self.views],
            "files": self.files,
            "commands": [build_command(phase, self.launcher) for phase in self.phases],
        }


def plan_training(request: TrainRequest) -> TrainingPlan:
    """Check the request and decide the rest. Reads the pair, writes nothing.

    Raises SettingsError or ModelNotFound for a base model that cannot be had, InputError with all
    problems of pair, schedule, settings and options together, or RunError when the run folder
    holds something else.
    """
    run = RunFolder(request.run or RUNS / name_safely(request.image.stem))
    base = BaseModel.resolve(request.model, base=request.base, family=request.family)
    checks = Checks()
    overrides = checks.make(lambda: parse_overrides(request.overrides))
    devices = checks.make(lambda: parse_devices(request.gpu_ids))
    settings = checks.make(lambda: _resolve_settings(request, base, run, overrides or {}))
    side = settings.resolution if settings else base.family.resolution
    # by the area of a square SimpleTuner trains
    schedule = checks.make(lambda: base.resolve_schedule(request.schedule, (side, side)))
    pair = checks.make(lambda: _examine_pair(request, base, settings))
    if overrides is None or settings is None or schedule is None or pair is None or devices is None:
        raise checks.refusal()
    if settings.sample_every is not None and settings.sample_prompt is None:
        settings = settings.model_copy(update={"sample_prompt": pair.sample.caption})
    return put_together(
        request,
        run=run,
        base=base,
        sample=pair.sample,
        settings=settings,
        schedule=schedule,
        devices=devices,
        reference=pair.sample.reference_size,
        warnings=pair.warnings,
        notes=_schedule_notes(request.schedule, schedule.schedule, base, side),
    )


def put_together(
    request: TrainingRequest,
    *,
    run: RunFolder,
    base: BaseModel,
    sample: Sample | None,
    settings: TrainSettings,
    schedule: ResolvedSchedule,
    devices: tuple[int, ...],
    warnings: tuple[Problem, ...],
    notes: tuple[str, ...] = (),
    reference: tuple[int, int] | None = None,
) -> TrainingPlan:
    """Return the plan of what was decided, with all that is to be said of it.

    Raises RunError when the run folder holds something else.
    """
    plan = TrainingPlan(
        run=run,
        base=base,
        sample=sample,
        settings=settings,
        schedule=schedule.schedule,
        phases=request.phases,
        restart=request.restart,
        trust=request.trust,
        stop_within=request.stop_within,
        launcher=Launcher(request.launcher),
        devices=devices[: len(request.phases)],
        reference=reference,
        notes=notes,
        warnings=(
            *warnings,
            *_device_warnings(request, settings),
            *_model_warnings(request, base),
            *schedule.doubts,
            *_warnings(settings, schedule.schedule),
        ),
    )
    from glance.training.folder import check_run  # it reads LoRAs: `glance check` does not

    check_run(plan)
    return plan


def plan_settings(request: TrainRequest) -> tuple[BaseModel, TrainSettings]:
    """Decide what does not depend on the pair; raises what plan_training raises of it."""
    base = BaseModel.resolve(request.model, base=request.base, family=request.family)
    run = RunFolder(request.run or RUNS)
    return base, _resolve_settings(request, base, run, parse_overrides(request.overrides))


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the accelerators of --gpu-ids, by number; raise SettingsError."""
    devices = [part.strip() for part in text.split(",")]
    if len(devices) > len(Phase) or not all(re.fullmatch(r"[0-9]{1,4}", one) for one in devices):
        raise SettingsError(
            f"--gpu-ids {text}: not the number of one accelerator, or of two",
            hint="--gpu-ids 1, or for both phases at once --gpu-ids 0,1",
        )
    return tuple(map(int, devices))


def record_model(base: BaseModel, run: RunFolder) -> dict[str, Any]:
    """Return what the settings of a run say of its base model."""
    model, transformer = base.record(run.path)
    return {"model": model, "transformer": transformer, "weights": base.weights}


def _resolve_settings(
    request: TrainRequest, base: BaseModel, run: RunFolder, overrides: Mapping[str, OptionValue]
) -> TrainSettings:
    settings = resolve_train_settings(
        device=resolve_device(request.device),
        family=base.family.name,
        steps=request.steps,
        rank=request.rank,
        learning_rate=request.learning_rate,
        resolution=_parse_resolutions(request, base),
        crops=_parse_crops(request.crop),
        seed=request.seed,
        preset=resolve_preset(request.vram),
        sample_every=request.sample_every,
        sample_prompt=request.sample_prompt,
        overrides=overrides,
    )
    return settings.model_copy(update=record_model(base, run))


# --- what is trained of an image -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its caption, fit to train on."""

    sample: Sample
    views: tuple[View, ...]
    warnings: tuple[Problem, ...]


def check_pair(request: TrainRequest) -> Pair:
    """Return the pair, if it is fit to train on; nothing but it and the model is looked at."""
    base = BaseModel.resolve(request.model, family=request.family)
    checks = Checks()
    settings = checks.make(
        lambda: resolve_train_settings(
            device=Device.CPU,
            family=base.family.name,
            resolution=_parse_resolutions(request, base),
            crops=_parse_crops(request.crop),
        )
    )
    pair = checks.make(lambda: _examine_pair(request, base, settings))
    if settings is None or pair is None:
        raise checks.refusal()
    return pair


def tell_views(sample: Sample, views: tuple[View, ...]) -> tuple[str, ...]:
    """Say in a line each what is trained of an image."""
    return tuple(f"{sample.image.name} is trained at {view.describe()}" for view in views)


def _examine_pair(request: TrainRequest, base: BaseModel, settings: TrainSettings | None) -> Pair:
    """Return the pair, if it is fit to train on as the settings say; without them, at any size.

    Raises SampleError with all problems of image, caption and reference.
    """
    family = base.family
    found = examine_sample(
        request.image,
        caption=request.caption,
        resolution=settings.resolution if settings else None,
        text_tokens=family.text.tokens,
        reference=request.reference,
        edits=family.edits,
    )
    sample = found.require()
    if settings is None:
        return Pair(sample, (), found.warnings)
    views = settings.views(sample.size)
    lost = [one for one in views if one.crop is Crop.WHOLE and one.cut > WARNED]
    problems = [_tell_loss(one, sample, family, base.side or family.resolution) for one in lost]
    if any(one.cut > REFUSED for one in lost):
        raise SampleError(problems)
    return Pair(
        sample, views, (*found.warnings, *problems, *_size_warnings(request, settings, base))
    )


def _parse_resolutions(request: TrainRequest, base: BaseModel) -> list[int]:
    """Return the areas asked for; by default the model's, or what a smaller image has."""
    if request.resolution is None:
        return [fitting_area(request.image, base.side or base.family.resolution)]
    try:
        return [int(part) for part in str(request.resolution).split(",")]
    except ValueError:
        raise SettingsError(
            f"--resolution {request.resolution}: not a number, or several",
            hint="--resolution 1024, or to train at several at once --resolution 1024,512",
        ) from None


def _parse_crops(text: str) -> list[Crop]:
    parts = [part.strip() for part in text.split(",")]
    if not set(parts) <= set(_CROPS):
        raise SettingsError(
            f"--crop {text}: not {', '.join(_CROPS)}, or several of them",
            hint="--crop whole, or to show a square of the picture as well --crop whole,center",
        )
    return [Crop(part) for part in parts]


def _tell_loss(view: View, sample: Sample, family: Family, own: int) -> Problem:
    """Say that much of the image is cut off, and at which of the model's areas less is."""
    most = min(math.isqrt(math.prod(sample.size)), own * _FAR)
    sides = {
        side: fit_view(sample.size, side, step=family.training_multiple, most=family.largest_side)
        for side in range(max(_STEP, own // _FAR), most + 1, _STEP)
    }
    asked = math.sqrt(math.prod(view.size))
    better = [side for side, one in sides.items() if one.cut <= WARNED]
    remedy = "cut it to what is to be learnt, or show a square of it: --crop center"
    if better:
        best = min(better, key=lambda side: abs(side - asked))
        remedy = f"--resolution {best} trains it at {sides[best].describe()}; or {remedy}"
    return Problem(
        f"image {sample.image} loses {view.loss} {view.edges}: it is trained at {view.width}x"
        f"{view.height}",
        remedy,
    )


def _size_warnings(
    request: TrainRequest, settings: TrainSettings, base: BaseModel
) -> Iterator[Problem]:
    own, family = base.side, base.family
    what = base.name if own not in (None, family.resolution) else family.title
    if request.resolution is None:
        usual = own or family.resolution
        if settings.resolution != usual:
            yield Problem(
                f"{request.image} has not the {usual} x {usual} pixels that {what} is made for: it "
                f"is trained at resolution {settings.resolution}",
                "use a larger picture if you have one; --resolution says that it is meant",
            )
        return
    for side in (settings.resolution, *settings.also_resolutions):
        if own is not None and not own / _FAR <= side <= own * _FAR:
            yield Problem(
                f"--resolution {side}: {what} is made for {own} x {own} pixels, and so far from it "
                "it generates little that is sound",
                f"--resolution {own}, or not below {max(_STEP, own // _FAR)} and above "
                f"{own * _FAR}",
            )


# --- what is to be said of it --------------------------------------------------------------------


def _schedule_notes(
    options: ScheduleOptions, schedule: Schedule, base: BaseModel, side: int
) -> tuple[str, ...]:
    """Say that nobody has chosen the guide's list, and which the model's own would be."""
    if options not in (ScheduleOptions(), ScheduleOptions(name=DEFAULT_SCHEDULE)):
        return ()
    try:
        own = base.resolve_schedule(ScheduleOptions(name=AUTO_SCHEDULE), (side, side)).schedule
    except ScheduleError:
        return ()
    lists = [own.phase(phase).timesteps for phase in Phase]
    if lists == [schedule.phase(phase).timesteps for phase in Phase]:
        return ()
    shown = " and ".join(",".join(f"{value:.0f}" for value in one) for one in lists)
    return (
        f"the timesteps are the guide's, made for Qwen-Image; of {base.family.title} at {side}x"
        f"{side} --schedule {AUTO_SCHEDULE} takes {shown}",
    )


def _device_warnings(request: TrainingRequest, settings: TrainSettings) -> Iterator[Problem]:
    if request.device == AUTO and settings.device is Device.CPU:
        yield Problem(
            "there is no accelerator: this trains on the CPU, in reasonable time only small models",
            "--device cpu says that it is meant",
        )


def _model_warnings(request: TrainingRequest, base: BaseModel) -> Iterator[Problem]:
    family, model = base.family, request.model
    whole = Path(base.location).absolute().name
    for name in (whole, *([] if base.transformer is None else [base.transformer.name])):
        if any(fragment in name.lower() for fragment in family.distilled):
            yield Problem(
                f"{name} is distilled to a few steps already: it has no 50 steps that a list could "
                "be taken from, and training on it as on a base model undoes its distillation",
                f"train on a base model such as {family.default_model}",
            )
    if request.family is not None or base.transformer is None:
        return
    families = read_checkpoint(base.transformer).families
    if others := [other for other in families if other is not family]:
        titles = " or ".join(other.title for other in others)
        yield Problem(
            f"{model} is taken for {family.title}; by its tensors it may also be {titles}",
            f"say which with --family, for example --family {others[0].name}",
        )


def _warnings(settings: TrainSettings, schedule: Schedule) -> Iterator[Problem]:
    """Say what an override replaces, and what a short run leaves out."""
    plain = settings.model_copy(update={"overrides": {}})
    ours = render_trainer_config(plain, Phase.SLOW, schedule.phase(Phase.SLOW))
    for name, value in settings.overrides.items():
        if name in ours and ours[name] != value:
            yield Problem(f"--set {name}={value}: replaces glance's {ours[name]}")
    if settings.sample_prompt is not None and settings.sample_every is None:
        yield Problem("--sample-prompt: nothing is sampled while training", "add --sample-every 20")
    for phase in Phase:
        count = len(schedule.phase(phase).timesteps)
        if settings.steps * settings.batch_size < count:
            yield Problem(
                f"{settings.steps} steps cannot visit the {phase} phase's {count} timesteps"
            )
