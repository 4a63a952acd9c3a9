"""SimpleTuner's own events, and what the end of a failed trainer's output is taken for."""

import http.client
import json
import socket
import struct
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

from glance.core.events import CheckpointSaved, Event, StageEntered, StepDone
from glance.core.phase import Phase
from glance.training.simpletuner.progress import Diagnosis, diagnose, listening, parse_event

RECORDED = Path(__file__).parents[3] / "fixtures" / "webhook.jsonl"
LIMIT = 4 * 1024 * 1024


def step(current: Any, total: Any = 60, **rest: Any) -> dict[str, Any]:
    return {"type": "training.status", "progress": {"current": current, "total": total, **rest}}


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


class Listener:
    """A running receiver, and what it received."""

    def __init__(self, config: str, events: SimpleQueue[Event]) -> None:
        self.config = json.loads(config)
        self.url: str = self.config["callback_url"]
        self.events = events

    def next(self) -> Event:
        return self.events.get(timeout=10)


@pytest.fixture
def listener() -> Iterator[Listener]:
    events: SimpleQueue[Event] = SimpleQueue()
    with listening(Phase.SLOW, events.put) as config:
        yield Listener(config, events)


# --- what is posted ------------------------------------------------------------------------------


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


def test_event_belongs_to_the_phase_that_runs() -> None:
    assert parse_event(step(1), Phase.FAST) == StepDone(Phase.FAST, 1, 60, None, None)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        "training.status",
        {},
        {"type": None},
        {"type": ["training.status"]},
        {"type": "training.status"},
        {"type": "training.status", "progress": None},
        {"type": "lifecycle.stage", "stage": {"label": ""}},
        {"type": "training.checkpoint", "checkpoint": []},
        {"type": "training.summary", "progress": {"current": 1, "total": 60}},
        step(0),
        step(-1),
        step(0.5),
        step(1, 0),
        step("1"),
        step(float("nan")),
        step(float("inf")),
        step(10**400),
    ],
)
def test_what_tells_nothing_is_no_event(payload: object) -> None:
    assert parse_event(payload, Phase.SLOW) is None


@pytest.mark.parametrize("odd", [None, "0.5", [], {}, float("nan"), float("-inf"), 10**400])
def test_step_without_usable_figures_is_still_a_step(odd: object) -> None:
    payload = step(3, eta_seconds=odd, metrics={"loss": odd})
    assert parse_event(payload, Phase.SLOW) == StepDone(Phase.SLOW, 3, 60, None, None)


def test_step_with_odd_metrics_is_still_a_step() -> None:
    event = parse_event(step(3, metrics=["loss"]), Phase.SLOW)
    assert event == StepDone(Phase.SLOW, 3, 60, None, None)


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


# --- how it arrives ------------------------------------------------------------------------------


def test_config_is_simpletuners_raw_webhook_on_loopback(listener: Listener) -> None:
    parts = urlsplit(listener.config.pop("callback_url"))
    assert listener.config == {"webhook_type": "raw", "log_level": "debug"}
    assert (parts.scheme, parts.hostname) == ("http", "127.0.0.1")
    assert len(parts.path) > 20


def test_posted_event_arrives(listener: Listener) -> None:
    assert post(listener.url, step(1)) == 204
    assert listener.next() == StepDone(Phase.SLOW, 1, 60, None, None)


def test_repeated_event_arrives_once(listener: Listener) -> None:
    post(listener.url, step(1))
    assert listener.next() == StepDone(Phase.SLOW, 1, 60, None, None)
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
    assert listener.next() == StepDone(Phase.SLOW, 1, 60, None, None)
    assert capfd.readouterr() == ("", "")


def test_other_paths_are_unknown(listener: Listener) -> None:
    base = listener.url.rpartition("/")[0]
    assert [answer(f"{base}{path}") for path in ("/", "/guess", "")] == [404, 404, 404]


