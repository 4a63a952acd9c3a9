"""What a training takes in memory and time, against what `glance train --dry-run` says.

On the CPU that is system memory. On a GPU the card's is told as well, where nvidia-ml-py is
installed (glance's extra `cuda`).
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.models import start_making
from benchmarks.result import Column, Ratio, Result, Row, summarise
from benchmarks.rounds import ROOT, SMALL_MODEL, Conditions, call, interleave
from glance.core.device import Device, speed
from glance.training.machine import estimate, seconds_a_step
from glance.training.plan import plan_settings
from glance.training.request import TrainRequest

_RESOLUTIONS: Final = {Device.CPU: (64, 256, 384, 512), Device.CUDA: (256, 512, 1024)}
_PICTURE: Final = ROOT / "data" / "glance.png"
_STEPS: Final = 4
_SYSTEM, _CARD, _STEP = "GB of system memory", "GB of the card", "seconds a step"

Measured = Mapping[str, float]
"""Quantities by name; what was not told is not there."""


def measure(conditions: Conditions) -> Result:
    """Train a large FLUX with random weights for four steps at several resolutions."""
    resolutions = (64,) if conditions.is_quick else _RESOLUTIONS[conditions.device]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, model = Path(place), SMALL_MODEL
        if not conditions.is_quick:
            conditions.tell("making the model")
            start_making(folder, size="twentieth", device=conditions.device)
            model = folder / "model"
        said = {side: _reckon(model, side, conditions.device) for side in resolutions}
        ways: Mapping[str, Callable[[], Measured]] = {
            str(side): partial(_train, model, side, conditions.device) for side in resolutions
        }
        rounds = interleave(ways, conditions)
    described = "The small model of the package:" if conditions.is_quick else _LARGE
    return _report(described, rounds, {str(side): one for side, one in said.items()})


def _report(model: str, rounds: list[dict[str, Measured]], said: Mapping[str, Measured]) -> Result:
    quantities = [
        quantity
        for quantity in (_CARD, _SYSTEM, _STEP)
        if all(quantity in one for one in (*said.values(), *rounds[0].values()))
    ]

    def taken(side: str, quantity: str) -> Iterable[float]:
        return [one[side][quantity] for one in rounds]

    rows, ratios = [], []
    for side, reckoned in said.items():
        figures = {}
        for quantity in quantities:
            figures[f"{quantity}, said"] = summarise([reckoned[quantity]])
            figures[quantity] = summarise(taken(side, quantity))
            errors = (reckoned[quantity] / one for one in taken(side, quantity))
            name = f"{quantity} at {side}, said / taken"
            ratios.append(Ratio(name=name, figure=summarise(errors)))
        rows.append(Row(name=f"at {side} x {side}", figures=figures))
    return Result(
        name="memory",
        compares=f"{model} {_COMPARES}",
        rounds=len(rounds),
        columns=tuple(
            Column(name=name, digits=2, shows_spread=True)
            for quantity in quantities
            for name in (f"{quantity}, said", quantity)
        ),
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def _request(model: Path, resolution: int, device: Device) -> TrainRequest:
    return TrainRequest(
        image=(_PICTURE,),
        model=str(model),
        resolution=resolution,
        device=device.value,
        steps=_STEPS,
    )


def _reckon(model: Path, resolution: int, device: Device) -> Measured:
    """Return what `--dry-run` would say."""
    _, settings = plan_settings(_request(model, resolution, device))
    found, pace = estimate(settings), speed(device)
    said = {
        _SYSTEM: found.system,
        _CARD: found.gpu,
        _STEP: None if pace is None else seconds_a_step(settings, pace),
    }
    return {name: value for name, value in said.items() if value is not None}


def _train(model: Path, resolution: int, device: Device) -> Measured:
    """Return the gigabytes that it took at most, and the seconds a step."""
    command = [
        *(sys.executable, "-m", "glance", "train", "--image", str(_PICTURE)),
        *("--model", str(model), "--run", "run", "--resolution", str(resolution)),
        *("--phase", "slow", "--steps", str(_STEPS), "--device", device.value),
        *("--launcher", "direct", "--verbose", "--events", "events.jsonl"),
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        call(command, folder)
        told = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return measure_events([json.loads(line) for line in told])


def measure_events(events: list[dict[str, Any]]) -> Measured:
    """Return what the events of a training tell; the first step, which warms up, is left out."""
    used = [one for one in events if one["event"] == "MemoryUsed"]
    cards = [one["gpu"] for one in used if one["gpu"]]
    times = [one["time"] for one in events if one["event"] == "StepDone"]
    return {
        _SYSTEM: max(one["resident"] for one in used) / 1e9,
        _STEP: (times[-1] - times[0]) / (len(times) - 1),
        **({_CARD: max(cards) / 1e9} if cards else {}),
    }


_LARGE: Final = (
    "A FLUX with random weights, 0.64 billion parameters in its transformer and 0.4 in its T5:"
)
_COMPARES: Final = (
    f"rank 32, {_STEPS} steps of the slow phase by real SimpleTuner; what the estimate says, and "
    "what the trainer's processes held at most."
)
