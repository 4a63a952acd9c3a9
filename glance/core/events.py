"""What long work tells the outside while it runs. Plain data: the terminal and files render it."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

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
    task: str = "sampling"
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
class PreviewDone(Event):
    """The pair as it is after that step of its second phase is sampled: one image a prompt."""

    step: int
    paths: tuple[str, ...]


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

_BARS: Final = "▁▂▃▄▅▆▇█"
_SHOWN_LOSSES: Final = 8
_PACE_STEPS: Final = 20  # the pace is that of the last steps: the first one compiles
_LEAST_LOSS: Final = 1e-12  # 0 has no logarithm


class Pace:
    """Learns from the events of one training."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # seconds
        self._phases_after = 0
        self._began = clock()
        self._times: deque[float] = deque(maxlen=_PACE_STEPS + 1)
        self._round: deque[float] = deque(maxlen=1)
        self._losses: deque[float] = deque(maxlen=_SHOWN_LOSSES)  # means of rounds
        self._memory: MemoryUsed | None = None

    def note(self, event: Event) -> None:
        """Learn of a phase that begins, a step, or what the trainer holds."""
        match event:
            case PhaseStarted():
                self._phases_after = event.phases_after
                self._began = self._clock()
                self._times.clear()
                self._round = deque(maxlen=event.timesteps)
                self._losses.clear()
            case StepDone():
                self._times.append(self._clock())
                if event.loss is not None:
                    self._round.append(event.loss)
                    if len(self._round) == self._round.maxlen:
                        self._losses.append(mean_of_round(self._round))
            case MemoryUsed():
                self._memory = event
            case _:
                pass

    def describe(self, event: StepDone, *, drawn: bool) -> str:
        """Return the figures after a step; `drawn`: with the course of the loss, in Unicode.

        The loss is the mean of the last round: that of one step is its timestep's.
        """
        parts = []
        if self._losses:
            parts.append(f"loss {self._losses[-1]:.4f}{f' {self.sparkline():8}' if drawn else ''}")
        if len(self._times) > 1:
            pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
            parts.append(f"{pace:.2f} s a step")
        if event.eta_seconds is not None:
            left = f"{format_duration(event.eta_seconds)} left"
            if self._phases_after:  # each takes what this one does
                whole = self._clock() - self._began + event.eta_seconds
                in_all = event.eta_seconds + self._phases_after * whole
                left += f", {format_duration(in_all)} in all"
            parts.append(left)
        if self._memory is not None:
            held = self._memory.gpu or self._memory.resident
            parts.append(f"{held / 1e9:.1f} GB{' of the card' if self._memory.gpu else ''}")
        return "".join(f"  {part}" for part in parts)

    def sparkline(self) -> str:
        """Return the last losses as a line of bars."""
        low, high = min(self._losses, default=0.0), max(self._losses, default=0.0)
        scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
        return "".join(_BARS[round((loss - low) * scale)] for loss in self._losses)


def mean_of_round(losses: Sequence[float]) -> float:
    """Return the geometric mean of the losses of a round: of one step at each timestep of the list.

    The loss differs from one timestep to the next by far more than training changes it. In a whole
    round their levels cancel, and a change counts by its share, whatever the level. A median would
    show one timestep and hide the others.
    """
    logarithms = [math.log(max(loss, _LEAST_LOSS)) for loss in losses]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def format_duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
