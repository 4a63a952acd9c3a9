"""What a batch adds to its trainings: next to the same ones, one after the other.

`uv run python -m benchmarks.batch` instead kills one: twenty pairs, two of them without a caption,
by real SimpleTuner, with SIGKILL of `glance` itself at five random moments and the same command
after each. It prints what became of the jobs as JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import psutil
from PIL import Image

from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import PICTURE, SMALL_MODEL, Conditions, call, interleave

_SINGLE: Final = "glance train, one after the other"
_BATCH: Final = "glance batch train"
_GOALS: Final = {_BATCH: Goal(at_most=1.05)}
_PAIRS, _QUICK_PAIRS = 4, 2
_STEPS, _QUICK_STEPS = 10, 2


def measure(conditions: Conditions) -> Result:
    """Train some pairs of the small model of the package: each by a command, and all by one.

    With the direct launcher, whose trainings are the shortest, so that what a batch adds counts
    most.
    """
    pairs = _QUICK_PAIRS if conditions.is_quick else _PAIRS
    steps = _QUICK_STEPS if conditions.is_quick else _STEPS
    options = (
        *("--model", str(SMALL_MODEL), "--device", conditions.device.value),
        *("--resolution", "64", "--steps", str(steps), "--rank", "4", "--launcher", "direct"),
    )
    ways: Mapping[str, Callable[[], float]] = {
        _SINGLE: partial(_seconds, pairs, partial(_train_each, options)),
        _BATCH: partial(_seconds, pairs, partial(_train_all, options)),
    }
    rounds = interleave(ways, conditions, first=[_BATCH])
    ratios = (
        Ratio(
            name=f"{name} / {_SINGLE}",
            figure=summarise(one[name] / one[_SINGLE] for one in rounds),
            goal=goal,
        )
        for name, goal in _GOALS.items()
    )
    return Result(
        name="batch",
        compares=f"{pairs} pairs of the small model of the package, {steps} steps each.",
        rounds=len(rounds),
        columns=(Column(name="seconds", digits=1, shows_spread=True),),
        rows=tuple(
            Row(name=name, figures={"seconds": summarise(one[name] for one in rounds)})
            for name in ways
        ),
        ratios=tuple(ratios),
    )


def write_pairs(folder: Path, count: int) -> None:
    """Write that many images, no two alike, each with its caption beside it."""
    folder.mkdir(parents=True)
    with Image.open(PICTURE) as opened:
        picture = opened.convert("RGB")
    for number in range(count):
        picture.putpixel((number % picture.width, number // picture.width), (number % 256, 0, 255))
        picture.save(folder / f"pair-{number:02}.png")
        (folder / f"pair-{number:02}.txt").write_text(f"a landscape at dusk, number {number}\n")


def _seconds(pairs: int, train: Callable[[Path], None]) -> float:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_pairs(Path(folder, "pairs"), pairs)
        began = time.perf_counter()
        train(Path(folder))
        return time.perf_counter() - began


def _train_each(options: tuple[str, ...], folder: Path) -> None:
    for image in sorted(Path(folder, "pairs").glob("*.png")):
        command = (sys.executable, "-m", "glance", "train", "--image", str(image), "--quiet")
        call((*command, *options), folder)


def _train_all(options: tuple[str, ...], folder: Path) -> None:
    call(
        (
            sys.executable,
            "-m",
            "glance",
            "batch",
            "train",
            "pairs",
            "--quiet",
            "--no-sheet",
            *options,
        ),
        folder,
    )


# --- killed at random -----------------------------------------------------------------------------

_BROKEN: Final = (6, 13)
"""Which pairs have no caption."""
_EARLIEST, _LATEST = 3.0, 60.0
"""Seconds after which it is killed."""
_LINGERS: Final = 20.0
"""Seconds that the trainer of a killed glance may take to end."""


def kill_at_random(*, pairs: int, kills: int, seed: int) -> dict[str, object]:
    """Train pairs of which two are broken, kill it so often, and return what became of them."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_pairs(folder / "pairs", pairs)
        for number in _BROKEN:
            (folder / f"pairs/pair-{number:02}.txt").unlink()
        command = [
            *(sys.executable, "-m", "glance", "batch", "train", "pairs", "--quiet", "--no-sheet"),
            *("--model", str(SMALL_MODEL), "--device", "cpu", "--resolution", "64"),
            *("--steps", "5", "--rank", "4", "--launcher", "direct", "--events", "events.jsonl"),
        ]
        moments, left, began = [], 0, time.monotonic()
        for _ in range(kills):
            process = subprocess.Popen(command, cwd=folder)
            moment = chance.uniform(_EARLIEST, _LATEST)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                moments.append(round(moment, 1))
                left += _count_left(folder)
        code = subprocess.run(command, cwd=folder, check=False).returncode
        record = json.loads((folder / "runs/pairs/batch.json").read_text(encoding="utf-8"))
        return {
            "exit_code": code,
            "counts": record["counts"],
            "refused": [job["name"] for job in record["jobs"] if job["state"] == "refused"],
            "killed_after_seconds": moments,
            "processes_left": left,
            "loras_made": count_made(folder),
            "seconds": round(time.monotonic() - began),
        }


def _count_left(folder: Path) -> int:
    """Return how many processes of a killed batch there still are when they have had their time."""
    deadline = time.monotonic() + _LINGERS
    while time.monotonic() < deadline:
        alive = [one for one in psutil.process_iter() if _is_at_work(one, folder)]
        if not alive:
            return 0
        time.sleep(0.5)
    return len(alive)


def _is_at_work(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


def count_made(folder: Path) -> dict[str, int]:
    """Return how many LoRAs were finished once, and how many more than once.

    By what the jobs said on their nodes: whoever was to hear it may have been dead.
    """
    finished = Counter(
        (log.stem, json.loads(line)["phase"])
        for log in (folder / "runs/pairs/logs").glob("*.log")
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if '"event": "PhaseFinished"' in line
    )
    twice = sum(count > 1 for count in finished.values())
    return {"once": len(finished) - twice, "twice": twice}


def main() -> None:
    """Kill a batch, and print what became of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20261129)
    given = parser.parse_args()
    result = kill_at_random(pairs=given.pairs, kills=given.kills, seed=given.seed)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
