"""Decide a distillation: the base model teaches two LoRAs to take its own many steps in few.

What the base passes on its way from noise to picture is recorded; each LoRA learns that one Euler
step from a state x_j of its list lands on the next, x_j+1: the velocity (x_j - x_j+1) / (s_j -
s_j+1). No picture is needed, only prompts. Everything that can be known before the base model is
loaded is checked here.

The objective is DiffSynth-Studio's `trajectory_imitation`; close to it are progressive distillation
(arXiv 2202.00512), PeRFlow (2405.07510), TraFlow (2502.16972) and SCFM (2510.17858).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from glance.core.device import Device, resolve_device
from glance.core.errors import Checks, InputError, LoraError, Problem, SettingsError, UsageError
from glance.core.files import record_place
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import Family
from glance.models.lora.examine import LoraFacts, examine_lora
from glance.models.lora.file import hash_file
from glance.runs.caption import estimate_tokens
from glance.runs.folder import RUNS, RunFolder
from glance.runs.locate import find_local, locate_lora
from glance.runs.sample import measure_picture, name_safely
from glance.runs.settings import Layers, Teacher, TrainSettings, resolve_preset
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.prompts import find_faults, judging_prompts, read_prompts, teaching_prompts
from glance.sampling.request import ExtraLora, InferRequest
from glance.sampling.settings import SampleSettings, fit_size
from glance.schedule.lists import ResolvedSchedule
from glance.schedule.options import AUTO, OWN, ScheduleOptions
from glance.schedule.shift import TEACHER_STEPS, teacher_sigmas
from glance.training.plan import (
    TrainingPlan,
    parse_gpu_ids,
    plan_previews,
    put_together,
    record_model,
)
from glance.training.request import DistillRequest
from glance.training.simpletuner.config import OptionValue, parse_overrides

PROMPTS: Final = 128
"""Of the list that ships with the package, where none are given."""
LEARNING_RATE: Final = 2e-4
"""Others train LoRAs of few steps for FLUX.1 and Qwen-Image at 2e-5 to 5e-4 (docs/distill.md)."""
SMALL_RATE: Final = 1e-3
"""Measured on the package's small model (docs/evidence.md); a narrow model bears more."""
SMALL: Final = 0.1
"""Billions of parameters of a transformer, below which it is small."""
MOST_PATHS: Final = 100_000
"""Of one training: a plan holds each of them."""
USUAL: Final[Mapping[str, int]] = MappingProxyType(
    {"steps": 400, "batch_size": 4, "rank": 16, "noises": 1, "seed": 1}
)
"""Where nobody says another: docs/evidence.md."""
_FIRST_NOISE: Final = 1_000_000  # far from the seeds that people generate and judge with
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})")
_SIDE_STEP: Final = 64  # what SimpleTuner cuts pictures to
_SHOWN: Final = 3  # of many prompts with the same problem
_FEW: Final = 16  # prompts: docs/distill.md
_JUDGED: Final = 16  # prompts that the pair is judged on, each from two noises
_PIXELS_AT_ONCE: Final[Mapping[Device, int]] = MappingProxyType(
    {Device.CPU: 16 * 64 * 64, Device.MPS: 1024 * 1024, Device.CUDA: 4 * 1024 * 1024}
)
"""Recorded at a time; what memory does not suffice for is halved."""


