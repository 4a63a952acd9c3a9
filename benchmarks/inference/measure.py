"""The rounds of the benchmark of sampling."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.inference import report
from benchmarks.inference.ways import WAYS
from benchmarks.models import RANK, start_making
from benchmarks.result import Result
from benchmarks.rounds import ROOT, Conditions, call, interleave
from glance.core.device import Device

_SIZES: Final = {Device.CPU: ("hundredths", 256), Device.CUDA: ("fifth", 1024)}
_QUICK: Final = ("tiny", 64)
_TRANSFORMERS: Final = {
    "hundredths": "37 million parameters in its transformer and 134 million in its T5",
    "fifth": "FLUX.1's width and a fifth of its depth, and a T5 of a billion parameters",
    "tiny": "hardly any parameters",
}


def measure(conditions: Conditions) -> Result:
    """Sample in every way once a round, each a process of its own."""
    size, side = _QUICK if conditions.is_quick else _SIZES[conditions.device]
    on_gpu = conditions.device is Device.CUDA
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        conditions.tell("making the model")
        start_making(folder, size=size, device=conditions.device)
        ways: Mapping[str, Callable[[], Mapping[str, float]]] = {
            way: partial(_run, way, folder, conditions.device, side) for way in WAYS
        }
        rounds = interleave(ways, conditions, first=["glance"])
        pictures = report.pictures(folder)
    return Result(
        name="inference",
        compares=(
            f"A FLUX with random weights, {_TRANSFORMERS[size]}, two LoRAs of rank {RANK} on all "
            f"attention projections, one picture of {side} x {side} pixels. "
            + (_ON_THE_GPU if on_gpu else _ON_THE_CPU)
        ),
        rounds=len(rounds),
        columns=report.columns(on_gpu=on_gpu),
        rows=report.rows(rounds, on_gpu=on_gpu),
        ratios=report.ratios(rounds, on_gpu=on_gpu),
        notes=(pictures,),
    )


def _run(way: str, folder: Path, device: Device, side: int) -> Mapping[str, float]:
    """Run one way, and return what it measured of itself."""
    threads = {"OMP_NUM_THREADS": "1"} if device is Device.CPU else {}
    command = [
        *(sys.executable, "-m", "benchmarks.inference.ways"),
        *(way, str(folder), device.value, str(side)),
    ]
    printed = call(command, ROOT, {**os.environ, **threads})
    measured: dict[str, float] = json.loads(printed.splitlines()[-1])
    return measured


_ON_THE_CPU: Final = (
    "In fp32, on one thread; seconds are the processor's, as other guests of a machine make the "
    "clock on the wall jump. No way pays for garbage collections among the imports."
)
_ON_THE_GPU: Final = (
    "In bf16; seconds are those of the clock on the wall, read before and after each part when "
    "the GPU was done. No way pays for garbage collections among the imports."
)
