"""Distil: record the base model's paths, have both LoRAs trained on them, judge the pair."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glance.distillation.record import forget, record
from glance.distillation.request import DistillationPlan
from glance.events import EventSink
from glance.simpletuner.runner import Runner
from glance.training.execute import TrainingResult, run_training
from glance.training.prepare import writing

if TYPE_CHECKING:
    from glance.compare.trial import Trial


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """A distilled run."""

    training: TrainingResult
    trial: "Trial | None" = None
    """What the pair is worth; None: it was not asked, or a phase is still to be trained."""

    def to_json(self) -> dict[str, Any]:
        """Return what `glance distill --json` prints."""
        return self.training.to_json()


def run_distillation(
    plan: DistillationPlan,
    on_event: EventSink,
    *,
    runner: Runner | None = None,
    compares: bool = True,
) -> DistillationResult:
    """Record what is not recorded yet, and train those phases that are not done.

    Raises what recording and training raise. Whatever interrupts it, the same call continues.
    """
    result = run_training(
        plan.training, on_event, runner=runner, make_ready=lambda: record(plan, on_event)
    )
    if result.manifest.is_finished and not plan.keep_recording:
        with writing(plan.run.path):
            forget(plan.run)
    return DistillationResult(result)
