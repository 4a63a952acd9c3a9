"""Text of others as Markdown: what people wrote is shown as it is, and is never markup."""

from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import Final

_MARKUP: Final = {ord(letter): f"&#{ord(letter)};" for letter in '\\`*_{}[]()#+!|<>&$~:@="^'}
"""Entities, not backslashes: the Hub looks for formulas, `\\(...\\)`, before it reads Markdown."""


def flatten(text: str) -> str:
    """Return the text in one line, without what cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape(text: str, *, most: int = 300) -> str:
    """Return the text for inside a line or a table's cell, in at most so many characters."""
    return shorten(flatten(text), most, placeholder=" ...").translate(_MARKUP)


def draw_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
