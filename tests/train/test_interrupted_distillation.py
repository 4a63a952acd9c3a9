"""Killing a real distillation: the same command finishes, and records no path twice."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from real_training import Started, kill, wait_until

PATHS = 12
STEPS = 40
CHECKPOINT = 4


class Distillation(Started):
    """`glance distill --phase slow` in a folder of its own: four paths are recorded at a time."""

    def __init__(self, folder: Path, model: Path) -> None:
        arguments = ["--model", str(model), "--phase", "slow", "--size", "128x128"]
        arguments += ["--prompt", "a hill", "--prompt", "a sea", "--prompt", "a wood"]
        arguments += ["--noises", str(PATHS // 3), "--steps", str(STEPS), "--batch-size", "2"]
        super().__init__(folder, folder / "run", "distill", *arguments, "--launcher", "direct")

    def lora(self) -> bytes:
        return (self.run / "output/glance-slow/pytorch_lora_weights.safetensors").read_bytes()

    def recorded(self) -> dict[str, Any]:
        """Inode and time of change of both files of every path that is there, by their names."""
        pictures = list(self.run.glob("data/[!.]*.png"))
        recordings = [self.run / f"cache/teacher/{path.stem}.safetensors" for path in pictures]
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (*pictures, *recordings)
        }


@pytest.mark.extended
def test_killed_twice_it_is_finished_by_the_same_command(tmp_path: Path, tiny_flux: Path) -> None:
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

    distillation.finish()
    assert distillation.told("SamplingStep") == []
    assert min(distillation.steps()) > done - CHECKPOINT - 1, "it lost too much"
    assert max(distillation.steps()) == STEPS
    assert distillation.recorded() == second
    left = [path.name for path in (distillation.run / "data").glob(".*")]
    assert left == [], "half an image would be trained on"
    slow = distillation.slow()
    assert (slow["state"], len(slow["attempts"])) == ("done", 2)

    # undisturbed it is the same to the bit: it takes the pictures in the same order
    continued = distillation.lora()
    shutil.rmtree(distillation.run / "output/glance-slow")
    distillation.finish()
    assert min(distillation.steps()) == 1
    assert distillation.lora() == continued
