"""Events come from several threads, the trainer's output and its webhook; a sink sees one line."""

import threading

from glance.events import Event, EventSink


class Relay:
    """Hands on events that come from several threads: one at a time, and none after the end.

    A sink that fails on one of the webhook's threads does so in the main thread, with the next
    event there: only then it ends the training.
    """

    def __init__(self, sink: EventSink) -> None:
        """Stand in front of `sink`."""
        self._sink = sink
        self._turn = threading.Lock()
        self._failure: Exception | None = None
        self._is_open = True

    def send(self, event: Event) -> None:
        """Hand on an event of the main thread; raise what the sink raises."""
        with self._turn:
            self.check()
            self._sink(event)

    def send_from_thread(self, event: Event) -> None:
        """Hand on an event of another thread; keep what the sink raises for the main one."""
        with self._turn:
            if self._is_open and not self._failure:
                try:
                    self._sink(event)
                except Exception as exc:  # noqa: BLE001 - raised where it can be handled
                    self._failure = exc

    def close(self) -> None:
        """Let nothing through any more from other threads."""
        with self._turn:
            self._is_open = False

    def check(self) -> None:
        """Raise what the sink raised on another thread."""
        if self._failure:
            raise self._failure
