"""What a phase really took: its losses, its steps' time, the trainer's memory."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psutil

from glance.device import gpu_users
from glance.events import Event, MemoryUsed, StepDone
from glance.run import Measured
from glance.schedule import Phase

_EVERY_SECONDS: Final = 2.0
_WINDOW: Final = 10  # losses of single steps are noisy: a timestep and a draw of noise each


class Meter:
    """Watches one start of the trainer."""

    def __init__(self, phase: Phase, on_event: Callable[[Event], None]) -> None:
        """Stand ready; `on_event` is told the memory from another thread."""
        self._phase = phase
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

    @property
    def measured(self) -> Measured:
        """What was seen so far."""
        steps, window = len(self._times), min(_WINDOW, len(self._losses) // 2) or 1
        pace = (self._times[-1] - self._times[0]) / (steps - 1) if steps > 1 else None
        return Measured(
            steps=steps,
            seconds_a_step=None if pace is None else round(pace, 4),
            first_loss=_mean(self._losses[:window]),
            last_loss=_mean(self._losses[-window:]),
            peak_bytes=self._peak or None,
            peak_gpu_bytes=self._peak_gpu,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the memory of every process below this one while the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_EVERY_SECONDS):
            tree = _tree()
            resident = sum(size for _, size in tree)
            gpu = sum(size for pid, size in gpu_users() if pid in {pid for pid, _ in tree})
            self._peak = max(self._peak, resident)
            if gpu:
                self._peak_gpu = max(self._peak_gpu or 0, gpu)
            self._on_event(MemoryUsed(self._phase, resident, gpu or None))


def _tree() -> list[tuple[int, int]]:
    """Return process ids and resident bytes of all descendants."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append((process.pid, int(process.memory_info().rss)))
        except psutil.Error:  # it has just ended
            continue
    return found


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
