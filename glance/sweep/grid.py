"""The points of a sweep: every combination of the lists, named by what varies."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Final

from glance.errors import Problem, SettingsError
from glance.sample import safe_name
from glance.sweep.request import SweepRequest

MOST_POINTS: Final = 1000
"""Each of them is a training of minutes or hours."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination, unchecked but for being numbers."""

    name: str
    """The name of its run folder."""
    rank: int
    learning_rate: float | None
    """None: the family's."""
    steps: int
    schedule: str


def lay_out_grid(request: SweepRequest) -> tuple[Point, ...]:
    """Return every combination of the request's lists, each value once, in the order typed.

    A point is named after the settings that vary, or after all of them when it is the only one.
    Raises SettingsError with every value that is no number, and for two schedules of one name.
    """
    problems: list[Problem] = []
    ranks = _axis("--rank", request.ranks, _RANK, problems)
    rates = _rates(request.learning_rates, problems)
    steps = _axis("--steps", request.steps, _STEPS, problems)
    schedules = {_name_schedule(text): text for text in _split(request.schedules)}
    problems += _namesakes(request.schedules)
    points = math.prod(map(len, (ranks, rates, steps, schedules)))
    if points > MOST_POINTS:
        problems.append(
            Problem(
                f"--rank, --learning-rate, --steps and --schedule: {points:,} combinations, and "
                f"one sweep trains at most {MOST_POINTS:,}",
                "give fewer values; the values of one list at a time say most",
            )
        )
    if problems:
        raise SettingsError(problems)
    varies = [len(axis) > 1 for axis in (ranks, rates, steps, schedules)]
    is_named = varies if any(varies) else [True] * len(varies)

    def name(*labels: str) -> str:
        return "-".join(label for label, is_told in zip(labels, is_named, strict=True) if is_told)

    return tuple(
        Point(name(*labels), ranks[rank], rates[rate], steps[count], schedules[schedule])
        for labels in product(ranks, rates, steps, schedules)
        for rank, rate, count, schedule in [labels]
    )


def format_rate(rate: float) -> str:
    """Return a finite learning rate as people write it: 1e-4 for 0.0001."""
    sign, digits, exponent = Decimal(repr(rate)).normalize().as_tuple()
    power = int(exponent) + len(digits) - 1
    rest = "".join(map(str, digits[1:]))
    return f"{'-' * sign}{digits[0]}{'.' * bool(rest)}{rest}e{power}"


@dataclass(frozen=True, slots=True)
class _Kind[T]:
    """How the values of one list are read (raising ValueError), and labelled."""

    read: Callable[[str], T]
    label: Callable[[T], str]
    what: str
    example: str


def _read_rate(text: str) -> float:
    rate = float(text)
    if not math.isfinite(rate):
        raise ValueError(text)
    return rate


_RANK: Final = _Kind(int, lambda rank: f"rank-{rank}", "a whole number", "4,16")
_STEPS: Final = _Kind(int, lambda steps: f"steps-{steps}", "a whole number", "60,120")
_RATE: Final = _Kind(_read_rate, lambda rate: f"rate-{format_rate(rate)}", "a number", "1e-4,5e-4")


def _rates(text: str | None, problems: list[Problem]) -> Mapping[str, float | None]:
    if text is None:
        return {"rate-default": None}
    typed: dict[str, float] = _axis("--learning-rate", text, _RATE, problems)
    return typed


def _axis[T](flag: str, text: str, kind: _Kind[T], problems: list[Problem]) -> dict[str, T]:
    """Return the values of one list by their labels; add to `problems` what cannot be read."""
    values: dict[str, T] = {}
    for part in _split(text):
        try:
            value = kind.read(part)
        except ValueError:
            hint = f"several are separated by commas: {flag} {kind.example}"
            problems.append(Problem(f"{flag} {text}: {part!r} is not {kind.what}", hint))
        else:
            values[kind.label(value)] = value
    return values


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _name_schedule(text: str) -> str:
    return safe_name(Path(text))


def _namesakes(text: str) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for schedule in _split(text):
        name = _name_schedule(schedule)
        other = first.setdefault(name, schedule)
        if other != schedule:
            yield Problem(
                f"--schedule {other} and {schedule}: the runs of both would be named {name}",
                "give one of the files another name",
            )