@dataclass(frozen=True, slots=True)
class PlannedPath:
    """One path of the base model, and the name of its files."""

    name: str
    settings: SampleSettings
    folder: str
    """Of its image, within the run."""

    def recording(self, run: RunFolder) -> Path:
        """Return where its states lie."""
        return run.recordings / f"{self.name}.safetensors"

    def picture(self, run: RunFolder) -> Path:
        """Return where the image at its end lies, its caption beside it."""
        return run.path / self.folder / f"{self.name}.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationPlan:
    """Everything decided: what is recorded, and the training on it."""

    training: TrainingPlan
    teacher: Teacher
    generation: GenerationPlan
    """The base model alone, as it is recorded."""
    paths: tuple[PlannedPath, ...]
    sigmas: Mapping[tuple[int, int], tuple[float, ...]]
    """The base model's own many, for each size."""
    reference: Path | None
    keep_recording: bool
    compares: bool
    """Whether the pair is judged at the end."""
    judging: tuple[str, ...]
    """Prompts that are not learnt from."""

    @property
    def run(self) -> RunFolder:
        """Where everything goes."""
        return self.training.run

    @property
    def family(self) -> Family:
        """The base model's."""
        return self.training.base.family

    @property
    def kept_sigmas(self) -> tuple[float, ...]:
        """Where states are kept: at each step of both phases, and at the end."""
        return (*self.training.schedule.sigmas, 0.0)

    @property
    def forwards(self) -> int:
        """How many forward passes of the transformer the recording takes, an image each."""
        is_guided = self.teacher.guidance > self.family.guidance.off
        passes = 2 if is_guided and not self.family.embeds_guidance else 1
        return len(self.paths) * self.teacher.steps * passes

    @property
    def recorded_bytes(self) -> int:
        """How much room the states take until both phases are done."""
        pixels = sum(one.settings.width * one.settings.height for one in self.paths)
        return round(pixels * self.family.latent_numbers_a_pixel * 4 * len(self.kept_sigmas))

    def to_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        return {
            **self.training.to_json(),
            "recording": {
                "prompts": len(self.teacher.prompts),
                "noises": self.teacher.noises,
                "sizes": [f"{width}x{height}" for width, height in self.teacher.sizes],
                "paths": len(self.paths),
                "forwards": self.forwards,
                "disk_bytes": self.recorded_bytes,
                "teacher": {
                    "steps": self.teacher.steps,
                    "guidance": self.teacher.guidance,
                    "loras": list(self.teacher.loras),
                },
            },
            "guidance": {phase.value: self.teacher.guidance_of(phase) for phase in Phase},
        }


def usual_rate(base: BaseModel) -> float:
    """Return the learning rate where nobody says another."""
    return SMALL_RATE if base.weights.transformer < SMALL else LEARNING_RATE


def plan_distillation(request: DistillRequest) -> DistillationPlan:
    """Check the request and decide the rest. Loads no model, writes nothing.

    Raises InputError with all problems of prompts, sizes, LoRAs, schedule, settings and options
    together, ModelNotFound, ScheduleError where the model's own schedule is not known, or RunError
    when the run folder holds something else.
    """
    if request.resume is not None:
        from glance.training.resume import resume

        request = resume(request)
    base = BaseModel.resolve(request.model, base=request.base, family=request.family)
    family, is_small = base.family, base.is_packaged
    side = _SIDE_STEP if is_small else family.resolution
    name = (base.transformer or Path(base.location).absolute()).name.removesuffix(".safetensors")
    run = RunFolder(request.run or RUNS / f"{name_safely(name)}-distilled")
    checks = Checks()
    overrides = checks.make(lambda: parse_overrides(request.overrides))
    devices = checks.make(lambda: parse_gpu_ids(request.gpu_ids))
    given = checks.make(lambda: _choose_prompts(request, is_small=is_small))
    shape = checks.make(lambda: _find_shape(request, family))
    usual = fit_size(shape or (1, 1), area=side * side, step=_SIDE_STEP)
    sizes = checks.make(lambda: _parse_sizes(request, family, usual=usual))
    loras = checks.make(lambda: _examine_loras(request.teacher_loras))
    checks.make(lambda: _require_lasting(request, run))
    previews = checks.make(lambda: plan_previews(request))
    # something sound in place of what was refused, so that the rest is checked as well
    sound = sizes or ((side, side),)
    teacher = checks.make(
        lambda: _resolve_teacher(request, family, given or ("-",), sound, loras or ())
    )
    settings = checks.make(lambda: _resolve_settings(request, base, run, sound, overrides or {}))
    schedule = checks.make(lambda: _resolve_schedule(request.schedule, base, sound[0]))
    if overrides is None or devices is None or given is None or shape is None or sizes is None:
        raise checks.refusal()
    if loras is None or teacher is None or settings is None or schedule is None:
        raise checks.refusal()
    checks.require()
    places = {
        one.sha256: _record_place(str(name), one.path, run)
        for name, one in zip(request.teacher_loras, loras, strict=True)
    }
    if request.reference is not None:
        sha256 = hash_file(request.reference)
        places[sha256] = record_place(request.reference, run.path)
        teacher = teacher.model_copy(update={"reference": sha256})
    teacher = teacher.model_copy(update={"places": places})
    settings = settings.model_copy(update={"teacher": teacher})
    generation = _plan_recording(request, family, teacher, loras)
    # a reference is shown as large as in training, and as `glance infer` will show it
    common = generation.settings.model_copy(update={"reference_side": settings.resolution})
    training = put_together(
        request,
        run=run,
        samples=(),
        base=base,
        settings=settings,
        schedule=schedule,
        devices=devices,
        reference=None if request.reference is None else shape,
        previews=previews,
        warnings=(
            *_prompt_warnings(given, family),
            *_lora_warnings(loras, family),
            *_length_warnings(settings, teacher),
        ),
    )
    shift = base.find_shift().shift
    return DistillationPlan(
        training=training,
        teacher=teacher,
        generation=generation,
        paths=tuple(_lay_out_paths(teacher, common)),
        sigmas={
            size: teacher_sigmas(shift, *size, steps=teacher.steps, spacing=family.spacing)
            for size in teacher.sizes
        },
        reference=request.reference,
        keep_recording=request.keep_recording,
        compares=request.compares,
        judging=_choose_judging(request, teacher, is_small=is_small),
    )


