"""SimpleTuner's process: its environment, the events that it posts, and why it failed."""

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import pytest

from glance.core.device import Device
from glance.core.events import CheckpointSaved, Event, StageEntered, StepDone
from glance.core.phase import Phase
from glance.training.machine import find_program
from glance.training.request import Launcher
from glance.training.simpletuner import process
from glance.training.simpletuner.config import build_command
from glance.training.simpletuner.process import (
    Diagnosis,
    build_environment,
    diagnose,
    find_secrets,
    listening,
    parse_event,
)

INSIDE = str(Path(process.__file__).parent / "inside")
_OURS = """
    PATH=/venv/bin NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost CONFIG_BACKEND=json
    ACCELERATE_CONFIG_PATH=config/accelerate.json MIXED_PRECISION=bf16 TRAINING_NUM_PROCESSES=1
    TRAINING_NUM_MACHINES=1 TRAINING_DYNAMO_BACKEND=no TOKENIZERS_PARALLELISM=false
    HF_HUB_DISABLE_TELEMETRY=1 SIMPLETUNER_DISABLE_COLORS=1 PYTHONUNBUFFERED=1
    CUDA_VISIBLE_DEVICES=0 GLANCE_WEBHOOK={} GLANCE_SEED=7 PYTHONHASHSEED=0
    SIMPLETUNER_ACCELERATE_SIGNAL_FILE=config/glance-slow/requests.json
"""
OURS = {**dict(one.split("=", 1) for one in _OURS.split()), "PYTHONPATH": INSIDE}


def build(user: dict[str, str], **changes: Any) -> dict[str, str]:
    usual = {"device": Device.CUDA, "mixed_precision": "bf16", "seed": 7, "webhook": "{}"}
    usual |= {"program": Path("/venv/bin/simpletuner"), "launcher": Launcher.SIMPLETUNER}
    return build_environment(user, **{"needs_hub": True, "phase": Phase.SLOW, **usual, **changes})


def test_what_would_change_the_training_does_not_pass() -> None:
    names = """
        CONFIG_PATH CONFIG_BACKEND CONFIG_TYPE ENV ENV_PATH MIXED_PRECISION ACCELERATE_CONFIG_PATH
        ACCELERATE_USE_CPU ACCELERATE_MIXED_PRECISION ACCELERATE_EXTRA_ARGS TRAINING_NUM_PROCESSES
        TRAINING_NUM_MACHINES TRAINING_DYNAMO_BACKEND SIMPLETUNER_CONFIG_BACKEND
        SIMPLETUNER_LOG_LEVEL SIMPLETUNER_ENVIRONMENT DISABLE_UPDATES HF_HUB_DISABLE_TELEMETRY
        GLANCE_WEBHOOK RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR WANDB_API_KEY AWS_SECRET_ACCESS_KEY
        PYTHONSTARTUP PYTHONHOME LD_PRELOAD
    """
    assert build(dict.fromkeys(names.split(), "fp8")) == OURS
    assert build({}) == OURS


def test_what_the_machine_and_the_hub_need_passes() -> None:
    names = """
        HOME LANG LC_ALL TMPDIR LD_LIBRARY_PATH HF_TOKEN HF_HOME HF_HUB_OFFLINE HF_ENDPOINT
        HTTPS_PROXY https_proxy SSL_CERT_FILE XDG_CACHE_HOME CUDA_VISIBLE_DEVICES
        PYTORCH_CUDA_ALLOC_CONF OMP_NUM_THREADS
    """
    user = dict.fromkeys(names.split(), "own")

    assert build(user) == {**OURS, **user}


