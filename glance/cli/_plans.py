"""What `--dry-run` shows people: a plan as a table of words. `--json` has the whole of it."""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

from glance.cli.console import Console, format_table
from glance.core.phase import Phase
from glance.schedule.lists import Schedule

if TYPE_CHECKING:
    from glance.batch.infer import BatchInferPlan
    from glance.evaluation.compare import ComparisonPlan
    from glance.sampling.plan import GenerationPlan
    from glance.training.distillation import DistillationPlan
    from glance.training.plan import TrainingPlan

_TEXT: Final = 70  # characters of a prompt
_LISTED: Final = 20  # images
_PAIRS: Final = 4  # images that are trained on, with all that is to be said of them

type Rows = Iterator[tuple[str, str]]
"""A name, and what is to be said of it; an empty name goes on with the one before."""


def show_plan(console: Console, rows: Iterable[tuple[str, str]], document: Any) -> None:
    """Write the plan: the table, or with `--json` the document."""
    table = list(rows)
    width = max(len(name) for name, _ in table)
    console.result("\n".join(f"{name.ljust(width)}  {text}".rstrip() for name, text in table))
    console.document(document)


def training_rows(plan: "TrainingPlan") -> Rows:
    """Yield what is trained, from what, where, and what it takes."""
    settings = plan.settings
    yield "run", f"{plan.run.path}, {_state(plan)}"
    for sample in plan.samples[:_PAIRS]:
        yield "image", f"{sample.image}, {sample.width}x{sample.height}"
        views = settings.views(sample.size)
        yield from _continued("trained at", (view.describe() for view in views))
        if sample.reference is not None:
            yield "reference", str(sample.reference)
        yield "caption", _short(sample.caption)
    if len(plan.samples) > _PAIRS:
        yield "images", f"{len(plan.samples)} in all, {len(plan.samples) - _PAIRS} more"
    yield "model", f"{_place(settings.model, plan.run.path)} ({settings.family})"
    if settings.transformer is not None:
        yield "transformer", _place(settings.transformer, plan.run.path)
    yield from _schedule_rows(plan.schedule)
    yield from _continued("notes", plan.notes)
    batch = f" of batch {settings.batch_size}" if settings.batch_size > 1 else ""
    yield (
        "training",
        f"{' and '.join(plan.phases)}: {settings.steps} steps{batch}, rank {settings.rank}, "
        f"alpha {settings.alpha}, rate {settings.learning_rate:g}, seed {settings.seed}",
    )
    options = (f"{name}={value}" for name, value in settings.overrides.items())
    yield from _continued("further options", options)
    shown = map(_short, plan.preview_prompts)
    yield from _continued("previews", (*plan.told_previews, *shown))
    yield from _cost_rows(plan)
    yield from _continued("files", plan.files)
    yield from _continued("commands", (shlex.join(one) for one in plan.to_json()["commands"]))


def distillation_rows(plan: "DistillationPlan") -> Rows:
    """Yield what the base model is to teach, and what both parts take."""
    rows = training_rows(plan.training)
    yield next(rows)
    teacher = plan.teacher
    yield "recording", f"{len(plan.paths):,} paths: {teacher.describe()}"
    yield "", f"{plan.forwards:,} forward passes, {plan.recorded_bytes / 1e9:.2g} GB on the disk"
    yield from _continued("prompts", _listed([_short(text) for text in teacher.prompts], most=3))
    yield "guidance", ", ".join(f"{phase} {teacher.guidance_of(phase):g}" for phase in Phase)
    yield "judged", f"on {len(plan.judging)} other prompts" if plan.compares else "not at the end"
    yield from rows


def sampling_rows(plan: "GenerationPlan") -> Rows:
    """Yield what is generated, with what, and where it goes."""
    yield "model", f"{plan.base.location} ({plan.base.family.name})"
    if plan.base.transformer is not None:
        yield "transformer", str(plan.base.transformer)
    for phase in Phase:
        yield f"{phase} LoRA", str(plan.loras.get(phase, "none"))
    yield from _extra_rows(plan)
    yield from _schedule_rows(plan.schedule)
    precision = f"{plan.dtype}, memory {plan.memory}, quantize {plan.quantize}"
    yield "sampling", f"{plan.device}, {precision}, {plan.batch_size} at once"
    done = sum(one.is_done for one in plan.images)
    steps = len(plan.schedule.sigmas)
    yield "images", f"{len(plan.images):,}{_there(done)}, {steps} steps each"
    lines = [
        (
            str(one.output),
            f"{one.settings.width}x{one.settings.height}",
            f"seed {one.settings.seed}",
            f"guidance {one.settings.slow_guidance:g}, {one.settings.fast_guidance:g}",
            _short(one.settings.prompt) + (" (there already)" if one.is_done else ""),
        )
        for one in plan.images[:_LISTED]
    ]
    for line in format_table(lines[0], lines[1:], align=str.ljust).splitlines():
        yield "", line
    if len(plan.images) > _LISTED:
        yield "", f"... and {len(plan.images) - _LISTED:,} more"


