"""However a real training comes to its end, nothing is left running and it makes the same LoRAs.

Two runs of one pair: one trains both phases at once and is left alone. The other trains them one
after the other, is killed, stopped and moved, and goes on each time from where it was.
"""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from real_training import wait_until
from safetensors.numpy import load_file

STEPS = 120  # so many that the second mostly reads the caches while the first still trains
CHECKPOINT = 12
DIRECT = ("--launcher", "direct")


class Training:
    """`glance train` in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.run = folder / "runs/x"
        folder.mkdir()
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(folder / "x.png")
        (folder / "x.txt").write_text("a circle\n")
        arguments = ["--image", "x.png", "--model", str(model), "--steps", str(STEPS)]
        arguments += ["--rank", "4", "--resolution", "64", "--device", "cpu", "--quiet"]
        self._command = [sys.executable, "-m", "glance", "train", *arguments]

    def start(self, *flags: str) -> "subprocess.Popen[bytes]":
        """Begin or go on; `*DIRECT` spares the half minute that `simpletuner train` takes."""
        events = self.folder / "events.jsonl"
        events.unlink(missing_ok=True)
        command = [*self._command, "--run", str(self.run), "--events", str(events), *flags]
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a child ignores it
        try:
            return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        finally:
            signal.signal(signal.SIGINT, before)

    def finish(self, *flags: str) -> None:
        assert self.start(*DIRECT, *flags).wait(timeout=300) == 0

    def events(self) -> list[dict[str, Any]]:
        """What was told since the last start."""
        file = self.folder / "events.jsonl"
        return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []

    def steps(self) -> list[int]:
        return [event["step"] for event in self.events() if event["event"] == "StepDone"]

    def loras(self) -> dict[str, bytes]:
        """The tensors of both; SimpleTuner writes its metadata in any order."""
        found = {}
        for phase in ("slow", "fast"):
            path = self.run / f"output/glance-{phase}/pytorch_lora_weights.safetensors"
            found |= {f"{phase}.{name}": one.tobytes() for name, one in load_file(path).items()}
        return found

    def slow(self) -> Any:
        return json.loads((self.run / "glance.json").read_text())["phases"]["slow"]


@pytest.fixture(scope="module")
def at_once(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Both phases at once; the first begins with empty caches, the second finds them filled."""
    training = Training(tmp_path_factory.mktemp("train") / "at-once", tiny_flux)
    training.finish("--gpu-ids", "0,1")
    return training


def test_the_second_of_two_at_once_begins_while_the_first_trains(at_once: Training) -> None:
    told = [(one["event"], one.get("phase"), one.get("label")) for one in at_once.events()]
    first_step = told.index(("StepDone", "slow", None))

    over = told.index(("PhaseFinished", "slow", None))
    assert first_step < told.index(("PhaseStarted", "fast", None)) < over


def test_a_killed_then_stopped_then_moved_run_goes_on_from_where_it_was(
    at_once: Training, tmp_path: Path, tiny_flux: Path
) -> None:
    training = Training(tmp_path / "in-turn", tiny_flux)
    training.finish("--phase", "fast")  # with empty caches

    process = training.start("--phase", "slow", *DIRECT)
    moment = random.randrange(CHECKPOINT + 2, 3 * CHECKPOINT)
    wait_until(lambda: len(training.steps()) > moment, process)
    tree = psutil.Process(process.pid).children(recursive=True)
    assert len(tree) > 1

    process.kill()
    process.wait()
    await_end(tree)
    assert training.slow()["state"] == "training"
    done = max(training.steps())

    # the first Ctrl-C, of the public command's longer tree: SimpleTuner saves at that very step,
    # wherever its next checkpoint was due
    process = training.start("--phase", "slow")
    wait_until(lambda: training.steps(), process)
    assert min(training.steps()) > done - CHECKPOINT - 1, f"killed at {moment}, it lost too much"
    tree = psutil.Process(process.pid).children(recursive=True)
    assert any("train.py" in " ".join(child.cmdline()) for child in tree)
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 130
    await_end(tree)
    assert training.slow()["state"] == "stopped"
    done = max(training.steps())
    assert (training.run / f"output/glance-slow/checkpoint-{done}/glance.seal").exists()

    # somebody moves the run, to another depth even: it goes on from where it was all the same
    training.run = training.run.rename(training.folder / "moved")
    training.finish()
    assert training.steps()[0] == done + 1
    assert max(training.steps()) == STEPS
    assert not any((training.run / "cache/vae").rglob("runs")), "latents of the old place"
    record = training.slow()
    assert (record["state"], len(record["attempts"])) == ("done", 3)
    assert [attempt["resumed"] for attempt in record["attempts"]][2] == done

    # undisturbed it is the same to the bit, whatever the caches held: the seed decides it
    assert training.loras() == at_once.loras()
    runs = (training.run, at_once.run)
    caches = [sorted(path.name for path in run.glob("cache/**/*.pt")) for run in runs]
    assert caches[0] == caches[1], "two at once leave what one after the other leaves"


def await_end(tree: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == [], "somebody outlived glance"