@pytest.mark.parametrize(
    ("user", "changes", "ours"),
    [
        ({"PATH": "/usr/bin:/bin"}, {}, {"PATH": "/venv/bin:/usr/bin:/bin"}),
        ({"NO_PROXY": "a.org"}, {}, {"NO_PROXY": "127.0.0.1,localhost,a.org"}),
        ({"no_proxy": "a.org"}, {}, {"no_proxy": "127.0.0.1,localhost,a.org"}),
        ({"PYTHONPATH": "/mine"}, {}, {"PYTHONPATH": f"{INSIDE}:/mine"}),
        ({"HF_HUB_OFFLINE": "0"}, {"needs_hub": False}, {"HF_HUB_OFFLINE": "1"}),
        ({}, {"number": 1}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ({"CUDA_VISIBLE_DEVICES": ""}, {}, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, {"number": 1}, {"CUDA_VISIBLE_DEVICES": "3"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, {}, {"CUDA_VISIBLE_DEVICES": "GPU-a"}),
        ({}, {"is_taught": True}, {"GLANCE_TARGETS": "config/glance-slow/targets.json"}),
        (
            {"CUDA_VISIBLE_DEVICES": "0"},
            {"device": Device.CPU},
            {"CUDA_VISIBLE_DEVICES": "", "GLANCE_WITHOUT_PINNING": "1"},
        ),
    ],
)
def test_what_a_start_changes(
    user: dict[str, str], changes: dict[str, Any], ours: dict[str, str]
) -> None:
    assert build(user, **changes) == {**OURS, **ours}
    assert "GLANCE_WITHOUT_PINNING" not in build(user, device=Device.MPS)


def test_trainers_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    own = build({}, device=Device.CPU)

    assert "OMP_NUM_THREADS" not in own
    assert build({}, device=Device.CPU, at_once=2) == {**own, "OMP_NUM_THREADS": "2"}
    threads = {"OMP_NUM_THREADS": "7"}
    assert build(threads, device=Device.CPU, at_once=2) == own | threads
    assert build({}, at_once=2) == OURS


def test_tokens_are_found_to_be_kept_from_logs() -> None:
    user = {"HF_TOKEN": "hf_a", "HUGGING_FACE_HUB_TOKEN": "hf_b", "HF_HOME": "/cache"}

    assert find_secrets(user) == ("hf_a", "hf_b")
    assert find_secrets({"HF_TOKEN": ""}) == ()


def test_the_direct_start_makes_up_for_what_it_leaves_out() -> None:
    direct, phase = Launcher.DIRECT, Phase.FAST

    assert build_command(phase) == ["simpletuner", "train", "--env", "glance-fast"]
    assert build_command(phase, direct) == ["python", "-P", "-m", "simpletuner.train"]
    assert find_program(direct) == Path(sys.executable)
    usual = build({}, phase=phase, device=Device.CPU, mixed_precision="no")
    told = build({}, phase=phase, device=Device.CPU, mixed_precision="no", launcher=direct)
    assert told == usual | {
        "ENV": "glance-fast",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
    }


RECORDED = Path(__file__).parents[3] / "fixtures" / "webhook.jsonl"
LIMIT = 4 * 1024 * 1024
FIRST = StepDone(Phase.SLOW, 1, 60, None, None)


def step(current: Any, total: Any = 60, **rest: Any) -> dict[str, Any]:
    return {"type": "training.status", "progress": {"current": current, "total": total, **rest}}


def test_recorded_events_are_translated() -> None:
    documents = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    events = [parse_event(document, Phase.SLOW) for document in documents]
    fourth = StepDone(Phase.SLOW, 4, 12, 1.5382087230682373, 0.8552579573333787)
    assert [event for event in events if event] == [
        StageEntered(Phase.SLOW, "Loading base model"),
        StepDone(Phase.SLOW, 1, 12, 1.664015769958496, 42.66282392899939),
        fourth,
        fourth,
        CheckpointSaved(Phase.SLOW, "output/glance-slow/checkpoint-4"),
        StageEntered(Phase.SLOW, "Saving Final Model"),
        StageEntered(Phase.SLOW, "Training Complete"),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        *(None, [], "training.status", {}, {"type": None}, {"type": ["training.status"]}),
        {"type": "training.status"},
        {"type": "training.status", "progress": None},
        {"type": "lifecycle.stage", "stage": {"label": ""}},
        {"type": "training.checkpoint", "checkpoint": []},
        {"type": "training.summary", "progress": {"current": 1, "total": 60}},
        *map(step, (0, -1, 0.5, "1", float("nan"), float("inf"), 10**400)),
        step(1, 0),
    ],
)
def test_what_tells_nothing_is_no_event(payload: object) -> None:
    assert parse_event(payload, Phase.SLOW) is None


@pytest.mark.parametrize("odd", [None, "0.5", [], {}, float("nan"), float("-inf"), 10**400])
def test_step_without_usable_figures_is_still_a_step(odd: object) -> None:
    found = StepDone(Phase.FAST, 3, 60, None, None)

    assert parse_event(step(3, eta_seconds=odd, metrics={"loss": odd}), Phase.FAST) == found
    assert parse_event(step(3, metrics=["loss"]), Phase.FAST) == found


class Listener:
    """A running receiver, and what it received."""

    def __init__(self, config: str, events: SimpleQueue[Event]) -> None:
        self.config = json.loads(config)
        self.parts = urlsplit(self.config["callback_url"])
        self.head = f"POST {self.parts.path} HTTP/1.0"
        self.events = events

    def next(self) -> Event:
        return self.events.get(timeout=10)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.parts.hostname, self.parts.port), timeout=10)

    def send(self, head: str, body: bytes = b"") -> str:
        """Send that on a connection of its own; return the answer's status."""
        with self.connect() as connection:
            connection.sendall(f"{head}\r\n\r\n".encode("latin-1") + body)
            return connection.makefile("rb").readline().split()[1].decode()

    def post(self, document: Any) -> str:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.send(f"{self.head}\r\nContent-Length: {len(body)}", body)


