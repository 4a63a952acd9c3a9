"""Distil: record the base model's paths, have both LoRAs trained on them, judge the pair."""

from dataclasses import dataclass, replace
from typing import Any, Final

from glance.core.events import EventSink, Noted
from glance.evaluation.report import Report
from glance.evaluation.compare import CompareRequest
from glance.evaluation.comparison import JUDGED
from glance.evaluation.compare import try_pair
from glance.runs.folder import writing
from glance.runs.manifest import load_manifest
from glance.training.distillation.record import forget, record
from glance.training.distillation.request import DistillationPlan
from glance.training.execute import TrainingResult, run_training
from glance.training.simpletuner.runner import Runner

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


def run_distillation(
    plan: DistillationPlan, on_event: EventSink, *, runner: Runner | None = None
) -> DistillationResult:
    """Record what is not recorded yet, train those phases that are not done, judge the pair.

    Raises what recording and training raise, and InferenceFailed where both LoRAs are done and
    comparing them fails. Whatever interrupts it, the same call continues.
    """
    training = run_training(
        plan.training,
        on_event,
        runner=runner,
        make_ready=lambda: record(plan, on_event),
        recorded_bytes=plan.recorded_bytes,
    )
    if not training.manifest.is_finished:
        return DistillationResult(training, None)
    if not plan.keep_recording:
        with writing(plan.run.path):
            forget(plan.run)
    if not plan.compares:
        return DistillationResult(training, None)
    report = _judge(plan, on_event)
    verdict = {**report.verdict.to_json(), "sentence": report.verdict.sentence}
    manifest = load_manifest(plan.run).model_copy(update={"verdict": verdict})
    with writing(plan.run.path):
        manifest.save(plan.run)
    return DistillationResult(replace(training, manifest=manifest), report)


def _judge(plan: DistillationPlan, on_event: EventSink) -> Report:
    """Compare the pair with its base model, on prompts and noises that it has not learnt from."""
    on_event(
        Noted("comparing the pair with the base model, on prompts that it has not learnt from")
    )
    generation = plan.generation
    request = CompareRequest(
        run=plan.run.path,
        prompts=plan.judging,
        seeds=_SEEDS,
        variants=JUDGED,
        teacher_steps=plan.teacher.steps,
        base_loras=generation.base_loras,
        reference=plan.reference,
        device=generation.device,
        memory=generation.memory,
        quantize=generation.quantize,
        batch_size=generation.batch_size,
    )
    return try_pair(plan.run, on_event, request)