def _record_place(name: str, path: Path, run: RunFolder) -> str:
    """Return where a LoRA is found again: relative to the run, or as it is called on the Hub."""
    return name if find_local(name) is None else record_place(path, run.path)


def _lay_out_paths(teacher: Teacher, settings: SampleSettings) -> Iterator[PlannedPath]:
    """Yield every path, size by size: neighbours can share a batch. Each has a noise of its own.

    `settings` are those that all have in common.
    """
    several = len(teacher.sizes) > 1
    seed = _FIRST_NOISE
    for width, height in teacher.sizes:
        size = f"{width}x{height}"
        for number, prompt in enumerate(teacher.prompts, 1):
            for noise in range(1, teacher.noises + 1):
                seed += 1
                own = {"prompt": prompt, "seed": seed, "width": width, "height": height}
                yield PlannedPath(
                    name=f"{number:04d}-{noise}" + (f"-{size}" if several else ""),
                    settings=settings.model_copy(update=own),
                    folder=f"data/{size}" if several else "data",
                )


def _choose_prompts(request: DistillRequest, *, is_small: bool) -> tuple[str, ...]:
    """Return the user's prompts, or those of the package."""
    if request.prompts and request.prompt_file is not None:
        raise UsageError("--prompt and --prompt-file exclude each other", hint="drop one")
    if request.prompt_file is not None:
        return _read_prompts(request.prompt_file)
    if not request.prompts:
        return teaching_prompts(PROMPTS, world=is_small)
    problems = [
        Problem(
            f"--prompt, number {number}{fault.message.removeprefix('prompt')}",
            "describe an image in it",
        )
        for number, text in enumerate(request.prompts, 1)
        for fault in find_faults(text)
    ]
    if problems:
        raise InputError(problems)
    return tuple(text.strip() for text in request.prompts)


def _read_prompts(path: Path) -> tuple[str, ...]:
    lines = read_prompts(path)
    problems = [
        Problem(
            f"{path}, prompt {number}: it says {', '.join(own)} as well, and all prompts are "
            "learnt from alike",
            "leave the prompt alone in it; sizes, guidance and noises are flags",
        )
        for number, line in enumerate(lines, 1)
        if (own := sorted(line.model_dump(exclude_none=True, exclude={"prompt"})))
    ]
    if problems:
        raise InputError(problems)
    return tuple(line.prompt.strip() for line in lines)


def _choose_judging(
    request: DistillRequest, teacher: Teacher, *, is_small: bool
) -> tuple[str, ...]:
    """Return those of the package's prompts that the pair is judged on: it learns none of them."""
    ours = judging_prompts(2 * _JUDGED, world=is_small)
    strange = [text for text in ours if text not in teacher.prompts]
    if request.compares and not strange:
        raise InputError(
            f"the prompts hold all {len(ours)} that glance would judge the pair on",
            hint="leave some of them out, or give --no-compare",
        )
    return tuple(strange[:_JUDGED])


