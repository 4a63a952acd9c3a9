"""What is no file is refused at once wherever a file is read: nothing waits for ever."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.commands import Glance
from PIL import Image
from safetensors.numpy import save_file

from glance.core import files

MODEL = ("--model", "small-flux", "--device", "cpu")
SMALL = (*MODEL, "--resolution", "64")
READ = {
    "picture": ("check", "{x}.png", "--caption", "a fox in snow"),
    "image without a caption": ("check", "{x}.png"),
    "caption": ("check", "{x}-caption.png"),
    "image to train on": ("train", "--image", "{x}.png", *SMALL),
    "schedule": ("train", "--image", "cat.png", *SMALL, "--schedule", "{x}.json"),
    "schedule to show": ("schedule", "--schedule", "{x}.json"),
    "prompts": ("infer", "--prompt-file", "{x}.txt", "--no-lora", *MODEL),
    "prompts to learn": ("distill", "--prompt-file", "{x}.txt", *MODEL),
    "LoRA": ("infer", "--prompt", "a", "--slow-lora", "{x}.safetensors", "--slow-only", *MODEL),
    "LoRA to import": ("import", "--slow-lora", "{x}.safetensors", "--fast-lora", "a.safetensors"),
    "LoRA of the teacher": ("distill", "--teacher-lora", "{x}.safetensors", *MODEL),
    "latents": ("infer", "--prompt", "a", "--no-lora", "--init-latents", "{x}.safetensors", *MODEL),
    "image again": ("infer", "--from-image", "{x}.png"),
    "single file": ("train", "--image", "cat.png", "--model", "{x}.safetensors"),
    "model": ("train", "--image", "cat.png", "--model", "{x}-model", "--resolution", "64"),
    "run": ("infer", "--prompt", "a", "--run", "{x}-run"),
    "log": ("runs", "log", "{x}-run"),
    "anything": ("info", "{x}.png"),
    "any LoRA": ("info", "{x}.safetensors"),
}


def make(kind: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(path.relative_to(Path.cwd())))  # an address is 108 bytes at most
        case "device":
            path.symlink_to("/dev/zero")


@pytest.fixture
def _in_time() -> Iterator[None]:
    """Fail rather than wait."""

    def fail(*_: object) -> None:
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("pair", "_in_time")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
@pytest.mark.parametrize("read", READ)
def test_what_is_no_file_is_refused_at_once(invoke: Glance, read: str, kind: str) -> None:
    arguments = [part.replace("{x}", "here") for part in READ[read]]
    Image.new("RGB", (64, 64)).save("here-caption.png")
    save_file({"a": np.zeros(1)}, "a.safetensors")
    for name in ("here.png", "here.json", "here.txt", "here.safetensors", "here-caption.txt"):
        make(kind, Path.cwd() / name)
    make(kind, Path.cwd() / "here-model/model_index.json")
    make(kind, Path.cwd() / "here-run/glance.json")

    done = invoke(*arguments)

    assert done.code in (3, 4), (done.out, done.err)
    assert "here" in done.err
    assert "hint: " in done.err


def test_a_file_system_that_does_not_answer_is_not_waited_for(
    invoke: Glance, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, server = Path.stat, threading.Event()

    def hang(self: Path, **options: bool) -> os.stat_result:
        if self.suffix == ".png" and threading.current_thread() is not threading.main_thread():
            server.wait(60)
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", hang)
    monkeypatch.setattr(files, "_PATIENCE", 0.2)

    done = invoke("check", "cat.png", "--resolution", "64")
    server.set()

    assert done.code == 4
    assert "image cat.png cannot be read: it does not answer" in done.err
