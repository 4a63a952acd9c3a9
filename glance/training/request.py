"""What is asked of a training and of a distillation, as it is typed: plain objects.

Nothing heavy is imported here: a command's help is made without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from glance.core.device import AUTO, Memory, Quantize
from glance.core.phase import Phase
from glance.schedule.options import ScheduleOptions


class Launcher(StrEnum):
    """How the trainer is started."""

    SIMPLETUNER = "simpletuner"
    """The public command, which starts accelerate, which starts the trainer."""
    DIRECT = "direct"
    """The trainer's own script: it saves the imports of two processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user typed of any training, unchecked. None: the model's, or the family's."""

    run: Path | None = None
    family: str | None = None
    model: str | None = None
    base: str | None = None
    steps: int = 60
    rank: int = 32
    learning_rate: float | None = None
    seed: int = 1
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    """A plain name is taken too."""
    phases: tuple[Phase, ...] = tuple(Phase)
    device: str = AUTO
    devices: str = "0"
    preset: str = "24gb"
    overrides: Sequence[str] = ()
    restart: bool = False
    trust: bool = False
    """Whether checkpoints that were made elsewhere may be unpickled."""
    stop_within: float = 60.0
    """How long a first Ctrl-C waits for a checkpoint, in seconds."""
    launcher: Launcher = Launcher.SIMPLETUNER

    def __post_init__(self) -> None:
        """Take a plain name for the schedule."""
        object.__setattr__(self, "schedule", ScheduleOptions.of(self.schedule))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest(TrainingRequest):
    """What the user typed of a training on one image and its caption, unchecked."""

    image: Path
    caption: str | None = None
    reference: Path | None = None
    resolution: int | str | None = None
    crop: str = "whole"
    sample_every: int | None = None
    sample_prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRequest(TrainingRequest):
    """What the user typed of a distillation, unchecked."""

    prompts: tuple[str, ...] = ()
    """None: the first 64 of the package's."""
    prompt_file: Path | None = None
    reference: Path | None = None
    sizes: tuple[str, ...] = ()
    noises: int = 2
    guidance: float | None = None
    teacher_loras: tuple[str | Path, ...] = ()
    steps: int = 400
    batch_size: int = 4
    rank: int = 16
    memory: Memory = Memory.AUTO
    quantize: Quantize = Quantize.NONE
    keep_recording: bool = False
    compares: bool = True
    """Whether the pair is compared with its base model at the end."""
