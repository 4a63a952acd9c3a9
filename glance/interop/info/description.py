"""What is found, for a program and for a person, and the words that are safe to print.

Metadata are anybody's: whatever a terminal would obey is shown escaped, and long values are cut.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from glance.core.errors import Problem
from glance.core.findings import shown

_WIDTH: Final = 240  # characters of a value
_NAME: Final = 24  # no name is given more room than this


@dataclass(frozen=True, slots=True)
class Description:
    """One file or folder: everything as JSON, and in lines for a person."""

    document: Mapping[str, Any]
    lines: tuple[str, ...]


def list_values(values: Mapping[str, object]) -> Iterator[str]:
    """Yield indented lines of names and values, safe to print; None has no line."""
    known = {shown(name): value for name, value in values.items() if value is not None}
    width = min(max(map(len, known), default=0), _NAME)
    for name, value in known.items():
        yield f"  {name:<{width}}  {cut(value)}"


def list_problems(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield what is wrong, each with its remedy, safe to print."""
    for problem in problems:
        yield f"  problem: {shown(problem.message)}"
        if problem.hint:
            yield f"    hint: {shown(problem.hint)}"


def cut(value: object) -> str:
    """Return a value in one line, safe to print, and how long it is where that is too long."""
    text = str(value)
    rest = f"... ({len(text):,} characters)" if len(text) > _WIDTH else ""
    return shown(text[:_WIDTH]) + rest


def join_numbers(values: Iterable[float]) -> str:
    """Return numbers as a person writes them."""
    return ", ".join(f"{value:g}" for value in values)


def count(number: int, thing: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def format_bytes(size: int) -> str:
    """Return a size as a person reads it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size:,} bytes"


def to_json(problems: Iterable[Problem]) -> list[dict[str, str | None]]:
    """Return problems as every `--json` has them."""
    return [{"message": problem.message, "hint": problem.hint} for problem in problems]
