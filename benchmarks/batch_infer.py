"""What one command for many runs saves: next to `glance infer` for each of them."""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.models import RANK, start_making
from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import Conditions, call, interleave
from glance.core.device import Device
from glance.core.phase import Phase

_SINGLE: Final = "glance infer for each run"
_BATCH: Final = "glance batch infer"
_SIZES: Final = {Device.CPU: ("tiny", 64), Device.CUDA: ("fifth", 1024)}
_QUICK: Final = ("tiny", 64)
_RUNS, _QUICK_RUNS = 4, 2
_PROMPTS: Final = ("a red circle", "a green hill")
_GLANCE: Final = (sys.executable, "-m", "glance")


def measure(conditions: Conditions) -> Result:
    """Generate two images with each run: by a command for each, and by one for all.

    What is saved are starts: imports, and loading the model. On a CPU the sampling of any larger
    model would hide that, so it is tiny there.
    """
    size, side = _QUICK if conditions.is_quick else _SIZES[conditions.device]
    count = _QUICK_RUNS if conditions.is_quick else _RUNS
    prompts = [word for prompt in _PROMPTS for word in ("--prompt", prompt)]
    options = (*prompts, "--size", f"{side}x{side}", "--device", conditions.device.value)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        conditions.tell("making the model and the runs")
        start_making(folder, size=size, device=conditions.device)
        runs = [f"runs/{number}" for number in range(count)]
        for run in runs:
            files = (word for one in Phase for word in (f"--{one}-lora", str(folder / one)))
            made = ("--alpha", str(RANK), "--schedule", "guide", "--model", "model", "--run", run)
            call([*_GLANCE, "import", *files, *made], folder)
        ways: Mapping[str, Callable[[], float]] = {
            _SINGLE: partial(
                _seconds,
                [("infer", "--run", run, "--output", f"alone/{run}", *options) for run in runs],
                folder,
            ),
            _BATCH: partial(_seconds, [("batch", "infer", "--runs", "runs", *options)], folder),
        }
        rounds = interleave(ways, conditions, first=[_BATCH])
    images = count * len(_PROMPTS)
    ratio = Ratio(
        name=f"images a second: {_BATCH} / {_SINGLE}",
        figure=summarise(one[_SINGLE] / one[_BATCH] for one in rounds),
        goal=Goal(at_least=1.0),
    )
    return Result(
        name="batch_infer",
        compares=(
            f"{images} images of {side} x {side} pixels, {len(_PROMPTS)} of each of {count} runs "
            f"of one FLUX with random weights, LoRAs of rank {RANK}: from the start of the first "
            "command to the end of the last."
        ),
        rounds=len(rounds),
        columns=(
            Column(name="seconds", digits=1, shows_spread=True),
            Column(name="seconds an image", digits=2),
        ),
        rows=tuple(
            Row(
                name=name,
                figures={
                    "seconds": summarise(one[name] for one in rounds),
                    "seconds an image": summarise(one[name] / images for one in rounds),
                },
            )
            for name in ways
        ),
        ratios=(ratio,),
    )


def _seconds(commands: list[tuple[str, ...]], folder: Path) -> float:
    began = time.perf_counter()
    for command in commands:
        call([*_GLANCE, *command, "--restart"], folder)
    return time.perf_counter() - began