@pytest.fixture
def listener() -> Iterator[Listener]:
    events: SimpleQueue[Event] = SimpleQueue()
    with listening(Phase.SLOW, events.put) as config:
        yield Listener(config, events)


def test_config_is_simpletuners_raw_webhook_on_loopback(listener: Listener) -> None:
    del listener.config["callback_url"]
    assert listener.config == {"webhook_type": "raw", "log_level": "debug"}
    assert (listener.parts.scheme, listener.parts.hostname) == ("http", "127.0.0.1")
    assert len(listener.parts.path) > 20


def test_repeated_event_arrives_once(listener: Listener) -> None:
    assert listener.post(step(1)) == "204"
    assert listener.next() == FIRST
    listener.post(step(1))
    listener.post(step(2))
    assert listener.next() == StepDone(Phase.SLOW, 2, 60, None, None)


def test_garbage_is_ignored(listener: Listener, capfd: pytest.CaptureFixture[str]) -> None:
    garbage = [b"", b"{", b"\xff\xfe\xfd", b"null", b"[" * 10_000, b'{"type": 1e999}']
    assert [listener.post(body) for body in garbage] == ["204"] * 6
    listener.post(step(1))
    assert listener.next() == FIRST
    assert capfd.readouterr() == ("", "")


def test_other_paths_and_methods_are_unknown(listener: Listener) -> None:
    for path in ("/", "/guess", "/\xff"):
        assert listener.send(f"POST {path} HTTP/1.0") == "404"
    assert listener.send(f"GET {listener.parts.path} HTTP/1.0") == "501"


def test_trainer_that_ends_in_the_middle_of_a_post_is_no_error(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    with listener.connect() as connection:
        connection.sendall(f"{listener.head}\r\nContent-Length: 99\r\n\r\n{{".encode())
        reset_when_closed = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_when_closed)
    listener.post(step(1))
    assert listener.next() == FIRST
    assert capfd.readouterr() == ("", "")


def test_bodies_are_bounded(listener: Listener) -> None:
    for length in (LIMIT + 1, -1, "many", ""):
        assert listener.send(f"{listener.head}\r\nContent-Length: {length}") == "413"
    assert listener.send(listener.head) == "413"
    document = json.dumps(step(1)).encode()
    assert listener.post(document + b" " * (LIMIT - len(document))) == "204"
    assert listener.next() == FIRST


def test_each_listener_has_a_secret_of_its_own() -> None:
    with listening(Phase.SLOW, id) as one, listening(Phase.FAST, id) as other:
        urls = [urlsplit(json.loads(config)["callback_url"]) for config in (one, other)]
    assert urls[0].path != urls[1].path
    assert urls[0].port != urls[1].port


