"""What the trainer tells: its progress, and why it failed.

Progress is what SimpleTuner posts, its structured events over loopback: no log is scraped. Only of
a failed start the output's last lines are read for the cause, and what to do about it.
"""

import json
import math
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from glance.core.events import CheckpointSaved, Event, StageEntered, StepDone
from glance.core.phase import Phase

_TAIL_LINES: Final = 12
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


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a trainer failed, as far as its output tells."""

    cause: str | None
    remedy: str | None
    tail: tuple[str, ...]


_OUT_OF_SYSTEM_MEMORY: Final = (
    "it was killed, most likely because the system ran out of memory",
    "close other programs, or use a smaller --resolution",
)

# First match wins: the more telling failures stand above those that follow from them.
_KNOWN: Final[tuple[tuple[str, str, str], ...]] = (
    (
        r"GatedRepoError|gated repo|Access to model .* is restricted|401 Client Error",
        "the base model is gated, and there is no token with a right to it",
        "accept the licence on the model's page, then `hf auth login` or set HF_TOKEN",
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|HIP out of memory",
        "the accelerator ran out of memory",
        "close other programs that use it; then a smaller --resolution, or "
        "--set base_model_precision=int4-quanto",
    ),
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        "the disk is full",
        "free some space and run the same command again: it continues",
    ),
    (
        r"DefaultCPUAllocator: .*allocate memory|MemoryError|Cannot allocate memory",
        "the system ran out of memory",
        "close other programs; quantising FLUX takes about 50 GB, with a card of 32 GB or more "
        "use --set quantize_via=accelerator",
    ),
    (
        r"RepositoryNotFoundError|404 Client Error|is not a local folder and is not a valid model"
        r"|does not appear to have a file named|no file named .* found in directory"
        r"|LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic has been disabled",
        "the base model was not found",
        "check --model: a Hub id such as black-forest-labs/FLUX.1-dev, or a folder in diffusers "
        "layout; and whether HF_HUB_OFFLINE is set",
    ),
    (
        r"died with <Signals\.SIGKILL",  # accelerate's words
        *_OUT_OF_SYSTEM_MEMORY,
    ),
    (
        r"unrecognized arguments|error: argument --|invalid choice",
        "SimpleTuner did not accept an option",
        "check the --set options",
    ),
)
_FITTING: Final = (
    "install the SimpleTuner that glance names in its dependencies; if it is that one, the "
    "recordings are damaged: make them anew in another --run"
)
_KILLED: Final = 128 + 9
_NOISE: Final = re.compile(
    r"TorchDynamo|FutureWarning|UserWarning|warnings\.warn|\|\s*\d+/\d+|register_constant"
    r"|CalledProcessError|accelerate/commands|Function, Runtimes|^\W*$"
)


def diagnose(lines: Sequence[str], returncode: int) -> Diagnosis:
    """Return the cause and remedy that the output speaks of, and its last telling lines.

    `lines` is the end of the output; `returncode` of the trainer, as a shell counts it.
    """
    telling = [line for line in lines if not _NOISE.search(line)]
    tail = tuple(telling[-_TAIL_LINES:])
    text = "\n".join(lines)
    if refused := re.search(r"^glance cannot teach SimpleTuner: .+", text, re.MULTILINE):
        return Diagnosis(refused[0], _FITTING, tail)
    for pattern, cause, remedy in _KNOWN:
        if re.search(pattern, text):
            return Diagnosis(cause, remedy, tail)
    if returncode == _KILLED:
        return Diagnosis(*_OUT_OF_SYSTEM_MEMORY, tail)
    return Diagnosis(None, None, tail)
