"""Distil: record the base model's paths, have both LoRAs trained on them, judge the pair.

A path has three files, each whole or not there: its states, its image, and the image's caption
beside it. With all three it is done; whatever interrupted, the rest is made by the next start.
"""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from glance.core.events import EventSink, Noted, SamplingStep
from glance.core.files import replacing, write_text
from glance.core.pictures import open_picture, to_rgb
from glance.evaluation.compare import try_pair
from glance.evaluation.report import Report
from glance.evaluation.request import JUDGED, CompareRequest
from glance.runs.folder import writing
from glance.runs.manifest import load_manifest
from glance.sampling.generate import fetch_planned, load_planned, with_time_left
from glance.training.distillation import DistillationPlan, PlannedPath
from glance.training.execute import TrainingResult, run_training

if TYPE_CHECKING:
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline
    from glance.sampling.pipeline.trajectory import Recorded

STATES: Final = "states"
"""The tensor of a recording: (N + 1, channels, height, width), float32."""
_SEEDS: Final = (0, 1)
"""Of each prompt that the pair is judged on: two, so that their variety can be told."""


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """A distilled run."""

    training: TrainingResult
    report: Report | None
    """What the pair is worth; None: that was not asked, or a phase is still to be trained."""

    def to_json(self) -> dict[str, Any]:
        """Return what `glance distill --json` prints."""
        if self.report is None:
            return self.training.to_json()
        return {**self.training.to_json(), "sheet": str(self.report.sheet)} | {
            "verdict": self.report.verdict.to_json()
        }


def run_distillation(plan: DistillationPlan, on_event: EventSink) -> DistillationResult:
    """Record what is not recorded yet, train those phases that are not done, judge the pair.

    Raises what recording and training raise, and InferenceFailed where both LoRAs are done and
    comparing them fails. Whatever interrupts it, the same call continues.
    """
    training = run_training(
        plan.training,
        on_event,
        make_ready=lambda: record(plan, on_event),
        recorded_bytes=plan.recorded_bytes,
    )
    if not training.manifest.is_finished:
        return DistillationResult(training, None)
    if not plan.keep_recording:
        with writing(plan.run.path):
            shutil.rmtree(plan.run.recordings, ignore_errors=True)
    if not plan.compares:
        return DistillationResult(training, None)
    report = _judge(plan, on_event)
    return DistillationResult(replace(training, manifest=load_manifest(plan.run)), report)


def _judge(plan: DistillationPlan, on_event: EventSink) -> Report:
    """Compare the pair with its base model, on prompts and noises that it has not learnt from."""
    words = "comparing the pair with the base model, on prompts that it has not learnt from"
    on_event(Noted(words))
    generation = plan.generation
    request = CompareRequest(
        run=plan.run.path,
        prompts=plan.judging,
        seeds=_SEEDS,
        variants=JUDGED,
        teacher_steps=plan.teacher.steps,
        extra_loras=tuple(one.lora for one in generation.extra_loras.values()),
        reference=plan.reference,
        device=generation.device,
        memory=generation.memory,
        quantize=generation.quantize,
        batch_size=generation.batch_size,
    )
    return try_pair(plan.run, on_event, request)


def record(
    plan: DistillationPlan, on_event: EventSink, *, sampler: "GlancePipeline | None" = None
) -> None:
    """Record the paths that are not there yet, into the run folder.

    Nothing is loaded where all are there, or where a `sampler` of the plan's model is given.

    Raises SetupError when the folder cannot be written, and what loading and sampling raise.
    """
    run = plan.run
    with writing(run.path):
        _remove_strangers(plan)
        missing = [one for one in plan.paths if not is_recorded(plan, one)]
    there = len(plan.paths) - len(missing)
    if there:
        on_event(Noted(f"{there} of {len(plan.paths)} paths are recorded already"))
    if not missing:
        return
    for note in plan.generation.notes:
        on_event(Noted(note))
    if sampler is None:
        fetch_planned(plan.generation, on_event)
        on_event(Noted(f"loading {plan.generation.base.location}"))
        sampler = load_planned(plan.generation, on_event)
    on_event(Noted(f"recording {len(missing)} of the base model's own paths"))
    walked = _walk(plan, sampler, missing, on_event)
    for one, recorded in zip(missing, walked, strict=True):
        with writing(run.path):
            _write(plan, one, recorded)
    del sampler, walked  # nobody holds the model any more, and the trainer needs its memory
    from glance.sampling.pipeline.memory import free_memory

    free_memory()


