"""What it costs to start a command that loads no model, next to Python alone."""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import Conditions, call, interleave

_PYTHON: Final = "python -c pass"
_GLANCE: Final = (sys.executable, "-m", "glance")
_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    _PYTHON: (sys.executable, "-c", "pass"),
    "glance --help": (*_GLANCE, "--help"),
    "glance schedule": (*_GLANCE, "schedule"),
    "glance check": (*_GLANCE, "check", "data/glance.png"),
    "glance train --dry-run": (
        *(*_GLANCE, "train", "--image", "data/glance.png"),
        *("--device", "cuda", "--dry-run"),
    ),
}
_HELP, _OTHERS = Goal(at_most=0.25), Goal(at_most=0.7)
_GOALS: Final = {_PYTHON: None, "glance --help": _HELP}
_COLUMNS: Final = (
    Column(name="seconds", digits=3, shows_spread=True),
    Column(name="above Python", digits=3, shows_spread=True),
)


def measure(conditions: Conditions) -> Result:
    """Start each command once a round. No device has to do with it."""
    ways: Mapping[str, Callable[[], float]] = {
        name: partial(_seconds, command) for name, command in _COMMANDS.items()
    }
    rounds = interleave(ways, conditions, first=ways)
    rows = (
        Row(
            name=f"`{name}`",
            figures={
                "seconds": summarise(one[name] for one in rounds),
                "above Python": summarise(one[name] - one[_PYTHON] for one in rounds),
            },
            goal=_GOALS.get(name, _OTHERS),
        )
        for name in ways
    )
    ratios = (
        Ratio(
            name=f"`{name}` / Python", figure=summarise(one[name] / one[_PYTHON] for one in rounds)
        )
        for name in ways
        if name != _PYTHON
    )
    return Result(
        name="startup",
        compares="Commands that load no model, each from its start to its end.",
        rounds=len(rounds),
        columns=_COLUMNS,
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def _seconds(command: tuple[str, ...]) -> float:
    began = time.perf_counter()
    call(command)
    return time.perf_counter() - began
