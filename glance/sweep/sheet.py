"""The sheet of a sweep: a row for each point, a column for each prompt and seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Final

from glance.compare import Cell
from glance.compare.sheet import MOST_ROWS, place_picture
from glance.files import replacing

MOST_STRIPS: Final = MOST_ROWS
_SIDES: Final = (160, 320)  # pixels of a picture: at least, at most
_LINE: Final = 15
_HEAD: Final = 3 * _LINE  # the prompt
_TITLE: Final = 28
_LABEL: Final = 2 * _LINE + 6
_MARGIN: Final = 8
_LETTER: Final = 6.2  # pixels, of the small letters


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of the sheet: its title, and a picture a column."""

    title: str
    cells: tuple[Cell, ...]


def save_strips(
    strips: Sequence[Strip], *, columns: Sequence[str], sample: Path, path: Path
) -> None:
    """Draw at most MOST_STRIPS rows below what stands over their columns; raises OSError.

    `sample`, the picture that all points were trained on, stands in front of the first row.
    """
    from PIL import Image, ImageDraw

    strips = strips[:MOST_STRIPS]
    side = _side(strips)
    step, height = side + _MARGIN, _TITLE + side + _LABEL
    size = (_MARGIN + (1 + len(columns)) * step, _HEAD + _MARGIN + len(strips) * height)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    left, letters = _MARGIN + step, int(side / _LETTER)
    for number, text in enumerate(columns):
        for line, part in enumerate(wrap(text, letters, max_lines=3, placeholder=" ...")):
            place = (left + number * step, _MARGIN + line * _LINE)
            pen.text(place, part, fill="black", font_size=12)
    with Image.open(sample) as trained:
        place = (_MARGIN, _HEAD + _MARGIN + _TITLE)
        place_picture(sheet, pen, place, trained, side=side, lines=("trained on",))
    for row, strip in enumerate(strips):
        top = _HEAD + _MARGIN + row * height
        pen.text((left, top + 6), strip.title, fill="black", font_size=14)
        for column, cell in enumerate(strip.cells):
            place = (left + column * step, top + _TITLE)
            place_picture(sheet, pen, place, cell.image, side=side, lines=tuple(_lines(cell)))
    with replacing(path) as temporary:
        sheet.save(temporary)


def _side(strips: Sequence[Strip]) -> int:
    least, most = _SIDES
    largest = max(max(cell.image.size) for strip in strips for cell in strip.cells)
    return min(most, max(least, largest))


def _lines(cell: Cell) -> Iterator[str]:
    if cell.ssim is not None and cell.psnr is not None:
        yield f"SSIM {cell.ssim:.3f}"
        yield f"PSNR {cell.psnr:.1f} dB"
