"""The noise levels of both phases: parsing, rules, presets. Standard library only.

A timestep runs from 1000 (pure noise) down to 0 (the image); sigma = timestep / 1000, the
flow-matching convention of diffusers and SimpleTuner. A phase's list holds the values stepped
*from*; the slow phase ends at the fast phase's first value, the fast phase at 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from glance.errors import Problem, ScheduleError

MAX_TIMESTEP = 1000.0


class Phase(StrEnum):
    """The two LoRAs of a pair, in the order in which they are trained and sampled."""

    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True, slots=True)
class PhaseSchedule:
    """One phase: the timesteps (0-1000) stepped from, and the one it ends at."""

    timesteps: tuple[float, ...]
    end_timestep: float

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The same values as sigmas (0-1)."""
        return tuple(timestep / MAX_TIMESTEP for timestep in self.timesteps)

    @property
    def end_sigma(self) -> float:
        """The sigma (0-1) at which the phase leaves the latents."""
        return self.end_timestep / MAX_TIMESTEP

    def to_json(self) -> dict[str, list[float]]:
        """Return `{"timesteps": [...], "sigmas": [...]}`."""
        return {"timesteps": list(self.timesteps), "sigmas": list(self.sigmas)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Both phases, valid by construction: strictly decreasing from slow's first to fast's last."""

    name: str
    slow_timesteps: tuple[float, ...]
    fast_timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check every rule at once; raise ScheduleError with all that is wrong."""
        problems = _problems(self.slow_timesteps, self.fast_timesteps)
        if problems:
            raise ScheduleError(problems)

    def phase(self, phase: Phase) -> PhaseSchedule:
        """Return one phase's part."""
        match phase:
            case Phase.SLOW:
                return PhaseSchedule(self.slow_timesteps, self.fast_timesteps[0])
            case Phase.FAST:
                return PhaseSchedule(self.fast_timesteps, 0.0)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those of both phases (0-1), stepped from in this order."""
        return self.phase(Phase.SLOW).sigmas + self.phase(Phase.FAST).sigmas

    def to_json(self) -> dict[str, Any]:
        """Return `{"slow": {...}, "fast": {...}}`, the shape of every `--json` output."""
        return {phase.value: self.phase(phase).to_json() for phase in Phase}


@dataclass(frozen=True, slots=True)
class Preset:
    """A named schedule and where its numbers come from."""

    schedule: Schedule
    source: str


def parse_list(text: str, *, name: str) -> tuple[float, ...]:
    """Read a comma-separated list as timesteps (0-1000).

    Values that are all at most 1 are sigmas and are multiplied by 1000 (in decimal, so that
    0.9791915 becomes exactly 979.1915). `name` says in errors which list it was.

    Raises ScheduleError naming each value that is no number, and its place.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers: list[Decimal] = []
    problems: list[Problem] = []
    for place, part in enumerate(parts):
        try:
            numbers.append(Decimal(part))
        except InvalidOperation:
            problems.append(
                Problem(f"{name}[{place}]: {part!r} is not a number", "write 1000,979.2,957.5")
            )
    if problems:
        raise ScheduleError(problems)
    are_sigmas = all(number.is_nan() or number.copy_abs() <= 1 for number in numbers)
    return tuple(_as_float(number, is_sigma=are_sigmas) for number in numbers)


def resolve_schedule(
    name: str, *, slow_timesteps: str | None = None, fast_timesteps: str | None = None
) -> Schedule:
    """Return the preset `name`, with either list replaced by the user's own.

    Raises ScheduleError: unknown preset, a list that does not parse, or a rule broken.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise ScheduleError(
            f"schedule {name!r} is not known",
            hint=f"choose one of: {', '.join(PRESETS)}",
        )
    return replace_lists(
        preset.schedule, slow_timesteps=slow_timesteps, fast_timesteps=fast_timesteps
    )


def replace_lists(
    schedule: Schedule, *, slow_timesteps: str | None = None, fast_timesteps: str | None = None
) -> Schedule:
    """Return `schedule` with either list replaced by the user's own.

    Raises ScheduleError: a list that does not parse, or a rule broken.
    """
    if slow_timesteps is None and fast_timesteps is None:
        return schedule
    slow, fast = schedule.slow_timesteps, schedule.fast_timesteps
    if slow_timesteps is not None:
        slow = parse_list(slow_timesteps, name=Phase.SLOW)
    if fast_timesteps is not None:
        fast = parse_list(fast_timesteps, name=Phase.FAST)
    return Schedule("custom", slow, fast)


def _as_float(number: Decimal, *, is_sigma: bool) -> float:
    if number.is_nan():  # computing with a signalling one raises
        return math.nan
    return float(number * 1000 if is_sigma else number)


def _shown(value: float) -> str:
    """Return every digit of the user's own value: 1000.0001 must not become 1000."""
    return repr(value).removesuffix(".0")


def _problems(slow: Sequence[float], fast: Sequence[float]) -> list[Problem]:
    problems: list[Problem] = []
    places: list[tuple[str, float]] = []
    for phase, values in ((Phase.SLOW, slow), (Phase.FAST, fast)):
        if not values:
            problems.append(Problem(f"{phase}: the list is empty", "give at least one timestep"))
        places += [(f"{phase}[{place}]", value) for place, value in enumerate(values)]
    usable: list[tuple[str, float]] = []
    for where, value in places:
        if not math.isfinite(value):
            problems.append(Problem(f"{where}: {value} is not a finite number"))
        elif not 0 < value <= MAX_TIMESTEP:
            problems.append(
                Problem(
                    f"{where}: {_shown(value)} is outside 0-1000",
                    "timesteps lie above 0 and at most at 1000; a list of sigmas lies above 0 "
                    "and at most at 1",
                )
            )
        else:
            usable.append((where, value))
    for (before, higher), (where, value) in pairwise(usable):
        if value >= higher:
            problems.append(
                Problem(
                    f"{where}: {_shown(value)} is not below {before} = {_shown(higher)}",
                    "both lists together run strictly downwards, slow first",
                )
            )
    return problems


# Last in the file: a preset is checked by the rules above as soon as it is made.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "seed": Preset(
            Schedule(
                "seed",
                (1000.0, 979.1915, 957.5157, 934.9171, 911.3354),
                (886.7053, 745.0728, 562.9505, 320.0802, 20.0),
            ),
            "SimpleTuner's one-sample guide. The numbers are Qwen-Image's at 1024x1024 "
            "(mu = 0.6935, terminal 0.02); the guide uses them for FLUX too.",
        ),
        "paper": Preset(
            Schedule(
                "paper",
                (1000.0, 986.9786, 973.2042, 958.6094, 943.1188),
                (926.6473, 825.7017, 677.9868, 441.1997, 60.5503),
            ),
            "Steps 1 3 5 7 9 | 11 21 31 41 50 of FLUX.1-dev's own 50-step schedule at 1024x1024 "
            "(mu = 1.15), as arXiv 2512.02899 chooses them.",
        ),
    }
)
