"""Ending a real training: nothing is left running, and the next start continues."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from real_training import wait_until

STEPS = 120
CHECKPOINT = 12


class Training:
    """`glance train --phase slow` in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.events = folder / "events.jsonl"
        arguments = ["--image", "x.png", "--model", str(model), "--phase", "slow"]
        arguments += ["--steps", str(STEPS), "--rank", "4", "--resolution", "64"]
        arguments += ["--device", "cpu", "--events", str(self.events), "--quiet"]
        self._command = [sys.executable, "-m", "glance", "train", *arguments]
        self.run = folder / "runs/x"

    def start(self) -> "subprocess.Popen[bytes]":
        self.events.unlink(missing_ok=True)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a child ignores it
        try:
            return subprocess.Popen(
                [*self._command, "--run", str(self.run)], cwd=self.folder, stdout=subprocess.DEVNULL
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def steps(self) -> list[int]:
        """The steps done since the last start."""
        if not self.events.exists():
            return []
        events = map(json.loads, self.events.read_text().splitlines())
        return [event["step"] for event in events if event["event"] == "StepDone"]

    def lora(self) -> bytes:
        return (self.run / "output/glance-slow/pytorch_lora_weights.safetensors").read_bytes()

    def slow(self) -> Any:
        manifest = json.loads((self.run / "glance.json").read_text())
        return manifest["phases"]["slow"]


@pytest.fixture
def training(tmp_path: Path, tiny_flux: Path) -> Training:
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "x.png")
    (tmp_path / "x.txt").write_text("a circle\n")
    return Training(tmp_path, tiny_flux)


def test_a_killed_then_stopped_then_moved_run_goes_on_from_where_it_was(training: Training) -> None:
    process = training.start()
    moment = random.randrange(CHECKPOINT + 2, 3 * CHECKPOINT)
    wait_until(lambda: len(training.steps()) > moment, process)
    tree = psutil.Process(process.pid).children(recursive=True)
    assert any("train.py" in " ".join(child.cmdline()) for child in tree)

    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == [], "somebody outlived glance"
    assert training.slow()["state"] == "training"
    done = max(training.steps())

    # the first Ctrl-C: SimpleTuner saves at that very step, wherever its next checkpoint was due
    process = training.start()
    wait_until(lambda: training.steps(), process)
    assert min(training.steps()) > done - CHECKPOINT - 1, f"killed at {moment}, it lost too much"
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 130
    assert training.slow()["state"] == "stopped"
    done = max(training.steps())
    assert (training.run / f"output/glance-slow/checkpoint-{done}/glance.seal").exists()

    # somebody moves the run, to another depth even: it goes on from where it was all the same
    training.run = training.run.rename(training.folder / "moved")
    assert training.start().wait(timeout=300) == 0
    assert training.steps()[0] == done + 1
    assert max(training.steps()) == STEPS
    assert not any((training.run / "cache/vae").rglob("runs")), "latents of the old place"
    record = training.slow()
    assert (record["state"], len(record["attempts"])) == ("done", 3)
    assert [attempt["resumed"] for attempt in record["attempts"]][2] == done

    # undisturbed it is the same to the bit, and with the caches full: the seed decides it
    continued = training.lora()
    shutil.rmtree(training.run / "output/glance-slow")
    assert list((training.run / "cache").rglob("*.pt"))
    assert training.start().wait(timeout=300) == 0
    assert training.steps()[0] == 1
    assert training.lora() == continued
