"""Text in columns, and what a plan is in words: rows for the terminal and for pages alike."""

from collections.abc import Callable, Iterable, Iterator
from textwrap import shorten
from typing import Final

_TEXT: Final = 70  # characters of a prompt

type Rows = Iterator[tuple[str, str]]
"""A name, and what is to be said of it; an empty name goes on with the one before."""


def format_table(
    header: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    align: Callable[[str, int], str] = str.rjust,
) -> str:
    """Return columns under a header, right-aligned."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(align(cell, width) for cell, width in zip(row, widths, strict=True))
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def name_some(names: Iterable[str], most: int = 20) -> str:
    """List names for a message: the first ones, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def continued(name: str, texts: Iterable[str]) -> Rows:
    """Yield a row for each text, the name before the first; nothing for none."""
    for number, text in enumerate(texts):
        yield "" if number else name, text


def listed(texts: list[str], *, most: int) -> Iterator[str]:
    """Yield the first texts, and how many there are besides."""
    yield from texts[:most]
    if len(texts) > most:
        yield f"... and {len(texts) - most:,} more"


def short(text: str) -> str:
    """Return a prompt in the room that a row has."""
    return shorten(text, _TEXT, placeholder=" ...")
