"""Decide a distillation: check everything that can be known before the base model is loaded."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from glance.device import Device, resolve_device
from glance.distillation.request import (
    LEARNING_RATE,
    PROMPTS,
    DistillationPlan,
    DistillRequest,
    lay_out_paths,
)
from glance.errors import Checks, InputError, Problem, SettingsError
from glance.families import Family
from glance.generation.plan import plan_generation
from glance.generation.request import GenerationPlan, InferRequest
from glance.levels import AUTO_SCHEDULE, find_shift
from glance.lora import examine_lora, hash_file
from glance.model import is_small_model, resolve_family
from glance.prompts import read_prompts
from glance.prompts.shipped import judging_prompts, teaching_prompts
from glance.run import RUNS, RunFolder
from glance.sample import measure_picture, safe_name
from glance.schedule.shift import TEACHER_STEPS, teacher_sigmas
from glance.settings import Layers, Teacher, TrainSettings, Weights, resolve_preset
from glance.simpletuner.options import OptionValue, parse_overrides
from glance.training.plan import parse_devices, put_together, resolve_levels_of, with_model

_SIZE: Final = re.compile(r"(\d+)x(\d+)")
_SIDE_STEP: Final = 64  # what SimpleTuner cuts pictures to
_TOKENS_A_WORD: Final = 1.3
_FEW: Final = 16  # prompts: docs/distill.md
_JUDGED: Final = 8  # prompts that the pair is judged on, each from two noises
_PIXELS_AT_ONCE: Final[Mapping[Device, int]] = MappingProxyType(
    {Device.CPU: 16 * 64 * 64, Device.MPS: 1024 * 1024, Device.CUDA: 4 * 1024 * 1024}
)
"""Recorded at a time; what memory does not suffice for is halved."""


def plan_distillation(request: DistillRequest) -> DistillationPlan:
    """Check the request and decide the rest. Loads no model, writes nothing.

    Raises InputError with all problems of prompts, sizes, schedule, settings and options together,
    LoraError, ModelNotFound, ScheduleError where the model's own schedule is not known, or RunError
    when the run folder holds something else.
    """
    family = resolve_family(request.family, request.model)
    model = family.default_model if request.model is None else request.model
    is_small = is_small_model(model)
    checks = Checks()
    overrides = checks.make(lambda: parse_overrides(request.overrides))
    devices = checks.make(lambda: parse_devices(request.devices))
    asked = checks.make(lambda: _choose_prompts(request, is_small=is_small))
    sizes = checks.make(lambda: _parse_sizes(request, family, is_small=is_small))
    levels = None
    if sizes is not None:
        derived = request.schedule == AUTO_SCHEDULE
        shown = replace(request, teacher_steps=request.teacher_steps if derived else None)
        levels = checks.make(lambda: resolve_levels_of(shown, family, sizes[0]))
    teacher = None
    if asked is not None and sizes is not None:
        teacher = checks.make(lambda: _resolve_teacher(request, family, asked, sizes))
    if teacher is None or overrides is None or devices is None or levels is None:
        raise checks.refusal()
    settings = _resolve_settings(request, family, teacher, overrides)
    run = RunFolder(request.run or RUNS / f"{safe_name(Path(model))}-distilled")
    generation = _plan_painting(request, family, teacher)
    training = put_together(
        request,
        run=run,
        sample=None,
        settings=with_model(settings, request, run),
        levels=levels,
        devices=devices,
        warnings=tuple(_prompt_warnings(teacher, family)),
    )
    shift = find_shift(family, generation.model).shift
    return DistillationPlan(
        training=training,
        teacher=teacher,
        generation=generation,
        paths=tuple(lay_out_paths(teacher, generation.settings)),
        sigmas={
            size: teacher_sigmas(shift, *size, steps=teacher.steps, spacing=family.spacing)
            for size in teacher.sizes
        },
        reference=request.reference,
        keep_recording=request.keep_recording,
        compares=request.compares,
        judging=judging_prompts(_JUDGED, world=is_small),
    )


def _choose_prompts(request: DistillRequest, *, is_small: bool) -> tuple[str, ...]:
    """Return the user's prompts, without those that are there twice, or those of the package."""
    if request.prompts and request.prompt_file is not None:
        raise InputError("--prompt and --prompt-file exclude each other", hint="drop one")
    if request.prompt_file is not None:
        return _read_prompts(request.prompt_file)
    if not request.prompts:
        return teaching_prompts(PROMPTS, world=is_small)
    problems = [
        Problem(f"--prompt, number {number}: {text[:40]!r} is {what}", "describe a picture in it")
        for number, text in enumerate(request.prompts, 1)
        if (what := _what_is_wrong(text))
    ]
    if problems:
        raise InputError(problems)
    return tuple(dict.fromkeys(text.strip() for text in request.prompts))


def _what_is_wrong(text: str) -> str | None:
    if not text.strip():
        return "empty"
    if any("\ud800" <= letter <= "\udfff" or ord(letter) < 32 for letter in text.strip()):
        return "no text"
    return None


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
    return tuple(dict.fromkeys(line.prompt.strip() for line in lines))


