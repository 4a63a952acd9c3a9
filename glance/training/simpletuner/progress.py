"""Progress, as SimpleTuner posts it: its structured events over loopback, no log scraping."""

import json
import math
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from glance.core.events import CheckpointSaved, Event, StageEntered, StepDone
from glance.core.phase import Phase

_CHECKPOINT_STAGE = "checkpoint_save"  # `training.checkpoint` follows, which says more
_LONGEST_BODY = 4 * 1024 * 1024  # a validation image may travel with an event


def parse_event(payload: object, phase: Phase) -> Event | None:
    """Translate one posted document; None for what glance does not show. Never raises."""
    if not isinstance(payload, Mapping):
        return None
    match payload.get("type"):
        case "training.status":
            return _parse_step(_mapping(payload, "progress"), phase)
        case "lifecycle.stage":
            stage = _mapping(payload, "stage")
            if not stage.get("label") or stage.get("key") == _CHECKPOINT_STAGE:
                return None
            return StageEntered(phase, str(stage["label"]))
        case "training.checkpoint":
            path = _mapping(payload, "checkpoint").get("path")
            return CheckpointSaved(phase, str(path)) if path else None
        case _:
            return None


@contextmanager
def listening(phase: Phase, on_event: Callable[[Event], None]) -> Iterator[str]:
    """Receive events while the block runs; yields SimpleTuner's `webhook_config` as JSON.

    Listens on loopback only, on a port of the system's choice, under a secret path; bodies are
    bounded. Events arrive on threads of their own, one at a time, before the trainer
    goes on. Repeats are dropped.
    """
    path = f"/{secrets.token_urlsafe(24)}"
    turn = threading.Lock()
    last: list[Event] = []

    def receive(body: bytes) -> None:
        try:
            event = parse_event(json.loads(body), phase)
        except (ValueError, RecursionError):
            return
        with turn:
            if event is not None and [event] != last:
                last[:] = [event]
                on_event(event)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not secrets.compare_digest(self.path.encode(), path.encode()):
                self.send_error(404)
            elif not length.isdecimal() or int(length) > _LONGEST_BODY:
                self.send_error(413)
            else:
                receive(self.rfile.read(int(length)))
                self.send_response(204)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass  # the terminal is not ours here

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
    )
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}{path}"
        yield json.dumps({"webhook_type": "raw", "callback_url": url, "log_level": "debug"})
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # socketserver's 5 turns posts away when the machine is busy

    def handle_error(self, request: Any, client_address: Any) -> None:
        # a trainer that ended in the middle of a post is no news
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _parse_step(progress: Mapping[str, Any], phase: Phase) -> Event | None:
    step, steps = (int(_number(progress.get(key)) or 0) for key in ("current", "total"))
    if step < 1 or steps < 1 or progress.get("label"):  # labelled: announced, not done
        return None
    loss = _number(_mapping(progress, "metrics").get("loss"))
    return StepDone(phase, step, steps, loss, _number(progress.get("eta_seconds")))


def _mapping(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    """Return a finite number; Python's JSON also holds NaN, infinity and integers without end."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
