"""What is asked of a sampling, what was decided, and what came of it: three plain objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glance.device import AUTO, Device, Precision
from glance.families import Family
from glance.schedule import Phase, Schedule
from glance.settings import SampleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What the user typed, unchecked. None: the run's, the LoRAs' or the family's own."""

    prompt: str
    reference: Path | None = None
    run: Path | None = None
    slow_lora: Path | None = None
    fast_lora: Path | None = None
    model: str | None = None
    base: str | None = None
    family: str | None = None
    seed: int = 0
    slow_guidance: float | None = None
    fast_guidance: float | None = None
    width: int | None = None
    height: int | None = None
    schedule: str | None = None
    slow_timesteps: str | None = None
    fast_timesteps: str | None = None
    device: str = AUTO
    dtype: Precision | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """Everything decided: which files, along which schedule, to where."""

    model: str
    transformer: Path | None
    family: Family
    loras: Mapping[Phase, Path]
    schedule: Schedule
    settings: SampleSettings
    device: Device
    dtype: Precision
    output: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The image's path and what its making was."""

    image: Path
    seed: int
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return what `glance infer --json` prints."""
        return {
            "images": [str(self.image)],
            "seed": self.seed,
            "sigmas": {phase.value: list(values) for phase, values in self.sigmas.items()},
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
