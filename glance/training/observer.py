"""All that watches one start of the trainer: what it says is handed on, measured, sealed."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from glance.core.events import (
    CheckpointSaved,
    Event,
    EventSink,
    StageEntered,
    StepDone,
    TrainerSaid,
)
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.training.checkpoints import Sealer, checkpoint_names, seal_new, step_of
from glance.training.meter import Meter

_REMEMBERED_LINES: Final = 400


@dataclass(frozen=True, slots=True)
class CheckpointSealed(Event):
    """A checkpoint of the phase is whole, and glance has put its seal on it."""

    phase: Phase
    step: int


class Observer:
    """Hears the trainer's lines on one thread and its events on others."""

    def __init__(
        self, run: RunFolder, phase: Phase, *, meter: Meter, sealer: Sealer, sink: EventSink
    ) -> None:
        """Stand ready to tell `sink`, from any thread."""
        self.lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self.meter = meter
        self._run = run
        self._phase = phase
        self._sealer = sealer
        self._tell = sink
        self._sealers: ThreadPoolExecutor | None = None
        self._sealing: list[Future[None]] = []

    @contextmanager
    def observing(self, processes: Callable[[], list[psutil.Process]]) -> Iterator[None]:
        """Watch while the block runs; afterwards raise what the sealing raised.

        The trainer may be ended after it has written a checkpoint, before it has told so: that one
        is sealed at the end of the block, however that comes.
        """
        self._tell(StageEntered(self._phase, "Starting SimpleTuner"))
        known = checkpoint_names(self._run, self._phase)
        try:
            with self.meter.watching(processes), ThreadPoolExecutor(1) as self._sealers:
                yield
        finally:
            with suppress(OSError):  # a full disk
                seal_new(self._run, self._phase, self._sealer, known=known)
        for sealed in self._sealing:
            sealed.result()

    def on_line(self, line: str) -> None:
        """Hear a line of the trainer's output."""
        self.lines.append(line)
        self._tell(TrainerSaid(self._phase, line))

    def on_event(self, event: Event) -> None:
        """Hear an event, on any thread."""
        self._tell(event)
        if isinstance(event, StepDone):
            self.meter.note(event)
        elif isinstance(event, CheckpointSaved) and self._sealers is not None:
            # the trainer waits until its event is heard: so somebody else hashes a gigabyte
            with suppress(RuntimeError):  # the trainer is gone: it is sealed with what is left
                self._sealing.append(self._sealers.submit(self._seal, event))

    def _seal(self, event: CheckpointSaved) -> None:
        checkpoint = self._run.output(self._phase) / Path(event.path).name
        step = step_of(checkpoint)
        if step is None:
            return
        with suppress(OSError):  # a full disk, or SimpleTuner has replaced it already
            self._sealer.seal(checkpoint)
            self._tell(CheckpointSealed(self._phase, step))
