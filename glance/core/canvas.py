"""Curves as text: a grid of characters with axes, in braille or in plain ASCII."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Unicode's braille block: bit by column (0-1) and row (0-3) of the eight dots in a character.
_BRAILLE: Final = 0x2800
_BITS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What a chart is made of."""

    axis: str
    corner: str
    floor: str
    boundary: str
    faint: str
    curve: str
    """How a curve is named in a legend."""
    is_braille: bool


UNICODE: Final = Glyphs("│", "└", "─", "┊", "·", "⠒⠒", is_braille=True)
ASCII: Final = Glyphs("|", "+", "-", ":", ".", "*", is_braille=False)


def choose_glyphs(encoding: str | None) -> Glyphs:
    """Return the finest glyphs that a stream of that encoding can write."""
    samples = "".join((UNICODE.axis, UNICODE.corner, UNICODE.boundary, UNICODE.curve))
    try:
        samples.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


class Canvas:
    """A grid of `width` x `height` characters; x and y run from 0 to 1, y upwards."""

    def __init__(self, width: int, height: int, glyphs: Glyphs) -> None:
        """Begin empty."""
        self._glyphs = glyphs
        self._width, self._height = width, height
        self._fine = (2, 4) if glyphs.is_braille else (1, 1)  # dots in a character
        self._dots: set[tuple[int, int]] = set()
        self._marks: dict[tuple[int, int], str] = {}

    def line(self, points: Sequence[tuple[float, float]]) -> None:
        """Draw straight lines from point to point."""
        placed = [self._dot(x, y) for x, y in points]
        self._dots |= set(placed)
        for (x0, y0), (x1, y1) in pairwise(placed):
            steps = max(abs(x1 - x0), abs(y1 - y0))
            for step in range(1, steps):
                share = step / steps
                self._dots.add((round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0))))

    def mark(self, x: float, y: float, character: str) -> None:
        """Put a character at a point, over everything else."""
        self._marks[self._cell(*self._dot(x, y))] = character

    def column(self, x: float, character: str) -> None:
        """Put a character wherever the column of x is free."""
        column, _ = self._cell(*self._dot(x, 0.0))
        for row in range(self._height):
            self._marks.setdefault((column, row), character)

    def rows(self) -> list[str]:
        """Return the rows from the top; each has the whole width."""
        drawn: dict[tuple[int, int], int] = {}
        for x, y in self._dots:
            cell, bit = self._cell(x, y), _BITS[x % 2][y % 4]
            drawn[cell] = drawn.get(cell, 0) | bit
        return [
            "".join(self._character((column, row), drawn) for column in range(self._width))
            for row in range(self._height)
        ]

    def _character(self, cell: tuple[int, int], drawn: dict[tuple[int, int], int]) -> str:
        mark = self._marks.get(cell)
        if cell in drawn and mark in (None, self._glyphs.faint, self._glyphs.boundary):
            return chr(_BRAILLE + drawn[cell]) if self._glyphs.is_braille else self._glyphs.curve
        return mark or " "

    def _dot(self, x: float, y: float) -> tuple[int, int]:
        across, down = self._width * self._fine[0] - 1, self._height * self._fine[1] - 1
        return round(min(max(x, 0.0), 1.0) * across), round((1 - min(max(y, 0.0), 1.0)) * down)

    def _cell(self, x: int, y: int) -> tuple[int, int]:
        return x // self._fine[0], y // self._fine[1]


def frame(
    rows: Sequence[str], glyphs: Glyphs, *, left: Sequence[str], right: Sequence[str], below: str
) -> list[str]:
    """Return the rows between axes: a label at every row's left and right, `below` as it is.

    `left` and `right` hold a text a row, mostly empty; `below` begins where the rows begin.
    """
    margin = max(map(len, left))
    lines = [
        f"{label:>{margin}} {glyphs.axis}{row}{f' {beside}' if beside else ''}"
        for label, row, beside in zip(left, rows, right, strict=True)
    ]
    lines.append(f"{'':{margin}} {glyphs.corner}{glyphs.floor * len(rows[0])}")
    lines.append(f"{'':{margin}}  {below}")
    return [line.rstrip() for line in lines]


def spread_labels(labels: Iterable[tuple[float, str]], width: int) -> str:
    """Return labels on one line, each centred at its share (0-1) of the width; no two touch."""
    line = [" "] * width
    for share, label in labels:
        start = min(max(round(share * (width - 1) - len(label) / 2 + 0.5), 0), width - len(label))
        around = line[max(start - 1, 0) : start + len(label) + 1]
        if all(character == " " for character in around):
            line[start : start + len(label)] = label
    return "".join(line).rstrip()


def label_rows(height: int, labels: Iterable[tuple[float, str]]) -> list[str]:
    """Return a text a row from the top: each label at its share (0-1, upwards) of the height."""
    texts = [""] * height
    for share, label in labels:
        texts[round((1 - share) * (height - 1))] = label
    return texts
