"""How far a sampling is, and what its parts took."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from glance.core.events import EventSink, SamplingStep
from glance.core.phase import Phase
from glance.sampling.pipeline.phases import now


@dataclass(slots=True)
class Counted:
    """Says after each step how far the whole is: a step counts once for each picture."""

    total: int
    on_event: EventSink
    done: int = 0
    most: int = sys.maxsize
    """So many pictures at a time memory suffices for, as far as was tried."""

    def steps(self, phase: Phase, steps: int, *, pictures: int) -> Callable[[int], None]:
        """Return what a phase of so many steps, of so many pictures at once, is to call."""

        def on_step(step: int) -> None:
            self.done += pictures
            self.on_event(SamplingStep(phase, step, steps, self.done, self.total))

        return on_step


class Clock:
    """Laps of one piece of work, in seconds."""

    def __init__(self) -> None:
        """Begin the first lap."""
        self._since = now()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str, *, until: float | None = None) -> None:
        """End a lap, now or at an earlier `now()`, and begin the next one."""
        end = now() if until is None else until
        self.seconds[name] = end - self._since
        self._since = end
