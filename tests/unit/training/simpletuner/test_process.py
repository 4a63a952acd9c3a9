"""SimpleTuner's process: its environment, the events that it posts, and why it failed."""

import http.client
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
OURS = {
    "PATH": "/venv/bin",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "CONFIG_BACKEND": "json",
    "ACCELERATE_CONFIG_PATH": "config/accelerate.json",
    "MIXED_PRECISION": "bf16",
    "TRAINING_NUM_PROCESSES": "1",
    "TRAINING_NUM_MACHINES": "1",
    "TRAINING_DYNAMO_BACKEND": "no",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "SIMPLETUNER_DISABLE_COLORS": "1",
    "PYTHONUNBUFFERED": "1",
    "CUDA_VISIBLE_DEVICES": "0",
    "GLANCE_WEBHOOK": "{}",
    "SIMPLETUNER_ACCELERATE_SIGNAL_FILE": "config/glance-slow/requests.json",
    "GLANCE_SEED": "7",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": INSIDE,
}


def build(user: dict[str, str], **changes: Any) -> dict[str, str]:
    values: dict[str, Any] = {
        "device": Device.CUDA,
        "mixed_precision": "bf16",
        "seed": 7,
        "program": Path("/venv/bin/simpletuner"),
        "webhook": "{}",
        "needs_hub": True,
        "phase": Phase.SLOW,
        "launcher": Launcher.SIMPLETUNER,
    }
    return build_environment(user, **{**values, **changes})


# How it is started


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
    assert (Path(INSIDE) / "sitecustomize.py").is_file()


def test_without_a_card_pinning_is_done_without_on_the_cpu_alone() -> None:
    found = build({}, device=Device.MPS)

    assert found == {name: OURS[name] for name in found}


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


@pytest.mark.parametrize("phase", Phase)
def test_the_direct_start_makes_up_for_what_it_leaves_out(phase: Phase) -> None:
    direct, environment = Launcher.DIRECT, f"glance-{phase}"

    assert build_command(phase) == ["simpletuner", "train", "--env", environment]
    assert build_command(phase, direct) == ["python", "-P", "-m", "simpletuner.train"]
    assert find_program(direct) == Path(sys.executable)
    usual = build({}, phase=phase, device=Device.CPU, mixed_precision="no")
    told = build({}, phase=phase, device=Device.CPU, mixed_precision="no", launcher=direct)
    assert told == usual | {
        "ENV": environment,
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
    }


# What it tells

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


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
status = st.fixed_dictionaries({"current": anything, "total": anything, "eta_seconds": anything})
realistic = st.fixed_dictionaries(
    {"type": st.sampled_from(["training.status", "lifecycle.stage", "training.checkpoint"])},
    optional={
        "progress": anything | status,
        "stage": anything | st.fixed_dictionaries({"label": anything}),
        "checkpoint": anything | st.fixed_dictionaries({"path": anything}),
    },
)


@settings(deadline=None, derandomize=True)
@given(anything | realistic)
def test_any_document_is_an_event_that_json_can_hold_or_none(payload: Any) -> None:
    event = parse_event(payload, Phase.SLOW)
    assert event is None or json.dumps(event.to_json(), allow_nan=False)


