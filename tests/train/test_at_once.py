"""Two real trainers at once on one run folder: the same files as one after the other."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.numpy import load_file

STEPS = 120  # so many that the second mostly reads the caches while the first still trains


def train(folder: Path, model: Path, devices: str) -> list[dict[str, Any]]:
    """Train both phases in `folder`/run; return the events."""
    events = folder / "events.jsonl"
    arguments = ["--image", "x.png", "--caption", "a circle", "--model", str(model), "--run", "run"]
    arguments += ["--steps", str(STEPS), "--rank", "4", "--resolution", "64", "--device", "cpu"]
    arguments += ["--launcher", "direct", "--gpu-ids", devices, "--events", events.name, "--quiet"]
    folder.mkdir()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(folder / "x.png")
    command = [sys.executable, "-m", "glance", "train", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in events.read_text().splitlines()]


def files(run: Path) -> dict[str, bytes | None]:
    """All files, and the values of those that hold a LoRA."""
    found = sorted(path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): values(path) for path in found}


def values(path: Path) -> bytes | None:
    """A LoRA's tensors; SimpleTuner writes its metadata in any order."""
    if path.suffix != ".safetensors":
        return None
    tensors = load_file(path)
    return b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))


@pytest.fixture
def at_once(tmp_path: Path, tiny_flux: Path) -> list[dict[str, Any]]:
    return train(tmp_path / "at-once", tiny_flux, "0,1")


def test_two_trainers_at_once_make_what_one_after_the_other_does(
    at_once: list[dict[str, Any]], tmp_path: Path, tiny_flux: Path
) -> None:
    train(tmp_path / "in-turn", tiny_flux, "0")

    told = [(event["event"], event.get("phase"), event.get("label")) for event in at_once]
    over = told.index(("PhaseFinished", "slow", None))
    assert (
        told.index(("StepDone", "slow", None)) < told.index(("PhaseStarted", "fast", None)) < over
    )
    assert files(tmp_path / "at-once/run") == files(tmp_path / "in-turn/run")
