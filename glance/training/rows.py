"""What a training and a distillation will do, in words: of `--dry-run` and of the web page."""

import os
import shlex
from pathlib import Path
from typing import Final

from glance.core.device import speed
from glance.core.files import find_place
from glance.core.phase import Phase
from glance.core.tables import Rows, continued, listed, short
from glance.runs.manifest import load_manifest
from glance.training.distillation import DistillationPlan
from glance.training.machine import describe_duration, describe_estimate
from glance.training.plan import TrainingPlan

_PAIRS: Final = 4  # images that are trained on, with all that is to be said of them


def training_rows(plan: TrainingPlan) -> Rows:
    """Yield what is trained, from what, where, and what it takes."""
    settings = plan.settings
    yield "run", f"{plan.run.path}, {_state(plan)}"
    for sample in plan.samples[:_PAIRS]:
        yield "image", f"{sample.image}, {sample.width}x{sample.height}"
        views = settings.views(sample.size)
        yield from continued("trained at", (view.describe() for view in views))
        if sample.reference is not None:
            yield "reference", str(sample.reference)
        yield "caption", short(sample.caption)
    if len(plan.samples) > _PAIRS:
        yield "images", f"{len(plan.samples)} in all, {len(plan.samples) - _PAIRS} more"
    yield "model", f"{plan.base.shown} ({settings.family})"
    if settings.transformer is not None:
        yield "transformer", _place(settings.transformer, plan.run.path)
    yield from plan.schedule.rows()
    yield from continued("notes", plan.notes)
    batch = f" of batch {settings.batch_size}" if settings.batch_size > 1 else ""
    yield (
        "training",
        f"{' and '.join(plan.phases)}: {settings.steps} steps{batch}, rank {settings.rank}, "
        f"alpha {settings.alpha}, rate {settings.learning_rate:g}, seed {settings.seed}",
    )
    options = (f"{name}={value}" for name, value in settings.overrides.items())
    yield from continued("further options", options)
    shown = map(short, plan.preview_prompts)
    yield from continued("previews", (*plan.told_previews, *shown))
    yield from _cost_rows(plan)
    yield from continued("files", plan.files)
    yield from continued("commands", (shlex.join(one) for one in plan.to_json()["commands"]))


def distillation_rows(plan: DistillationPlan) -> Rows:
    """Yield what the base model is to teach, and what both parts take."""
    rows = training_rows(plan.training)
    yield next(rows)
    teacher = plan.teacher
    yield "recording", f"{len(plan.paths):,} paths: {teacher.describe()}"
    yield "", f"{plan.forwards:,} forward passes, {plan.recorded_bytes / 1e9:.2g} GB on the disk"
    yield from continued("prompts", listed([short(text) for text in teacher.prompts], most=3))
    yield "guidance", ", ".join(f"{phase} {teacher.guidance_of(phase):g}" for phase in Phase)
    yield "judged", f"on {len(plan.judging)} other prompts" if plan.compares else "not at the end"
    yield from rows


def _state(plan: TrainingPlan) -> str:

    if not plan.run.manifest.exists():
        return "new"
    phases = load_manifest(plan.run).phases
    states = ", ".join(f"{phase} {phases[phase].state}" for phase in Phase)
    return f"restarted ({states} until now)" if plan.restart else f"continued: {states}"


def _cost_rows(plan: TrainingPlan) -> Rows:

    settings = plan.settings
    numbers = ",".join(map(str, plan.devices))
    yield "device", str(settings.device) + (f":{numbers}" if settings.device == "cuda" else "")
    yield "takes", describe_estimate(settings).removeprefix("estimate: ")
    pace = speed(settings.device, plan.devices[0])
    yield "", describe_duration(settings, len(plan.phases), pace).removeprefix("estimate: ")


def _place(model: str, run: Path) -> str:
    """Return a recorded model as it is seen from here."""

    place = find_place(model, run)
    return os.path.relpath(place) if place.exists() else model