def _prompt_warnings(teacher: Teacher, family: Family) -> Iterator[Problem]:
    if len(teacher.prompts) < _FEW:
        yield Problem(
            f"{len(teacher.prompts)} prompts teach what those pictures have, and may make others "
            "worse",
            f"give {_FEW} or more that differ, or none: the package has some",
        )
    tokens = family.text.tokens
    long = [text for text in teacher.prompts if _TOKENS_A_WORD * len(text.split()) > tokens]
    for text in long[:3]:
        yield Problem(
            f"the prompt {text[:40]!r} ... has more words than the {tokens} tokens that "
            f"{family.title} reads: what lies beyond is cut",
            "shorten it",
        )


def _parse_sizes(
    request: DistillRequest, family: Family, *, is_small: bool
) -> tuple[tuple[int, int], ...]:
    """Return width and height of each size asked for, else the family's square."""
    side = _SIDE_STEP if is_small else family.resolution
    if not request.sizes:
        return (_fit(request.reference, side) if request.reference else (side, side),)
    problems, sizes = [], []
    for text in request.sizes:
        found = _SIZE.fullmatch(text.strip().lower())
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(64 <= one <= 8192 and one % _SIDE_STEP == 0 for one in size):
            problems.append(
                Problem(
                    f"--size {text}: not width x height in multiples of {_SIDE_STEP}, which "
                    "SimpleTuner cuts pictures to",
                    "--size 1024x1024, or --size 832x1216",
                )
            )
        sizes.append(size)
    if family.edits and len(set(sizes)) > 1:
        problems.append(
            Problem(f"{family.title} is trained at one size: its pictures go with a reference")
        )
    if problems:
        raise InputError(problems)
    return tuple(dict.fromkeys(sizes))


def _fit(reference: Path, side: int) -> tuple[int, int]:
    """Return a size of about side x side pixels in the reference's shape."""
    aspect = measure_picture(reference)
    scale = side / (aspect[0] * aspect[1]) ** 0.5
    width, height = (
        max(_SIDE_STEP, round(one * scale / _SIDE_STEP) * _SIDE_STEP) for one in aspect
    )
    return width, height


def _resolve_teacher(
    request: DistillRequest,
    family: Family,
    prompts: tuple[str, ...],
    sizes: tuple[tuple[int, int], ...],
) -> Teacher:
    if request.reference is not None and not family.edits:
        raise SettingsError(
            f"--reference: {family.title} paints from text alone", hint="drop --reference"
        )
    if request.reference is None and family.edits:
        raise SettingsError(
            f"{family.title} edits a picture, and there is no --reference",
            hint="say which one with --reference x.png",
        )
    guidance = family.guidance.slow if request.guidance is None else request.guidance
    # a guided teacher is learnt from without guidance, unless it is a number that costs nothing
    learnt = guidance if family.embeds_guidance else family.guidance.off
    facts = [examine_lora(path) for path in request.teacher_loras]
    return Teacher.checked(
        prompts=prompts,
        noises=request.noises,
        sizes=sizes,
        steps=TEACHER_STEPS if request.teacher_steps is None else request.teacher_steps,
        guidance=guidance,
        slow_guidance=learnt,
        fast_guidance=learnt,
        loras={one.path.name: one.sha256 for one in facts},
        reference=None if request.reference is None else hash_file(request.reference),
    )


def _resolve_settings(
    request: DistillRequest, family: Family, teacher: Teacher, overrides: Mapping[str, OptionValue]
) -> TrainSettings:
    area = max(width * height for width, height in teacher.sizes)
    return TrainSettings.checked(
        family=family.name,
        model=family.default_model if request.model is None else request.model,
        device=resolve_device(request.device),
        preset=resolve_preset(request.preset),
        weights=Weights(
            transformer=family.size.transformer, text_encoders=family.size.text_encoders
        ),
        steps=request.steps,
        batch_size=request.batch_size,
        rank=request.rank,
        alpha_per_rank=1,
        layers=Layers.BLOCKS,
        learning_rate=LEARNING_RATE if request.learning_rate is None else request.learning_rate,
        learning_rate_schedule="linear",
        resolution=max(_SIDE_STEP, round(area**0.5 / _SIDE_STEP) * _SIDE_STEP),
        seed=request.seed,
        overrides=overrides,
        teacher=teacher,
    )


def _plan_painting(request: DistillRequest, family: Family, teacher: Teacher) -> GenerationPlan:
    """Plan what the base model alone paints, guided alike in all its steps."""
    width, height = max(teacher.sizes, key=lambda size: size[0] * size[1])
    at_once = _PIXELS_AT_ONCE[resolve_device(request.device)]
    return plan_generation(
        InferRequest(
            prompts=teacher.prompts[:1],
            loras=(),
            base_loras=request.teacher_loras,
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
        )
    )
