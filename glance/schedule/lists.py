"""The noise levels of both phases: parsing, rules, presets. Standard library only.

A timestep runs from 1000 (pure noise) down to 0 (the image); sigma = timestep / 1000, the
flow-matching convention of diffusers and SimpleTuner. A phase's list holds the values stepped
*from*; the slow phase ends at the fast phase's first value, the fast phase at 0.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Self

from glance.core.errors import Problem, ScheduleError, as_typed
from glance.core.phase import Phase
from glance.core.tables import Rows

DEFAULT_SCHEDULE: Final = "guide"
_EARLIER_NAMES: Final = MappingProxyType({"seed": "guide"})
"""What presets were called: typed by hand, and in older files."""
MAX_TIMESTEP = 1000.0
MOST_STEPS: Final = 1000
"""Of a phase: the noise levels that the models were trained on."""
_EXAMPLE: Final = "such as 1000,979,958,935,911 and 887,745,563,320,20"


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
class Level:
    """One value of a list: what it is, and how and where the user wrote it."""

    timestep: float
    text: str
    """As it was typed: a sigma as a sigma."""
    place: str
    """`--slow-timesteps, value 2`."""
    is_sigma: bool = False


@dataclass(frozen=True, slots=True)
class WrittenList:
    """A phase's list as the user wrote it, for what is to be said of it."""

    name: str
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, name: str, values: Sequence[float], *, is_sigma: bool = False) -> Self:
        """Return the list of Python or of JSON, whose places count from 0."""
        factor = MAX_TIMESTEP if is_sigma else 1
        levels = (
            Level(value * factor, as_typed(value), f"{name}[{number}]", is_sigma)
            for number, value in enumerate(values)
        )
        return cls(name, tuple(levels))

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Its values, 0-1000."""
        return tuple(level.timestep for level in self.levels)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Both phases, valid by construction: strictly decreasing from slow's first to fast's last."""

    name: str
    slow_timesteps: tuple[float, ...]
    fast_timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", preset_name(self.name))
        _require_rules(
            WrittenList.of(Phase.SLOW, self.slow_timesteps),
            WrittenList.of(Phase.FAST, self.fast_timesteps),
        )

    @classmethod
    def written(cls, name: str, slow: WrittenList, fast: WrittenList) -> Self:
        """Return the schedule of two lists; raise ScheduleError in the user's own spelling."""
        _require_rules(slow, fast)
        return cls(name, slow.timesteps, fast.timesteps)

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

    def rows(self) -> Rows:
        """Yield its name and both lists."""
        yield "schedule", self.name
        for phase in Phase:
            yield f"  {phase}", " ".join(f"{value:g}" for value in self.phase(phase).timesteps)


@dataclass(frozen=True, slots=True)
class ResolvedSchedule:
    """A schedule, and where its numbers come from."""

    schedule: Schedule
    source: str
    doubts: tuple[Problem, ...] = ()


def preset_name(name: str) -> str:
    """Return what a preset is called now; any other name as it is."""
    return _EARLIER_NAMES.get(name, name)


def parse_list(text: str, *, name: str) -> WrittenList:
    """Read a comma-separated list as timesteps (0-1000).

    Values that are all at most 1 are sigmas and are multiplied by 1000 (in decimal, so that
    0.9791915 becomes exactly 979.1915). `name` says in errors which list it was: its flag.

    Raises ScheduleError naming each value that is no number, and its place.
    """
    parts = [part.strip() for part in text.split(",")]
    numbers: list[Decimal] = []
    problems: list[Problem] = []
    for place, part in enumerate(parts, 1):
        try:
            numbers.append(Decimal(part))
        except InvalidOperation:
            problems.append(
                Problem(
                    f"{name}, value {place}: {part!r} is not a number",
                    f"write numbers with commas between them, {_EXAMPLE}",
                )
            )
    if problems:
        raise ScheduleError(problems)
    are_sigmas = all(number.is_nan() or number.copy_abs() <= 1 for number in numbers)
    # computing with a signalling NaN raises
    values = (
        math.nan if one.is_nan() else float(one * 1000 if are_sigmas else one) for one in numbers
    )
    levels = (
        Level(value, part, f"{name}, value {place}", are_sigmas)
        for place, (value, part) in enumerate(zip(values, parts, strict=True), 1)
    )
    return WrittenList(name, tuple(levels))


