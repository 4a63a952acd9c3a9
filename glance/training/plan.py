"""Decide a training: everything that can be known before the trainer's long start is checked here.

What is trained of an image is decided here too: at which areas, in which shape. Nothing is written.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from glance.core.device import AUTO, Device, resolve_device
from glance.core.errors import (
    Checks,
    Problem,
    SampleError,
    ScheduleError,
    SettingsError,
    UsageError,
)
from glance.core.files import is_folder
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.checkpoint import read_checkpoint
from glance.models.families import Family
from glance.runs.folder import RUNS, RunFolder
from glance.runs.manifest import PreviewRecord
from glance.runs.sample import (
    Sample,
    Stage,
    examine_sample,
    find_images,
    fitting_area,
    name_safely,
)
from glance.runs.settings import TrainSettings, resolve_preset, resolve_train_settings
from glance.runs.view import REFUSED, WARNED, Crop, View, fit_reference, fit_view
from glance.sampling.prompts import find_faults, judging_prompts
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
_OTHERS: Final = 32
"""Prompts of the package that one of a preview is chosen from."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything decided: what will be written, and what will be run."""

    run: RunFolder
    base: BaseModel
    samples: tuple[Sample, ...]
    """The pairs; none: what the base model teaches itself, recorded before the trainer starts."""
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
    previews: PreviewRecord | None = None

    @cached_property
    def views(self) -> tuple[View, ...]:
        """What is trained of the images, one after the other; none without a pair."""
        return tuple(view for one in self.samples for view in self.settings.views(one.size))

    @property
    def told(self) -> tuple[str, ...]:
        """Say in a line each what is trained of the images."""
        views = [tell_views(one, self.settings.views(one.size)) for one in self.samples]
        previews = (f"previews: {line}" for line in self.told_previews)
        return (*chain.from_iterable(views), *self.notes, *previews)

    @property
    def preview_prompts(self) -> tuple[str, ...]:
        """What previews show: what was asked for, else one that is learnt, and one that is not."""
        if self.previews is None or self.previews.prompts:
            return () if self.previews is None else self.previews.prompts
        teacher = self.settings.teacher
        learnt = [one.caption for one in self.samples] if teacher is None else [*teacher.prompts]
        ours = judging_prompts(_OTHERS, world=self.base.is_packaged)
        return (learnt[0], next((one for one in ours if one not in learnt), learnt[-1]))

    @property
    def told_previews(self) -> tuple[str, ...]:
        """Say in a line when the pair so far is sampled, and where to."""
        if self.previews is None:
            return ()
        when = f"every {self.previews.every} steps of the {self.phases[-1]} phase and at the end"
        return (f"the pair so far, {when}, in {self.run.previews}",)

    @property
    def shown_reference(self) -> tuple[int, int] | None:
        """The size at which the reference is shown to the transformer."""
        if self.reference is None:
            return None
        step = self.base.family.training_multiple
        return fit_reference(self.reference, self.settings.resolution, step=step)

    def stage(self, sample: Sample) -> Stage:
        """Return where a pair goes."""
        shown, run = self.shown_reference, self.run
        views = {run.path / view_folder(view): view for view in self.settings.views(sample.size)}
        reference = None if shown is None else (run.path / REFERENCE_FOLDER, shown)
        return Stage(run.data, run.references, views, reference)

    @property
    def files(self) -> dict[str, Any]:
        """Every config file: path within the run -> JSON content."""
        return render_files(
            self.settings,
            self.schedule,
            views=self.views,
            reference=self.shown_reference,
            preview_every=self._preview_every,
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
        schedule = self.schedule.phase(phase)
        every = self._preview_every
        return render_trainer_config(self.settings, phase, schedule, preview_every=every)

    @property
    def _preview_every(self) -> int | None:
        return None if self.previews is None else self.previews.every

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
    """Check the request and decide the rest. Reads the pairs, writes nothing.

    Raises UsageError where neither image nor run is given, SettingsError or ModelNotFound for a
    base model that cannot be had, InputError with all problems of pairs, schedule, settings and
    options together, or RunError when the run folder holds something else.
    """
    if request.resume is not None:
        from glance.training.resume import resume

        request = resume(request)
    elif not request.image:
        raise UsageError(
            "missing option '--image'",
            hint="--image x.png; its caption lies beside it as x.txt, or is --caption",
        )
    checks = Checks()
    images = checks.make(lambda: find_images(request.image))
    run = RunFolder(request.run or RUNS / _name_run(request.image))
    base = BaseModel.resolve(request.model, base=request.base, family=request.family)
    overrides = checks.make(lambda: parse_overrides(request.overrides))
    devices = checks.make(lambda: parse_gpu_ids(request.gpu_ids))
    settings = checks.make(
        lambda: _resolve_settings(request, base, images or [], run, overrides or {})
    )
    side = settings.resolution if settings else base.family.resolution
    # by the area of a square SimpleTuner trains
    schedule = checks.make(lambda: base.resolve_schedule(request.schedule, (side, side)))
    pairs = checks.make(lambda: _examine_pairs(request, images or [], base, settings))
    previews = checks.make(lambda: plan_previews(request))
    checks.require()
    assert settings is not None
    assert schedule is not None
    assert devices is not None
    assert pairs
    samples = tuple(pair.sample for pair in pairs)
    return put_together(
        request,
        run=run,
        base=base,
        samples=samples,
        settings=settings,
        schedule=schedule,
        devices=devices,
        reference=samples[0].reference_size,
        previews=previews,
        warnings=tuple(dict.fromkeys(warning for pair in pairs for warning in pair.warnings)),
        notes=_schedule_notes(request.schedule, schedule.schedule, base, side),
    )


def put_together(
    request: TrainingRequest,
    *,
    run: RunFolder,
    base: BaseModel,
    samples: tuple[Sample, ...],
    settings: TrainSettings,
    schedule: ResolvedSchedule,
    devices: tuple[int, ...],
    warnings: tuple[Problem, ...],
    notes: tuple[str, ...] = (),
    reference: tuple[int, int] | None = None,
    previews: PreviewRecord | None = None,
) -> TrainingPlan:
    """Return the plan of what was decided, with all that is to be said of it.

    Raises RunError when the run folder holds something else.
    """
    plan = TrainingPlan(
        run=run,
        base=base,
        samples=samples,
        settings=settings,
        schedule=schedule.schedule,
        phases=request.phases,
        restart=request.restart,
        trust=request.trust,
        stop_within=request.stop_within,
        launcher=Launcher(request.launcher),
        devices=devices[: len(request.phases)],
        reference=reference,
        previews=previews,
        notes=notes,
        warnings=(
            *warnings,
            *_device_warnings(request, settings),
            *_model_warnings(request, base),
            *schedule.doubts,
            *_warnings(settings, schedule.schedule),
        ),
    )
    from glance.training.folder import check_run, choose_folder  # `glance check` needs no LoRAs

    if request.run is None:
        plan = choose_folder(plan)
    return replace(plan, notes=(*plan.notes, *check_run(plan)))


def plan_settings(request: TrainRequest) -> tuple[BaseModel, TrainSettings]:
    """Decide what does not depend on the pair; raises what plan_training raises of it."""
    base = BaseModel.resolve(request.model, base=request.base, family=request.family)
    run = RunFolder(request.run or RUNS)
    overrides = parse_overrides(request.overrides)
    return base, _resolve_settings(request, base, request.image, run, overrides)


def plan_previews(request: TrainingRequest) -> PreviewRecord | None:
    """Return what is sampled while it is trained, None: nothing; raise SettingsError."""
    every, problems = request.preview_every, list[Problem]()
    if every is None and request.preview_prompts:
        message = "--preview-prompt: nothing is sampled while training"
        problems.append(Problem(message, "add --preview-every 20"))
    if every is not None and every < 1:
        problems.append(Problem(f"--preview-every {every}: it must be at least 1"))
    for text in request.preview_prompts:
        problems += (Problem(f"--preview-{one.message}", one.hint) for one in find_faults(text))
    if problems:
        raise SettingsError(problems)
    return None if every is None else PreviewRecord(every=every, prompts=request.preview_prompts)


def parse_gpu_ids(text: str) -> tuple[int, ...]:
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


def _name_run(given: Sequence[Path]) -> str:
    """Return what a run of these images is called: after the first, or after their folder."""
    first = given[0].absolute() if given else Path("pair")
    return name_safely(first.name if is_folder(first) else first.stem)


def _resolve_settings(
    request: TrainRequest,
    base: BaseModel,
    images: Sequence[Path],
    run: RunFolder,
    overrides: Mapping[str, OptionValue],
) -> TrainSettings:
    settings = resolve_train_settings(
        device=resolve_device(request.device),
        family=base.family.name,
        steps=request.steps,
        rank=request.rank,
        learning_rate=request.learning_rate,
        resolution=_parse_resolutions(request, images, base),
        crops=_parse_crops(request.crop),
        seed=request.seed,
        preset=resolve_preset(request.vram),
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


def check_pairs(request: TrainRequest) -> tuple[Pair, ...]:
    """Return the pairs, if they are fit to train on; only they and the model are looked at."""
    base, checks = BaseModel.resolve(request.model, family=request.family), Checks()
    images = find_images(request.image)
    settings = checks.make(
        lambda: resolve_train_settings(
            device=Device.CPU,
            family=base.family.name,
            resolution=_parse_resolutions(request, images, base),
            crops=_parse_crops(request.crop),
        )
    )
    pairs = checks.make(lambda: _examine_pairs(request, images, base, settings))
    checks.require()
    assert pairs is not None
    return pairs


def tell_views(sample: Sample, views: tuple[View, ...]) -> tuple[str, ...]:
    """Say in a line each what is trained of an image."""
    return tuple(f"{sample.image.name} is trained at {view.describe()}" for view in views)


def _examine_pairs(
    request: TrainRequest, images: Sequence[Path], base: BaseModel, settings: TrainSettings | None
) -> tuple[Pair, ...]:
    """Return the pairs, if they are fit to train on as the settings say; without, at any size.

    Raises InputError with all problems of images, captions and reference.
    """
    if len(images) > 1 and (request.caption is not None or base.family.edits):
        raise _refuse_several(request, base.family, images)
    checks = Checks()
    made = [checks.make(partial(_examine_pair, request, one, base, settings)) for one in images]
    checks.require()
    pairs = list[Pair]()
    for pair in filter(None, made):
        sample = pair.sample
        same = next((one.sample.image for one in pairs if one.sample.sha256 == sample.sha256), None)
        if same is not None:
            message = f"{sample.image} and {same} are the same image with the same caption"
            checks.refuse(SampleError(message, hint=f"leave out {sample.image}"))
        names = {one.sample.name.casefold() for one in pairs}
        named = (replace(sample, number=number) for number in count(1))
        own = next(one for one in named if one.name.casefold() not in names)
        pairs.append(replace(pair, sample=own))
    checks.require()
    return tuple(pairs)


def _refuse_several(request: TrainRequest, family: Family, images: Sequence[Path]) -> SampleError:
    if request.caption is None:
        message = f"{family.title} edits: it is trained on one image and its --source-image"
        return SampleError(f"{message}, not on {len(images)}", hint="give one --image")
    return SampleError(
        f"--caption is of one image, and {len(images)} are given",
        hint=f"write each one's caption beside it, as {images[0].with_suffix('.txt')}",
    )


def _examine_pair(
    request: TrainRequest, image: Path, base: BaseModel, settings: TrainSettings | None
) -> Pair:
    family = base.family
    found = examine_sample(
        image,
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
        sample, views, (*found.warnings, *problems, *_size_warnings(request, image, settings, base))
    )


def _parse_resolutions(request: TrainRequest, images: Sequence[Path], base: BaseModel) -> list[int]:
    """Return the areas asked for; by default the model's, or what the smallest image has."""
    if request.resolution is None:
        usual = base.side or base.family.resolution
        return [min((fitting_area(one, usual) for one in images), default=usual)]
    try:
        return [int(part) for part in str(request.resolution).split(",")]
    except ValueError:
        raise SettingsError(
            f"--resolution {request.resolution}: not a number, or several",
            hint="--resolution 1024, or to train at several at once --resolution 1024,512",
        ) from None


def _parse_crops(text: str | None) -> list[Crop]:
    if text is None:
        return [Crop.WHOLE]
    parts = [part.strip() for part in text.split(",")]
    if not set(parts) <= set(_CROPS):
        raise SettingsError(
            f"--crop {text}: not {', '.join(_CROPS)}, or several of them",
            hint="--crop whole, or to show a square of the image as well --crop whole,center",
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
    request: TrainRequest, image: Path, settings: TrainSettings, base: BaseModel
) -> Iterator[Problem]:
    own, family = base.side, base.family
    what = base.name if own not in (None, family.resolution) else family.title
    if request.resolution is None:
        usual = own or family.resolution
        if settings.resolution == fitting_area(image, usual) != usual:
            yield Problem(
                f"{image} has not the {usual} x {usual} pixels that {what} is made for: it "
                f"is trained at resolution {settings.resolution}",
                "use a larger image if you have one; or give --resolution to train at that size",
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
            "--device cpu to use the CPU without this warning",
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
    for phase in Phase:
        count = len(schedule.phase(phase).timesteps)
        if settings.steps * settings.batch_size < count:
            yield Problem(
                f"{settings.steps} steps cannot visit the {phase} phase's {count} timesteps"
            )