def is_recorded(plan: DistillationPlan, one: PlannedPath) -> bool:
    """Whether a path is there, whole, and of this plan."""
    from safetensors import SafetensorError, safe_open

    picture = one.picture(plan.run)
    if not (picture.is_file() and picture.with_suffix(".txt").is_file()):
        return False
    try:
        with safe_open(one.recording(plan.run), framework="np") as file:
            return bool(file.metadata() == describe_path(plan, one))
    except (OSError, SafetensorError):
        return False


def _walk(
    plan: DistillationPlan,
    sampler: "GlancePipeline",
    missing: Sequence[PlannedPath],
    on_event: EventSink,
) -> Iterator["Recorded"]:
    """Yield each path's recording, in their order."""
    from glance.sampling.pipeline.trajectory import record_paths

    total, done = len(missing) * plan.teacher.steps, 0
    tell = with_time_left(on_event)

    def on_step(pictures: int) -> None:
        nonlocal done
        done += pictures
        tell(SamplingStep(None, done, total, done, total, task="recording"))

    for size, group in groupby(missing, lambda one: (one.settings.width, one.settings.height)):
        yield from record_paths(
            sampler,
            [one.settings for one in group],
            teacher=plan.sigmas[size],
            kept=plan.kept_sigmas,
            batch_size=plan.generation.batch_size,
            on_step=on_step,
        )


def _write(plan: DistillationPlan, one: PlannedPath, recorded: "Recorded") -> None:
    """Write states, caption and picture; the picture last: with it the path is there."""
    from safetensors.numpy import save_file

    picture = one.picture(plan.run)
    with replacing(one.recording(plan.run)) as temporary:
        states = {STATES: recorded.states.numpy()}
        save_file(states, temporary, metadata=describe_path(plan, one))
    write_text(picture.with_suffix(".txt"), one.settings.prompt + "\n")
    shown = plan.training.shown_reference
    if plan.reference is not None and shown is not None:
        reference = plan.run.references / picture.name
        with replacing(reference) as temporary, open_picture(plan.reference) as opened:
            to_rgb(opened)[0].resize(shown, Image.Resampling.LANCZOS).save(temporary, format="PNG")
        write_text(reference.with_suffix(".txt"), one.settings.prompt + "\n")
    with replacing(picture) as temporary:
        recorded.image.save(temporary, format="PNG")


def describe_path(plan: DistillationPlan, one: PlannedPath) -> dict[str, str]:
    """Return what tells a path's recording from any other's: the metadata of its file."""
    settings, generation = one.settings, plan.generation
    decisive = [settings.prompt, settings.seed, settings.width, settings.height]
    decisive += [generation.images[0].record.base_revision, *plan.teacher.loras.values()]
    decisive += [generation.quantize.value]
    return {
        "format": "glance-path-1",
        "path": hashlib.sha256(repr(decisive).encode()).hexdigest(),
        "teacher": f"{plan.teacher.steps} steps, guidance {plan.teacher.guidance:g}",
        "sigmas": ",".join(map(repr, plan.kept_sigmas)),
    }


def _remove_strangers(plan: DistillationPlan) -> None:
    """Remove pictures that are not of this plan: SimpleTuner trains on all that it finds."""
    stays = {one.picture(plan.run) for one in plan.paths}
    if plan.reference is not None:
        stays |= {plan.run.references / path.name for path in stays}
    stays |= {path.with_suffix(".txt") for path in stays}
    for folder in {path.parent for path in stays}:
        with suppress(FileNotFoundError):
            for path in folder.rglob("*"):
                if path.is_file() and path not in stays:
                    path.unlink()