def test_path_beyond_ascii_is_unknown(listener: Listener) -> None:
    parts = urlsplit(listener.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"POST /\xff HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.0 404")


def test_trainer_that_ends_in_the_middle_of_a_post_is_no_error(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = urlsplit(listener.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"POST {parts.path} HTTP/1.0\r\nContent-Length: 99\r\n\r\n{{".encode())
        reset_when_closed = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_when_closed)
    post(listener.url, step(1))
    assert listener.next() == StepDone(Phase.SLOW, 1, 60, None, None)
    assert capfd.readouterr() == ("", "")


def test_body_that_is_too_long_or_unmeasured_is_not_read(listener: Listener) -> None:
    lengths = (str(LIMIT + 1), "-1", "many", "")
    assert [answer(listener.url, Content_Length=length) for length in lengths] == [413] * 4
    assert answer(listener.url) == 413


def test_largest_body_is_read(listener: Listener) -> None:
    document = json.dumps(step(1)).encode()
    assert post(listener.url, document + b" " * (LIMIT - len(document))) == 204
    assert listener.next() == StepDone(Phase.SLOW, 1, 60, None, None)


def test_reading_is_not_offered(listener: Listener) -> None:
    parts = urlsplit(listener.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"GET {parts.path} HTTP/1.0\r\n\r\n".encode())
        assert connection.makefile("rb").read().startswith(b"HTTP/1.0 501")


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


TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/venv/bin/accelerate", line 10, in <module>',
)
GATED = "the base model is gated, and there is no token with a right to it"
NOT_FOUND = "the base model was not found"
NO_VRAM = "the accelerator ran out of memory"
NO_RAM = "the system ran out of memory"
KILLED = "it was killed, most likely because the system ran out of memory"


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
        (
            "main.py: error: argument --lr_scheduler: invalid choice: 'warm'",
            "SimpleTuner did not accept an option",
        ),
    ],
)
def test_telling_line_names_the_cause_and_a_remedy(line: str, cause: str) -> None:
    found = diagnose([*TRACEBACK, line], 1)
    assert (found.cause, found.tail) == (cause, (*TRACEBACK, line))
    assert found.remedy


def test_cause_is_found_before_what_follows_from_it() -> None:
    lines = ["torch.OutOfMemoryError: CUDA out of memory.", "OSError: [Errno 28] No space left"]
    assert diagnose(lines, 1).cause == NO_VRAM
    assert diagnose(lines[::-1], 1).cause == NO_VRAM


def test_killed_trainer_most_likely_ran_out_of_memory() -> None:
    found = diagnose(["loading weights"], 137)
    assert (found.cause, found.tail) == (KILLED, ("loading weights",))
    assert found.remedy == "close other programs, or use a smaller --resolution"


def test_output_tells_more_than_the_signal() -> None:
    assert diagnose(["RuntimeError: CUDA out of memory."], 137).cause == NO_VRAM


@pytest.mark.parametrize("returncode", [1, 2, 139, 143])
def test_unknown_failure_claims_nothing(returncode: int) -> None:
    lines = ("RuntimeError: the flux capacitor is missing",)
    assert diagnose(lines, returncode) == Diagnosis(None, None, lines)


def test_silent_failure_has_an_empty_tail() -> None:
    assert diagnose([], 1) == Diagnosis(None, None, ())


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
def test_noise_is_kept_from_the_tail(noise: str) -> None:
    assert diagnose([noise, "ValueError: oops", noise], 1).tail == ("ValueError: oops",)


def test_tail_is_the_last_telling_lines() -> None:
    lines = [f"line {number}" for number in range(100)]
    assert diagnose(lines, 1).tail == tuple(lines[-12:])


def test_a_kill_that_accelerate_reports_is_known_too() -> None:
    line = "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>."

    found = diagnose((line,), 1)

    assert found.cause == "it was killed, most likely because the system ran out of memory"
