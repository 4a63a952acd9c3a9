"""What is asked of a sweep, and what was decided: plain objects."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.compare.request import Variant
from glance.errors import Problem
from glance.run import PhaseState, RunFolder, load_manifest
from glance.schedule import Phase
from glance.settings import DEFAULT_SCHEDULE
from glance.simpletuner.duration import seconds_a_step
from glance.training.request import TrainingPlan, TrainRequest

RESULTS: Final = "sweep.json"
SHEET: Final = "sheet.png"
VARIANTS: Final = (Variant.TEACHER, Variant.BASE, Variant.BOTH)
"""What is painted of each point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """What the user typed, unchecked; the lists are comma separated."""

    shared: TrainRequest
    """What all points have in common; its rank, rate, steps, schedule and run are replaced."""
    ranks: str = "32"
    learning_rates: str | None = None
    """None: the family's."""
    steps: str = "60"
    schedules: str = DEFAULT_SCHEDULE
    output: Path | None = None
    """The folder of all runs. None: runs/ and the picture's name, -sweep behind it."""
    prompts: tuple[str, ...] = ()
    """What is painted with each pair. Empty: the sample's caption, and a neutral prompt."""
    picture_seeds: tuple[int, ...] = ()
    """The noise that it is painted from. Empty: 0."""
    pictures: bool = True
    """Whether anything is painted at all."""


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """One training of a sweep."""

    name: str
    training: TrainingPlan

    @property
    def run(self) -> RunFolder:
        """Where it is trained."""
        return self.training.run

    def states(self) -> dict[Phase, PhaseState]:
        """Return how far it is on the disk."""
        if not self.run.manifest.exists():
            return dict.fromkeys(Phase, PhaseState.PENDING)
        phases = load_manifest(self.run).phases
        return {phase: phases[phase].state for phase in Phase}

    def to_json(self) -> dict[str, Any]:
        """Return what tells it from the other points."""
        settings = self.training.settings
        return {
            "name": self.name,
            "run": str(self.run.path),
            "rank": settings.rank,
            "learning_rate": settings.learning_rate,
            "steps": settings.steps,
            "schedule": {"name": self.training.schedule.name, **self.training.schedule.to_json()},
        }


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Everything decided: the trainings in their order, and what is painted with each pair."""

    folder: Path
    points: tuple[PlannedPoint, ...]
    prompts: tuple[str, ...]
    """Empty: nothing is painted."""
    picture_seeds: tuple[int, ...]
    device: str
    warnings: tuple[Problem, ...]

    @property
    def starts(self) -> int:
        """How many times SimpleTuner is yet to be started: twice a point that is not begun."""
        return sum(len(_left(point)) for point in self.points)

    def seconds(self, speed: float | None) -> float | None:
        """Return what the steps yet to be done take at `speed` operations a second, if known.

        The steps of a phase that stopped halfway are all counted.
        """
        if speed is None or not all(p.training.settings.weights.known for p in self.points):
            return None
        return sum(
            seconds_a_step(point.training.settings, speed)
            * point.training.settings.steps
            * len(_left(point))
            for point in self.points
        )

    def to_json(self, speed: float | None = None) -> dict[str, Any]:
        """Return what `--dry-run --json` prints; `speed` in operations a second."""
        return {
            "sweep": str(self.folder),
            "points": [
                {**point.to_json(), "states": {k.value: v.value for k, v in point.states().items()}}
                for point in self.points
            ],
            "starts": self.starts,
            "seconds": self.seconds(speed),
            "prompts": list(self.prompts),
            "picture_seeds": list(self.picture_seeds),
        }

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield what `--dry-run` prints: a header and a row a point."""
        yield "point", "rank", "rate", "steps", "schedule", *Phase
        for point in self.points:
            settings = point.training.settings
            yield (
                point.name,
                str(settings.rank),
                f"{settings.learning_rate:g}",
                str(settings.steps),
                point.training.schedule.name,
                *(state.value for state in point.states().values()),
            )


def _left(point: PlannedPoint) -> list[Phase]:
    return [phase for phase, state in point.states().items() if state is not PhaseState.DONE]
