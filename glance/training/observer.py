"""All that watches one start of the trainer: who is told, what is measured, sealed, saved."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from glance.events import (
    CheckpointSaved,
    Event,
    EventSink,
    Noted,
    StageEntered,
    StepDone,
    TrainerSaid,
)
from glance.run import RunFolder
from glance.schedule import Phase
from glance.simpletuner.config import REQUESTS_FILE
from glance.training.checkpoints import Sealer
from glance.training.meter import Meter
from glance.training.relay import Relay
from glance.training.stopping import StopAfterCheckpoint

_REMEMBERED_LINES: Final = 400


class Observer:
    """Hears the trainer's lines in the main thread, and its events on others."""

    def __init__(
        self, run: RunFolder, phase: Phase, *, sealer: Sealer, sink: EventSink, stop_within: float
    ) -> None:
        """Stand ready to tell `sink`."""
        self.lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self.meter = Meter(phase, self._tell)
        self._run = run
        self._phase = phase
        self._sealer = sealer
        self._relay = Relay(sink)
        self._stop = StopAfterCheckpoint(
            run.path / REQUESTS_FILE, stop_within, lambda text: self._tell(Noted(text))
        )
        self._sealers: ThreadPoolExecutor | None = None
        self._sealing: list[Future[None]] = []

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether a first Ctrl-C has come."""
        return self._stop.is_asked

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Watch while the block runs; afterwards raise what a sink or the sealing raised."""
        self._relay.send(StageEntered(self._phase, "Starting SimpleTuner"))
        try:
            with (
                self._stop.catching(),
                self.meter.watching(),
                ThreadPoolExecutor(1) as self._sealers,
            ):
                yield
            for sealed in self._sealing:
                sealed.result()
        finally:
            self._relay.close()
        self._relay.check()

    def on_line(self, line: str) -> None:
        """Hear a line of the trainer's output."""
        self.lines.append(line)
        self._relay.send(TrainerSaid(self._phase, line))

    def on_event(self, event: Event) -> None:
        """Hear an event, on any thread."""
        self._tell(event)
        if isinstance(event, StepDone):
            self.meter.note(event)
            self._stop.note_step()
        elif isinstance(event, CheckpointSaved) and self._sealers is not None:
            # the trainer waits until its event is heard: so somebody else hashes a gigabyte
            self._sealing.append(self._sealers.submit(self._seal, event))

    def _seal(self, event: CheckpointSaved) -> None:
        with suppress(OSError):  # a full disk, or SimpleTuner has replaced it already
            self._sealer.seal(self._run.output(self._phase) / Path(event.path).name)
            self._stop.note_checkpoint()

    def _tell(self, event: Event) -> None:
        self._relay.send_from_thread(event)
