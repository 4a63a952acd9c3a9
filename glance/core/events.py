"""What long work tells the outside while it runs. Plain data: the terminal and files render it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from glance.core.phase import Phase


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events."""

    def to_json(self) -> dict[str, Any]:
        """Return the event as one flat JSON object whose `event` names its kind."""
        return {"event": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Noted(Event):
    """Something worth knowing that stops nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something that may go wrong, and what to do about it."""

    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFetched(Event):
    """So many bytes of a base model are in the cache; `eta_seconds` to the rest, if known."""

    model: str
    bytes: int
    total_bytes: int
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """A phase's trainer is about to start; `phases_after` more are to follow.

    Its list holds `timesteps` values; each step trains on the next one.
    """

    phase: Phase
    steps: int
    phases_after: int = 0
    timesteps: int = 1


@dataclass(frozen=True, slots=True)
class PhaseSkipped(Event):
    """A phase was finished by an earlier start."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class StageEntered(Event):
    """The trainer entered a stage before or after its steps (loading, caching, saving)."""

    phase: Phase
    label: str


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """One training step: `loss` may be unknown; `eta_seconds` is the rest of this phase."""

    phase: Phase
    step: int
    steps: int
    loss: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class SamplingStep(Event):
    """One step of a picture, or of several at once; `done` of `total` over all pictures."""

    phase: Phase | None
    """None: the base model's own steps are recorded."""
    step: int
    steps: int
    done: int
    total: int
    eta_seconds: float | None = None
    task: str = "painting"
    """What it is for: pictures, a search along them, or a recording."""


@dataclass(frozen=True, slots=True)
class PictureDone(Event):
    """A picture is written, or was there already; `number` of `total`."""

    path: str
    number: int
    total: int
    seed: int
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class MemoryUsed(Event):
    """What the trainer's processes hold, in bytes: resident, and of the card where that is told."""

    phase: Phase
    resident: int
    gpu: int | None


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """The trainer wrote a checkpoint; `path` is relative to the run folder."""

    phase: Phase
    path: str


@dataclass(frozen=True, slots=True)
class TrainerSaid(Event):
    """One line of the trainer's own output."""

    phase: Phase
    line: str


@dataclass(frozen=True, slots=True)
class PhaseFinished(Event):
    """A phase's LoRA is written, verified and finalised; `lora` is relative to the run folder."""

    phase: Phase
    lora: str
    seconds: float


EventSink = Callable[[Event], None]
