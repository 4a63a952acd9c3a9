"""Killing a real distillation: the same command finishes, and records no path twice."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_training import wait_until

PATHS = 12
STEPS = 40
CHECKPOINT = 4


class Distillation:
    """`glance distill --phase slow` in a folder of its own: four paths are recorded at a time."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.events = folder / "events.jsonl"
        arguments = ["--model", str(model), "--run", str(self.run), "--phase", "slow"]
        arguments += ["--prompt", "a hill", "--prompt", "a sea", "--prompt", "a wood"]
        arguments += ["--noises", str(PATHS // 3), "--size", "128x128", "--rank", "4"]
        arguments += ["--steps", str(STEPS), "--batch-size", "2", "--device", "cpu"]
        arguments += ["--launcher", "direct", "--events", str(self.events), "--quiet"]
        self._command = [sys.executable, "-m", "glance", "distill", *arguments]

    def start(self) -> "subprocess.Popen[bytes]":
        self.events.unlink(missing_ok=True)
        return subprocess.Popen(self._command, cwd=self.folder, stdout=subprocess.DEVNULL)

    def lora(self) -> bytes:
        return (self.run / "output/glance-slow/pytorch_lora_weights.safetensors").read_bytes()

    def told(self, kind: str) -> list[Any]:
        """The events of a kind since the last start."""
        if not self.events.exists():
            return []
        whole = [line for line in self.events.read_text().splitlines(keepends=True) if "\n" in line]
        return [event for event in map(json.loads, whole) if event["event"] == kind]

    def steps(self) -> list[int]:
        return [event["step"] for event in self.told("StepDone")]

    def recorded(self) -> dict[str, Any]:
        """Inode and time of change of both files of every path that is there, by their names."""
        pictures = list(self.run.glob("data/[!.]*.png"))
        recordings = [self.run / f"cache/teacher/{path.stem}.safetensors" for path in pictures]
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (*pictures, *recordings)
        }


@pytest.mark.extended
def test_a_distillation_killed_twice_is_finished_by_the_same_command(
    tmp_path: Path, tiny_flux: Path
) -> None:
    distillation = Distillation(tmp_path, tiny_flux)
    process = distillation.start()
    wait_until(lambda: distillation.recorded(), process)
    kill(process)
    first = distillation.recorded()
    assert 2 <= len(first) < 2 * PATHS

    process = distillation.start()
    wait_until(lambda: len(distillation.steps()) > 2 * CHECKPOINT, process)
    already = f"{len(first) // 2} of {PATHS} paths are recorded already"
    assert already in [event["message"] for event in distillation.told("Noted")]
    kill(process)
    second, done = distillation.recorded(), max(distillation.steps())
    assert len(second) == 2 * PATHS
    assert first.items() <= second.items(), "a path was recorded again"

    assert distillation.start().wait(timeout=300) == 0
    assert distillation.told("SamplingStep") == []
    assert min(distillation.steps()) > done - CHECKPOINT - 1, "it lost too much"
    assert max(distillation.steps()) == STEPS
    assert distillation.recorded() == second
    left = [path.name for path in (distillation.run / "data").glob(".*")]
    assert left == [], "half a picture would be trained on"
    slow = json.loads((distillation.run / "glance.json").read_text())["phases"]["slow"]
    assert (slow["state"], len(slow["attempts"])) == ("done", 2)

    # undisturbed it is the same to the bit: it takes the pictures in the same order
    continued = distillation.lora()
    shutil.rmtree(distillation.run / "output/glance-slow")
    assert distillation.start().wait(timeout=300) == 0
    assert min(distillation.steps()) == 1
    assert distillation.lora() == continued


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End it with SIGKILL; nothing of it goes on."""
    tree = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == [], "somebody outlived glance"
