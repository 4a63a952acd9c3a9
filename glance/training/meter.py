"""What a phase really takes: its losses, which it keeps, its steps' time, the trainer's memory."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psutil

from glance.core.device import gpu_users
from glance.core.events import EventSink, MemoryUsed, StepDone, mean_of_round
from glance.core.phase import Phase
from glance.runs.losses import LossLog
from glance.runs.manifest import Measured

_EVERY_SECONDS: Final = 2.0


class Meter:
    """Watches one start of the trainer."""

    def __init__(
        self, phase: Phase, timesteps: int, device: int, log: LossLog, on_event: EventSink
    ) -> None:
        """Stand ready for steps that take so many timesteps in turn.

        `on_event` is told the memory, of the card `device` too, from a thread.
        """
        self._phase = phase
        self._timesteps = timesteps
        self._device = device
        self._log = log
        self._on_event = on_event
        self._losses: list[float] = []
        self._times: list[float] = []
        self._peak = 0
        self._peak_gpu: int | None = None

    def note(self, event: StepDone) -> None:
        """Learn of a step."""
        self._times.append(time.monotonic())
        if event.loss is not None:
            self._losses.append(event.loss)
            self._log.note(event.step, event.loss)

    @property
    def measured(self) -> Measured:
        """What was seen so far."""
        steps, losses, size = len(self._times), self._losses, self._timesteps
        pace = (self._times[-1] - self._times[0]) / (steps - 1) if steps > 1 else None
        return Measured(
            steps=steps,
            seconds_a_step=None if pace is None else round(pace, 4),
            first_loss=mean_of_round(losses[:size]) if len(losses) >= size else None,
            last_loss=mean_of_round(losses[-size:]) if len(losses) >= size else None,
            peak_bytes=self._peak or None,
            peak_gpu_bytes=self._peak_gpu,
        )

    @contextmanager
    def watching(self, processes: Callable[[], list[psutil.Process]]) -> Iterator[None]:
        """Watch the memory of `processes()` while the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over, processes), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event, processes: Callable[[], list[psutil.Process]]) -> None:
        while not over.wait(_EVERY_SECONDS):
            held = dict(_held(processes()))
            resident = sum(held.values())
            gpu = sum(size for pid, size in gpu_users(self._device) if pid in held)
            self._peak = max(self._peak, resident)
            if gpu:
                self._peak_gpu = max(self._peak_gpu or 0, gpu)
            self._on_event(MemoryUsed(self._phase, resident, gpu or None))


def _held(processes: list[psutil.Process]) -> Iterator[tuple[int, int]]:
    """Yield process ids and resident bytes."""
    for process in processes:
        with suppress(psutil.Error):  # it has just ended
            yield process.pid, int(process.memory_info().rss)
