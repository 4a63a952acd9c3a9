"""The first Ctrl-C: let the trainers save what they have, then end them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

from glance.core.files import write_json
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.training.simpletuner.config import requests_file

_NOTHING: Final[dict[str, int]] = {}
_CHECKPOINT: Final = {"manual_checkpoint": 1}


@contextmanager
def first_interrupt(tell: Callable[[], None], *, seconds: float) -> Iterator[None]:
    """Let the first Ctrl-C do no more than `tell`; a second one is what it always is.

    So is the first when `seconds` is 0, and elsewhere than in the main thread.
    """
    catches = (
        seconds > 0
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not catches:
        yield
        return

    def on_interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def open_to_requests(run: RunFolder, phase: Phase) -> Iterator[None]:
    """Keep the file that the trainer of `phase` reads after each step."""
    path = run.path / requests_file(phase)
    write_json(path, _NOTHING)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


class Stopping:
    """What was asked of which trainer, and how long it is waited for."""

    def __init__(self, run: RunFolder, *, seconds: float) -> None:
        """Ask for nothing yet."""
        self._run = run
        self._seconds = seconds
        self._deadline: float | None = None
        self._unsaved: dict[Phase, int] = {}

    @property
    def is_asked(self) -> bool:
        """Whether a first Ctrl-C has come."""
        return self._deadline is not None

    def ask(self, steps: Mapping[Phase, int]) -> None:
        """Ask the trainers of these phases for a checkpoint; `steps` they have done."""
        self._deadline = time.monotonic() + self._seconds
        self._unsaved = dict(steps)
        for phase in steps:
            write_json(self._run.path / requests_file(phase), _CHECKPOINT)

    def note_saved(self, phase: Phase, step: int) -> None:
        """Learn that a checkpoint is saved and sealed; one from before the asking is not enough."""
        if step >= self._unsaved.get(phase, 0):
            self.note_end(phase)

    def note_end(self, phase: Phase) -> None:
        """Learn that nothing more is to come of the phase."""
        self._unsaved.pop(phase, None)

    def seconds_left(self) -> float | None:
        """Return how long to wait for the next news, None: for ever; 0: it is time to end."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic()) if self._unsaved else 0.0
