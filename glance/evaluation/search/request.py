"""What is asked of a search for better sigmas, what was decided, and what was found."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from glance.core.device import AUTO
from glance.core.memory import Memory, Quantize
from glance.core.phase import Phase
from glance.models.families import Family
from glance.sampling.request import GenerationPlan
from glance.sampling.settings import SampleSettings
from glance.schedule.file import OPTIMAL, ScheduleFile
from glance.schedule.lists import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeRequest:
    """What the user typed, unchecked."""

    family: Family
    model: str
    size: tuple[int, int]
    prompts: tuple[str, ...] = ()
    prompt_file: Path | None = None
    seed: int = 0
    steps: int | None = None
    slow_steps: int | None = None
    fast_steps: int | None = None
    teacher_steps: int = 50
    slow_guidance: float | None = None
    fast_guidance: float | None = None
    batch_size: int = 4
    device: str = AUTO
    memory: Memory = Memory.AUTO
    quantize: Quantize = Quantize.NONE
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationPlan:
    """Everything decided: along which trajectories the steps are searched, and which may be."""

    generation: GenerationPlan
    """The base model alone, and a picture a prompt."""
    pictures: tuple[SampleSettings, ...]
    sigmas: tuple[float, ...]
    """The base model's own, which the steps are chosen from."""
    allowed: tuple[tuple[Phase, ...], ...]
    """For each step the phases that it may belong to."""
    batch_size: int
    output: Path

    @property
    def forwards(self) -> int:
        """How many forward passes each prompt takes: trajectory, search, and three comparisons."""
        steps, places = len(self.allowed), len(self.sigmas) - len(self.allowed) + 1
        total = len(self.sigmas) + 1 + 3 * steps
        for before, phases in zip(self.allowed, self.allowed[1:], strict=False):
            from_slow = len(phases) if Phase.SLOW in before else 0
            from_fast = 1 if Phase.FAST in before else 0
            total += places * (from_slow + from_fast)
        return total


@dataclass(frozen=True, slots=True)
class OptimizedSchedule:
    """What was found, and where it lies."""

    schedule: Schedule
    file: ScheduleFile
    path: Path
    seconds: float

    def summarise(self) -> Iterator[str]:
        """Yield lines for a person."""
        origin = self.file.origin
        assert origin is not None
        yield (
            f"distance to the picture of {origin.teacher_steps} steps, mean over "
            f"{len(origin.prompts)} prompts: "
            + ", ".join(f"{name} {error:.4f}" for name, error in origin.errors.items())
        )
        yield f"use it: glance train --schedule {quote(str(self.path))}, or --schedule {OPTIMAL}"

    def to_json(self) -> dict[str, Any]:
        """Return what `glance schedule optimize --json` prints."""
        origin = self.file.origin
        assert origin is not None
        return {
            **self.schedule.to_json(),
            "file": str(self.path),
            "errors": dict(origin.errors),
            "seconds": round(self.seconds, 3),
        }
