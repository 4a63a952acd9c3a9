"""What a batch adds to its trainings: next to the same ones, one after the other."""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

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
    call((sys.executable, "-m", "glance", "batch", "train", "pairs", "--quiet", *options), folder)
