"""The first Ctrl-C: let the trainer save what it has, then end it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from glance.files import write_json


class StopAfterCheckpoint:
    """While it is entered, the first Ctrl-C asks the trainer for a checkpoint and waits for it.

    Once that is saved, or after `seconds`, KeyboardInterrupt is raised in the main thread, as a
    second Ctrl-C does at once. Before the first step there is nothing to save, and elsewhere than
    in the main thread nothing to catch: then Ctrl-C is what it always is.
    """

    def __init__(self, requests: Path, seconds: float, say: Callable[[str], None]) -> None:
        """Stand ready to write `requests`, which the trainer reads after each step."""
        self._requests = requests
        self._seconds = seconds
        self._say = say
        self._turn = threading.Lock()
        self._saved = threading.Event()
        self._has_steps = False
        self._is_over = False
        self.is_asked = False

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Catch Ctrl-C while the block runs."""
        write_json(self._requests, {})
        catches = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
            and self._seconds > 0
        )
        if catches:
            signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            with self._turn:
                self._is_over = True
            self._saved.set()
            if catches:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            self._requests.unlink(missing_ok=True)

    def note_step(self) -> None:
        """Learn that there is something to save."""
        self._has_steps = True

    def note_checkpoint(self) -> None:
        """Learn that a checkpoint is saved and sealed."""
        if self.is_asked:
            self._saved.set()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread, in the middle of anything: so all else is another's."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not self._has_steps:
            signal.default_int_handler(number, frame)
        self.is_asked = True
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        write_json(self._requests, {"manual_checkpoint": 1})
        self._say(
            f"stopping at the next checkpoint, within {self._seconds:g} s; Ctrl-C again: at once"
        )
        self._saved.wait(self._seconds)
        with self._turn:
            if not self._is_over:
                main = threading.main_thread().ident
                assert main is not None  # it has been started
                signal.pthread_kill(main, signal.SIGINT)  # wakes it up where it reads
