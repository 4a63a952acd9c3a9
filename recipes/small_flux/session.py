"""What both recipes share: the clock, the log, safe checkpoints, averaged weights."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Clock:
    """A training budget in minutes; earlier sessions' minutes are counted for the log."""

    def __init__(self, minutes: float, *, before: float = 0.0) -> None:
        """Start now."""
        self.budget = minutes * 60
        self.before = before
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since this session began."""
        return time.monotonic() - self._start

    @property
    def total(self) -> float:
        """The seconds of all sessions."""
        return self.before + self.seconds

    @property
    def share(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        return min(1.0, self.seconds / self.budget)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.seconds >= self.budget

    def schedule(self) -> float:
        """Return the learning rate's factor: a short rise, a plateau, a fall to a twentieth."""
        rise, fall = 0.02, 0.55
        if self.share < rise and self.before == 0:
            return self.share / rise
        if self.share < fall:
            return 1.0
        return 0.05 + 0.95 * (1 - self.share) / (1 - fall)


class Log:
    """A JSON line an entry, to a file and to the screen."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, **entry: Any) -> None:
        """Write one entry; floats are rounded to what matters."""
        rounded = {
            key: round(value, 5) if isinstance(value, float) else value
            for key, value in entry.items()
        }
        line = json.dumps(rounded)
        with self._path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        print(line, flush=True)  # noqa: T201 - a recipe talks on its standard output


class Average:
    """An exponential moving average of parameters, with a warm-up."""

    def __init__(self, parameters: Mapping[str, Tensor], *, decay: float = 0.998) -> None:
        """Start at the parameters as they are."""
        self.decay = decay
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        """Move towards the parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine = list(self.values.values())
        theirs = [parameters[name].detach() for name in self.values]
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    torch.save(dict(state), unfinished)
    unfinished.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or return None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