def _prompt_warnings(given: tuple[str, ...], family: Family) -> Iterator[Problem]:
    prompts = tuple(dict.fromkeys(given))
    if len(prompts) < len(given):
        yield Problem(
            f"{len(given) - len(prompts)} of {len(given)} prompts are there already: "
            f"{len(prompts)} are learnt from",
            "--noises 4 gives more images of each",
        )
    if len(prompts) < _FEW:
        yield Problem(
            f"{len(prompts)} prompts teach what those images have, and may make others worse",
            f"give {_FEW} or more that differ, or none: the package has some",
        )
    tokens = family.text.tokens
    long = [text for text in prompts if estimate_tokens(text) > tokens]
    for text in long[:_SHOWN]:
        yield Problem(
            f"the prompt {text[:40]!r} ... has about {estimate_tokens(text):.0f} tokens, but "
            f"{family.title} reads {tokens}: what lies beyond is cut",
            "shorten it, or put what matters first",
        )
    if len(long) > _SHOWN:
        yield Problem(f"{len(long) - _SHOWN} prompts more are too long for {family.title}")


def _lora_warnings(loras: Sequence[LoraFacts], family: Family) -> Iterator[Problem]:
    for one in loras:
        if not one.scale_is_known:
            yield Problem(
                f"{one.path} records no alpha: the base model is sampled with it at scale 1",
                "if it was trained with another alpha than its rank, fold that into the file",
            )
        if not one.strength.is_own:
            yield Problem(f"{one.path} is taken at scale {one.strength.describe()}")
        if one.family not in (None, family.name):
            yield Problem(f"{one.path} was trained for {one.family}, the model is {family.name}")


def _length_warnings(settings: TrainSettings, teacher: Teacher) -> Iterator[Problem]:
    seen = settings.steps * settings.batch_size
    if seen < teacher.paths:
        yield Problem(
            f"{teacher.paths:,} paths are recorded, of which {settings.steps:,} steps of batch "
            f"{settings.batch_size} see {seen:,}",
            f"--steps {math.ceil(teacher.paths / settings.batch_size)} sees each of them once; "
            "or give fewer prompts or noises",
        )


def _find_shape(request: DistillRequest, family: Family) -> tuple[int, int]:
    """Return width and height of the reference, else those of a square."""
    reference = request.reference
    if reference is not None and not family.edits:
        raise SettingsError(
            f"--source-image: {family.title} generates from text alone", hint="drop --source-image"
        )
    if reference is None and family.edits:
        raise SettingsError(
            f"{family.title} edits an image, and there is no --source-image",
            hint="say which one with --source-image x.png",
        )
    return (1, 1) if reference is None else measure_picture(reference)