def resolve_schedule(
    name: str, *, slow_timesteps: str | None = None, fast_timesteps: str | None = None
) -> Schedule:
    """Return the preset `name`, with either list replaced by the user's own.

    Raises ScheduleError: unknown preset, a list that does not parse, or a rule broken.
    """
    preset = PRESETS.get(preset_name(name))
    if preset is None:
        raise ScheduleError(
            f"schedule {name!r} is not known", hint=f"choose one of: {', '.join(PRESETS)}"
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
    slow, fast = (
        _kept_list(schedule, phase)
        if text is None
        else parse_list(text, name=f"--{phase}-timesteps")
        for phase, text in zip(Phase, (slow_timesteps, fast_timesteps), strict=True)
    )
    return Schedule.written("custom", slow, fast)


def _kept_list(schedule: Schedule, phase: Phase) -> WrittenList:
    name = f"the {phase} list of the schedule {schedule.name}"
    levels = (
        Level(timestep, as_typed(timestep), f"{name}, value {place}")
        for place, timestep in enumerate(schedule.phase(phase).timesteps, 1)
    )
    return WrittenList(name, tuple(levels))


def _require_rules(slow: WrittenList, fast: WrittenList) -> None:
    problems = [problem for one in (slow, fast) for problem in _problems(one)]
    usable = [
        level for one in (slow, fast) for level in one.levels if 0 < level.timestep <= MAX_TIMESTEP
    ]
    problems += (
        Problem(
            f"{level.place}: {level.text} is not below {before.place} = {_beside(before, level)}",
            f"both lists together run strictly downwards, slow first: {_EXAMPLE}",
        )
        for before, level in pairwise(usable)
        if level.timestep >= before.timestep
    )
    if problems:
        raise ScheduleError(problems)


def _beside(one: Level, other: Level) -> str:
    """Return a value in the other one's unit."""
    if one.is_sigma is other.is_sigma:
        return one.text
    return as_typed(one.timestep / MAX_TIMESTEP if other.is_sigma else one.timestep)


def _problems(one: WrittenList) -> Iterator[Problem]:
    if not one.levels:
        yield Problem(f"{one.name}: the list is empty", f"give at least one timestep, {_EXAMPLE}")
    if len(one.levels) > MOST_STEPS:
        yield Problem(
            f"{one.name}: it holds {len(one.levels):,} values, and models know {MOST_STEPS:,} "
            "noise levels",
            "a pair takes few steps: five a phase are usual",
        )
        return
    for level in one.levels:
        most = "1" if level.is_sigma else "1000"
        if not math.isfinite(level.timestep):
            yield Problem(f"{level.place}: {level.text} is not a finite number", _EXAMPLE)
        elif not 0 < level.timestep <= MAX_TIMESTEP:
            yield Problem(
                f"{level.place}: {level.text} is not above 0 and at most {most}",
                f"timesteps lie up to 1000, and a list that is all at most 1 holds sigmas: "
                f"{_EXAMPLE}",
            )


# Last in the file: a preset is checked by the rules above as soon as it is made.
PRESETS: Mapping[str, ResolvedSchedule] = MappingProxyType(
    {
        "guide": ResolvedSchedule(
            Schedule(
                "guide",
                (1000.0, 979.1915, 957.5157, 934.9171, 911.3354),
                (886.7053, 745.0728, 562.9505, 320.0802, 20.0),
            ),
            "SimpleTuner's one-sample guide. The numbers are Qwen-Image's at 1024x1024 "
            "(mu = 0.6935, terminal 0.02); the guide uses them for FLUX too.",
        ),
        "paper": ResolvedSchedule(
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
