"""How all benchmarks measure: rounds in which every way is run once, in processes of their own.

A machine whose speed drifts treats ways alike that take turns, so what is compared is compared
within a round; each round has an order of its own, as a way may profit from the one before.
"""

import os
import random
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.device import Device

ROOT: Final = Path(__file__).parents[1]
SMALL_MODEL: Final = ROOT / "glance" / "assets" / "small-flux"
PICTURE: Final = ROOT / "glance" / "assets" / "sunset.png"
_TOLD: Final = 15  # lines of a failed command


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where and how much is measured."""

    device: Device
    rounds: int
    is_quick: bool
    """A smoke run: everything is small, and the figures mean nothing."""
    tell: Callable[[str], None]
    """Is told what is going on, a line at a time."""


def interleave[T](
    ways: Mapping[str, Callable[[], T]], conditions: Conditions, *, first: Iterable[str] = ()
) -> list[dict[str, T]]:
    """Return what each way measured in each round.

    The ways of `first` are run once beforehand, not measured, to fill the disk's cache; a smoke
    run does without.
    """
    for name in () if conditions.is_quick else first:
        conditions.tell(f"beforehand: {name}")
        ways[name]()
    rounds = []
    for number in range(conditions.rounds):
        done = {}
        for name in random.Random(number).sample(list(ways), len(ways)):
            conditions.tell(f"round {number + 1} of {conditions.rounds}: {name}")
            done[name] = ways[name]()
        rounds.append(done)
    return rounds


def call(
    command: Sequence[str], folder: Path = ROOT, environment: Mapping[str, str] = os.environ
) -> str:
    """Run a command in a folder and return what it printed.

    Raises RuntimeError with the command's last words where it fails.
    """
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[-_TOLD:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{words}")
    return done.stdout
