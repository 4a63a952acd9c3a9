"""SimpleTuner as a process: how it is started, what it tells meanwhile, and why it failed.

The user's environment would leak into the trainer in many ways (a personal accelerate config,
CONFIG_PATH, MIXED_PRECISION, TRAINING_NUM_PROCESSES and their like). So the child gets what is
listed here and nothing else. Its progress comes as its own webhook events over loopback: no log is
scraped. Only of a failed start the output's last lines are read for the cause, and what to do.
"""

import json
import math
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from glance.core.device import Device, cpu_cores, pin_device
from glance.core.errors import KILLED
from glance.core.events import CheckpointSaved, Event, StageEntered, StepDone
from glance.core.phase import Phase
from glance.runs.folder import environment
from glance.training.request import Launcher
from glance.training.simpletuner.config import (
    ACCELERATE_FILE,
    MODEL_VARIABLE,
    PINNING_VARIABLE,
    REQUESTS_VARIABLE,
    SEED_VARIABLE,
    TARGETS_VARIABLE,
    WEBHOOK_VARIABLE,
    requests_file,
    targets_file,
)

_INSIDE: Final = Path(__file__).parent / "inside"
_PASSED: Final = frozenset(
    {
        # who and where
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
        "PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
        # the network and its certificates
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
        # the Hub
        "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT",
        "HF_XET_CACHE", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT",
        "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN",
        # compilers and caches
        "TORCH_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CC", "CXX",
    }
)  # fmt: skip
_PASSED_PREFIXES: Final = ("LC_", "XDG_", "CUDA_", "NVIDIA_", "PYTORCH_", "OMP_", "MKL_")
_SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def build_environment(
    user: Mapping[str, str],
    *,
    phase: Phase,
    launcher: Launcher,
    program: Path,
    device: Device,
    number: int = 0,
    model: str | None = None,
    mixed_precision: str,
    seed: int,
    webhook: str,
    needs_hub: bool,
    is_taught: bool = False,
    at_once: int = 1,
) -> dict[str, str]:
    """Return the whole environment of the trainer; `user` is the one that glance itself runs in.

    `number` is that of the CUDA device among those that glance sees. `model` is where a base model
    is that lies elsewhere than in the run, as seen from there. `is_taught`: the LoRA learns
    recorded targets. `at_once` trainers share this machine.
    """
    child = {
        key: value
        for key, value in user.items()
        if key in _PASSED or key.startswith(_PASSED_PREFIXES)
    }
    child |= {
        # the simpletuner command starts `accelerate` by name
        "PATH": _joined(str(program.parent), user.get("PATH")),
        # progress must not travel through a proxy
        "NO_PROXY": _joined("127.0.0.1,localhost", user.get("NO_PROXY"), ","),
        "no_proxy": _joined("127.0.0.1,localhost", user.get("no_proxy"), ","),
        "CONFIG_BACKEND": "json",
        "ACCELERATE_CONFIG_PATH": ACCELERATE_FILE,
        "MIXED_PRECISION": mixed_precision,
        "TRAINING_NUM_PROCESSES": "1",
        "TRAINING_NUM_MACHINES": "1",
        "TRAINING_DYNAMO_BACKEND": "no",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "SIMPLETUNER_DISABLE_COLORS": "1",
        "PYTHONUNBUFFERED": "1",
        WEBHOOK_VARIABLE: webhook,
        REQUESTS_VARIABLE: requests_file(phase),
        SEED_VARIABLE: str(seed),
        "PYTHONHASHSEED": "0",  # else pictures come in another order at each start
        "PYTHONPATH": _joined(str(_INSIDE), user.get("PYTHONPATH")),
    }
    if model is not None:
        child[MODEL_VARIABLE] = model
    if not needs_hub:
        child["HF_HUB_OFFLINE"] = "1"  # everything it needs is on the disk
    if device is Device.CUDA:
        child = pin_device(child, number)
    if device is Device.CPU:
        child["CUDA_VISIBLE_DEVICES"] = ""  # else an accelerator that is there would be taken
        child[PINNING_VARIABLE] = "1"
        if at_once > 1:  # two that take all cores each are slower than one after the other
            child.setdefault("OMP_NUM_THREADS", str(max(1, cpu_cores() // at_once)))
    if is_taught:
        child[TARGETS_VARIABLE] = targets_file(phase)
    if launcher is Launcher.DIRECT:
        # what the layers that it leaves out would have told the trainer: simpletuner/cli/train.py
        # and accelerate/utils/launch.py
        child |= {
            "ENV": environment(phase),
            "ACCELERATE_MIXED_PRECISION": mixed_precision,
            "ACCELERATE_USE_CPU": str(device is Device.CPU),
            "ACCELERATE_DYNAMO_BACKEND": "NO",
        }
    return child


def find_secrets(user: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tokens in the environment: they must not reach a log."""
    return tuple(user[name] for name in _SECRETS if user.get(name))


def _joined(first: str, rest: str | None, separator: str = os.pathsep) -> str:
    return first + separator + rest if rest else first


# --- what it tells ---

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
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
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


# --- why it failed ---

_TAIL_LINES: Final = 12


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
        "close other programs that use it; then a smaller --resolution, or the settings of a "
        "smaller card: --vram 16, 12 or 8",
    ),
    (
        r"No space left on device|Errno 28|Disk quota exceeded",
        "the disk is full",
        "free some space and run the same command again: it continues",
    ),
    (
        r"DefaultCPUAllocator: .*allocate memory|MemoryError|Cannot allocate memory",
        "the system ran out of memory",
        "close other programs; to quantise FLUX to int8 takes about 50 GB: with a card of 32 GB or "
        "more use --set quantize_via=accelerator, with another --vram 16, which is 4 bits",
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
        r"GPU circuit breaker (?:OPEN|is open)|GPUHealthError",
        "SimpleTuner stopped because a GPU reported a fault, or slowed itself down",
        "cool the card, or limit its power (`nvidia-smi -pl`), and run the same command again: it "
        "continues",
    ),
    (r"died with <Signals\.SIGKILL", *_OUT_OF_SYSTEM_MEMORY),  # accelerate's words
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
    if returncode == KILLED:
        return Diagnosis(*_OUT_OF_SYSTEM_MEMORY, tail)
    return Diagnosis(None, None, tail)