def test_nothing_listens_afterwards() -> None:
    with suppress(KeyboardInterrupt), listening(Phase.SLOW, id) as config:
        raise KeyboardInterrupt
    with pytest.raises(ConnectionRefusedError):
        Listener(config, SimpleQueue()).connect()


TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/venv/bin/accelerate", line 10, in <module>',
)
GATED = "the base model is gated, and there is no token with a right to it"
NOT_FOUND = "the base model was not found"
NO_VRAM = "the accelerator ran out of memory"
NO_RAM = "the system ran out of memory"
KILLED = "it was killed, most likely because the system ran out of memory"
SLOWED = "SimpleTuner stopped because a GPU reported a fault, or slowed itself down"
OPTION = "SimpleTuner did not accept an option"
UNTAUGHT = "glance cannot teach SimpleTuner: it is made for another version"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1)", GATED),
        ("401 Client Error. Access to model black-forest-labs/FLUX.1-dev is restricted.", GATED),
        ("OSError: You are trying to access a gated repo.", GATED),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 72.00 MiB.", NO_VRAM),
        ("torch.cuda.OutOfMemoryError: HIP out of memory.", NO_VRAM),
        ("OSError: [Errno 28] No space left on device: 'output/x'", "the disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "the disk is full"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", NO_RAM),
        ("MemoryError", NO_RAM),
        ("OSError: [Errno 12] Cannot allocate memory", NO_RAM),
        ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", NOT_FOUND),
        ("OSError: me/flux is not a local folder and is not a valid model identifier", NOT_FOUND),
        ("OSError: Error no file named model_index.json found in directory ./x.", NOT_FOUND),
        ("OSError: me/x does not appear to have a file named config.json.", NOT_FOUND),
        ("LocalEntryNotFoundError: outgoing traffic has been disabled.", NOT_FOUND),
        ("main.py: error: argument --lr_scheduler: invalid choice: 'warm'", OPTION),
        ("GPUHealthError: GPU circuit breaker is open due to hardware fault", SLOWED),
        ("INFO: GPU circuit breaker initialized with 1 GPU(s)", None),
    ],
)
def test_telling_line_names_the_cause_and_a_remedy(line: str, cause: str | None) -> None:
    found = diagnose([*TRACEBACK, line], 1)
    assert (found.cause, found.tail) == (cause, (*TRACEBACK, line))
    assert bool(found.remedy) == bool(cause)


@pytest.mark.parametrize(
    ("lines", "code", "cause"),
    [
        (["OutOfMemoryError: CUDA out of memory.", "[Errno 28] No space left"], 1, NO_VRAM),
        (["[Errno 28] No space left", "OutOfMemoryError: CUDA out of memory."], 1, NO_VRAM),
        (["RuntimeError: CUDA out of memory."], 137, NO_VRAM),
        (["loading weights"], 137, KILLED),
        (["CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>."], 1, KILLED),
        ([UNTAUGHT], 1, UNTAUGHT),
        *((["the flux capacitor is missing"], code, None) for code in (1, 2, 139, 143)),
        ([], 1, None),
    ],
)
def test_what_tells_more_goes_first(lines: list[str], code: int, cause: str | None) -> None:
    found = diagnose(lines, code)

    assert found.cause == cause
    if cause is None:
        assert found == Diagnosis(None, None, tuple(lines))


def test_the_tail_is_the_last_telling_lines() -> None:
    noise = [
        "",
        "  ----------  ",
        "Epoch 1/1, Steps:  20%|██        | 12/60 [00:10<00:40,  1.2it/s]",
        "/venv/lib/torch/x.py:10: FutureWarning: `torch.y` is deprecated",
        "  warnings.warn(",
        "W1123 torch/fx/_pytree.py] register_constant is deprecated",
        "Function, Runtimes (s)",
        "TorchDynamo compilation metrics:",
        "subprocess.CalledProcessError: Command '[python, train.py]' returned exit status 1.",
        '  File "/venv/lib/accelerate/commands/launch.py", line 1, in main',
    ]
    lines = [f"line {number}" for number in range(100)]

    assert diagnose([*noise, *lines, *noise], 1).tail == tuple(lines[-12:])