class Listener:
    """A running receiver, and what it received."""

    def __init__(self, config: str, events: SimpleQueue[Event]) -> None:
        self.config = json.loads(config)
        self.url: str = self.config["callback_url"]
        self.parts = urlsplit(self.url)
        self.events = events

    def next(self) -> Event:
        return self.events.get(timeout=10)

    def send(self, data: bytes) -> bytes:
        """Send that on a connection of its own; return the answer."""
        address = (self.parts.hostname, self.parts.port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(data)
            return bytes(connection.makefile("rb").read())


@pytest.fixture
def listener() -> Iterator[Listener]:
    events: SimpleQueue[Event] = SimpleQueue()
    with listening(Phase.SLOW, events.put) as config:
        yield Listener(config, events)


def post(url: str, document: Any) -> int:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    request = Request(url, body, {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=10) as response:
        return int(response.status)


def answer(url: str, **headers: str) -> int:
    """Send a POST's head alone and return the answer's status."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    try:
        connection.putrequest("POST", parts.path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        with connection.getresponse() as response:
            return response.status
    finally:
        connection.close()


def test_config_is_simpletuners_raw_webhook_on_loopback(listener: Listener) -> None:
    del listener.config["callback_url"]
    assert listener.config == {"webhook_type": "raw", "log_level": "debug"}
    assert (listener.parts.scheme, listener.parts.hostname) == ("http", "127.0.0.1")
    assert len(listener.parts.path) > 20


def test_repeated_event_arrives_once(listener: Listener) -> None:
    assert post(listener.url, step(1)) == 204
    assert listener.next() == FIRST
    post(listener.url, step(1))
    post(listener.url, step(2))
    assert listener.next() == StepDone(Phase.SLOW, 2, 60, None, None)


def test_events_of_many_threads_all_arrive(listener: Listener) -> None:
    numbers = range(1, 21)
    posts = [threading.Thread(target=post, args=(listener.url, step(n))) for n in numbers]
    for thread in posts:
        thread.start()
    received = {listener.next() for _ in posts}
    for thread in posts:
        thread.join()
    assert received == {StepDone(Phase.SLOW, number, 60, None, None) for number in numbers}


def test_garbage_is_ignored(listener: Listener, capfd: pytest.CaptureFixture[str]) -> None:
    garbage = [b"", b"{", b"\xff\xfe\xfd", b"null", b"[" * 10_000, b'{"type": 1e999}']
    assert [post(listener.url, body) for body in garbage] == [204] * 6
    post(listener.url, step(1))
    assert listener.next() == FIRST
    assert capfd.readouterr() == ("", "")


def test_other_paths_and_methods_are_unknown(listener: Listener) -> None:
    base = listener.url.rpartition("/")[0]
    assert [answer(f"{base}{path}") for path in ("/", "/guess", "")] == [404, 404, 404]
    assert listener.send(b"POST /\xff HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 404")
    get = f"GET {listener.parts.path} HTTP/1.0\r\n\r\n".encode()
    assert listener.send(get).startswith(b"HTTP/1.0 501")


def test_trainer_that_ends_in_the_middle_of_a_post_is_no_error(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = listener.parts
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"POST {parts.path} HTTP/1.0\r\nContent-Length: 99\r\n\r\n{{".encode())
        reset_when_closed = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_when_closed)
    post(listener.url, step(1))
    assert listener.next() == FIRST
    assert capfd.readouterr() == ("", "")


def test_bodies_are_bounded(listener: Listener) -> None:
    lengths = (str(LIMIT + 1), "-1", "many", "")
    assert [answer(listener.url, Content_Length=length) for length in lengths] == [413] * 4
    assert answer(listener.url) == 413
    document = json.dumps(step(1)).encode()
    assert post(listener.url, document + b" " * (LIMIT - len(document))) == 204
    assert listener.next() == FIRST


def test_each_listener_has_a_secret_of_its_own() -> None:
    with listening(Phase.SLOW, id) as one, listening(Phase.FAST, id) as other:
        urls = [urlsplit(json.loads(config)["callback_url"]) for config in (one, other)]
    assert urls[0].path != urls[1].path
    assert urls[0].port != urls[1].port


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt])
def test_nothing_listens_afterwards(failure: type[BaseException] | None) -> None:
    with suppress(KeyboardInterrupt), listening(Phase.SLOW, id) as config:
        url = json.loads(config)["callback_url"]
        if failure:
            raise failure
    with pytest.raises(ConnectionRefusedError):
        answer(url)


# Why it failed

TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/venv/bin/accelerate", line 10, in <module>',
)
GATED = "the base model is gated, and there is no token with a right to it"
NOT_FOUND = "the base model was not found"
NO_VRAM = "the accelerator ran out of memory"
NO_RAM = "the system ran out of memory"
KILLED = "it was killed, most likely because the system ran out of memory"
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
    ],
)
def test_telling_line_names_the_cause_and_a_remedy(line: str, cause: str) -> None:
    found = diagnose([*TRACEBACK, line], 1)
    assert (found.cause, found.tail) == (cause, (*TRACEBACK, line))
    assert found.remedy


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
def test_what_tells_more_goes_before_the_rest(
    lines: list[str], code: int, cause: str | None
) -> None:
    found = diagnose(lines, code)

    assert found.cause == cause
    if cause is None:
        assert found == Diagnosis(None, None, tuple(lines))


@pytest.mark.parametrize(
    "noise",
    [
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
    ],
)
def test_the_tail_is_the_last_telling_lines(noise: str) -> None:
    lines = [f"line {number}" for number in range(100)]

    assert diagnose([noise, *lines, noise], 1).tail == tuple(lines[-12:])