def batch_rows(plan: "BatchInferPlan") -> Rows:
    """Yield which runs generate how many images, by their base models, and where they go."""
    request = plan.request
    for base, some in groupby(plan.runs, key=lambda one: one.generation.base):
        yield "model", f"{base.location} ({base.family.name})"
        lines = [
            (
                str(one.run),
                f"{len(one.generation.images):,} images, {len(one.generation.schedule.sigmas)} "
                f"steps each{_there(sum(image.is_done for image in one.generation.images))}",
            )
            for one in some
        ]
        width = max(len(run) for run, _ in lines)
        yield from _continued("  runs", (f"{run.ljust(width)}  {text}" for run, text in lines))
    yield from _continued("refused", (str(one.run) for one in plan.refused))
    unfinished = (f"{run}: {reason}" for run, reason in plan.left_out.items())
    yield from _continued("left out", unfinished)
    if plan.runs:
        first = plan.runs[0].generation
        yield from _extra_rows(first)
        precision = f"{first.dtype}, memory {first.memory}, quantize {first.quantize}"
        yield "sampling", f"{first.device}, {precision}, {first.batch_size} at once"
        settings = list(dict.fromkeys(one.settings.prompt for one in first.images))
        yield from _continued("prompts", _listed([_short(text) for text in settings], most=3))
    part = "" if request.part is None else f", part {request.part[0]} of {request.part[1]}"
    yield "images", f"{plan.images:,}{part}{_there(plan.done)}"
    if request.devices:
        yield "devices", ", ".join(f"GPU {one}" for one in request.devices)
    yield "result", str(request.output)


def _there(done: int) -> str:
    return f", {done:,} of them there already" if done else ""


def comparison_rows(plan: "ComparisonPlan", facts: Mapping[str, Any]) -> Rows:
    """Yield what is sampled side by side, and how much of it is there already: `facts`."""
    yield "model", f"{plan.generation.base.location} ({plan.generation.base.family.name})"
    for phase in Phase:
        yield f"{phase} LoRA", str(plan.generation.loras.get(phase, "none"))
    yield from _extra_rows(plan.generation)
    yield from _schedule_rows(plan.generation.schedule)
    first = plan.rows[0].cells.values()
    yield from _continued("side by side", (one.label for one in first))
    prompts = list(dict.fromkeys(row.settings.prompt for row in plan.rows))
    yield from _continued("prompts", _listed([_short(text) for text in prompts], most=3))
    yield "images", f"{facts['pictures']:,} in {len(plan.rows):,} rows, of prompts and noises"
    yield "", f"{facts['cached']:,} of them are in the cache; {facts['steps']:,} steps to go"
    if plan.finds_worth:
        yield "", "and about 30 steps an image for what the pair is worth, once for a model"
    yield "result", str(plan.folder)


def _state(plan: "TrainingPlan") -> str:
    from glance.runs.manifest import load_manifest

    if not plan.run.manifest.exists():
        return "new"
    phases = load_manifest(plan.run).phases
    states = ", ".join(f"{phase} {phases[phase].state}" for phase in Phase)
    return f"restarted ({states} until now)" if plan.restart else f"continued: {states}"


def _cost_rows(plan: "TrainingPlan") -> Rows:
    from glance.core.device import speed
    from glance.training.machine import describe_duration, describe_estimate

    settings = plan.settings
    numbers = ",".join(map(str, plan.devices))
    yield "device", str(settings.device) + (f":{numbers}" if settings.device == "cuda" else "")
    yield "takes", describe_estimate(settings).removeprefix("estimate: ")
    pace = speed(settings.device, plan.devices[0])
    yield "", describe_duration(settings, len(plan.phases), pace).removeprefix("estimate: ")


def _extra_rows(plan: "GenerationPlan") -> Rows:
    found = (one.lora for one in plan.extra_loras.values())
    yield from _continued(
        "further LoRAs", (f"{one.file}, strength {one.strength:g}" for one in found)
    )


def _schedule_rows(schedule: Schedule) -> Rows:
    yield "schedule", schedule.name
    for phase in Phase:
        yield f"  {phase}", " ".join(f"{value:g}" for value in schedule.phase(phase).timesteps)


def _continued(name: str, texts: Iterable[str]) -> Rows:
    """Yield a line each, the name before the first; nothing for none."""
    for number, text in enumerate(texts):
        yield "" if number else name, text


def _listed(texts: list[str], *, most: int) -> Iterator[str]:
    yield from texts[:most]
    if len(texts) > most:
        yield f"... and {len(texts) - most:,} more"


def _place(model: str, run: Path) -> str:
    """Return a recorded model as it is seen from here."""
    from glance.core.files import find_place

    place = find_place(model, run)
    return os.path.relpath(place) if place.exists() else model


def _short(text: str) -> str:
    return shorten(text, _TEXT, placeholder=" ...")