def _parse_sizes(
    request: DistillRequest, family: Family, *, usual: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return width and height of each size asked for, else the usual one."""
    if not request.sizes:
        return (usual,)
    problems, sizes = [], []
    for text in request.sizes:
        found = _SIZE.fullmatch(text.strip().lower())
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(64 <= one <= 8192 and one % _SIDE_STEP == 0 for one in size):
            problems.append(
                Problem(
                    f"--size {text[:40]}: not width x height in multiples of {_SIDE_STEP}, to "
                    "which SimpleTuner cuts images, from 64 to 8192",
                    "--size 1024x1024, or --size 832x1216",
                )
            )
        sizes.append(size)
    if family.edits and len(set(sizes)) > 1:
        problems.append(
            Problem(
                f"{family.title} is trained at one size: its images go with a reference",
                "give one --size",
            )
        )
    if problems:
        raise InputError(problems)
    return tuple(dict.fromkeys(sizes))


def _examine_loras(names: Sequence[str | Path]) -> tuple[LoraFacts, ...]:
    """Return what the teacher's LoRAs are, as they are given; raise InputError for all problems."""
    checks = Checks()
    made = [checks.make(partial(_examine_lora, str(name))) for name in names]
    found = [one for one in made if one is not None]
    given = Counter(one.path.name for one in found) if len(found) == len(names) else Counter()
    for name, count in (given or Counter(Path(name).name for name in names)).items():
        if count > 1:
            checks.refuse(
                LoraError(
                    f"--teacher-lora: {count} files are called {name}",
                    hint="drop all but one; if they differ, rename them",
                )
            )
    checks.require()
    return tuple(found)


def _examine_lora(name: str) -> LoraFacts:
    return examine_lora(locate_lora(name))


def _require_lasting(request: DistillRequest, run: RunFolder) -> None:
    """Refuse files that lie where the run's own pictures and recordings come to be."""
    given = filter(
        None, (request.prompt_file, request.reference, *map(Path, request.teacher_loras))
    )
    folders = [folder.resolve() for folder in (run.data, run.references, run.path / "cache")]
    problems = [
        Problem(
            f"{path} lies in {run.path}, which is filled with what is recorded",
            "copy it to another place first",
        )
        for path in given
        if any(path.resolve().is_relative_to(one) for one in folders)
    ]
    if problems:
        raise InputError(problems)


def _resolve_schedule(
    options: ScheduleOptions, base: BaseModel, size: tuple[int, int]
) -> ResolvedSchedule:
    name = options.name or OWN
    steps = options.teacher_steps if name == AUTO else None  # else they are the teacher's alone
    return base.resolve_schedule(replace(options, name=name, teacher_steps=steps), size)


def _resolve_teacher(
    request: DistillRequest,
    family: Family,
    prompts: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
    loras: Sequence[LoraFacts],
) -> Teacher:
    asked = request.schedule.teacher_steps
    guidance = family.guidance.slow if request.guidance is None else request.guidance
    # a guided teacher is learnt from without guidance, unless it is a number that costs nothing
    learnt = guidance if family.embeds_guidance else family.guidance.off
    teacher = Teacher.checked(
        prompts=tuple(dict.fromkeys(prompts)),
        noises=USUAL["noises"] if request.noises is None else request.noises,
        sizes=sizes,
        steps=TEACHER_STEPS if asked is None else asked,
        guidance=guidance,
        slow_guidance=learnt,
        fast_guidance=learnt,
        quantize=request.quantize,
        loras={one.path.name: one.sha256 for one in sorted(loras, key=lambda one: one.path.name)},
    )
    if teacher.paths > MOST_PATHS:
        fitting = MOST_PATHS * teacher.noises // teacher.paths
        raise SettingsError(
            f"--noises {teacher.noises}: {len(teacher.prompts):,} prompts at {len(sizes)} sizes "
            f"are {teacher.paths:,} paths in all, and one training records at most "
            f"{MOST_PATHS:,}",
            hint=f"--noises {fitting}" if fitting else "give fewer prompts or sizes",
        )
    return teacher


def _resolve_settings(
    request: DistillRequest,
    base: BaseModel,
    run: RunFolder,
    sizes: tuple[tuple[int, int], ...],
    overrides: Mapping[str, OptionValue],
) -> TrainSettings:
    area = max(width * height for width, height in sizes)
    return TrainSettings.checked(
        family=base.family.name,
        **record_model(base, run),
        device=resolve_device(request.device),
        preset=resolve_preset(request.vram),
        steps=USUAL["steps"] if request.steps is None else request.steps,
        batch_size=USUAL["batch_size"] if request.batch_size is None else request.batch_size,
        rank=USUAL["rank"] if request.rank is None else request.rank,
        alpha_per_rank=1,
        layers=Layers.BLOCKS,
        learning_rate=usual_rate(base) if request.learning_rate is None else request.learning_rate,
        learning_rate_schedule="linear",
        resolution=max(_SIDE_STEP, round(math.sqrt(area) / _SIDE_STEP) * _SIDE_STEP),
        seed=USUAL["seed"] if request.seed is None else request.seed,
        overrides=overrides,
    )


def _plan_recording(
    request: DistillRequest, family: Family, teacher: Teacher, loras: Sequence[LoraFacts]
) -> GenerationPlan:
    """Plan what the base model alone generates, guided alike in all its steps."""
    width, height = max(teacher.sizes, key=lambda size: size[0] * size[1])
    at_once = _PIXELS_AT_ONCE[resolve_device(request.device)]
    return plan_generation(
        InferRequest(
            prompts=teacher.prompts[:1],
            loras=(),
            extra_loras=tuple(ExtraLora(one.path, with_pair=False) for one in loras),
            width=width,
            height=height,
            reference=request.reference,
            model=family.default_model if request.model is None else request.model,
            base=request.base,
            family=family.name,
            slow_guidance=teacher.guidance,
            fast_guidance=teacher.guidance,
            device=request.device,
            memory=request.memory,
            quantize=request.quantize,
            batch_size=max(1, at_once // (width * height)),
            metadata=False,
        ),
        needs_device=False,  # the training is about to look for it
    )
