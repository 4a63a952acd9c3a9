"""One picture of a comparison: a row for each prompt and seed, the training sample in front."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, Final

from glance.core.files import replacing
from glance.evaluation.compare.result import Cell, Comparison

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_ROWS: Final = 40  # taller, and viewers take it for an attack
_CELL: Final = (160, 320)  # pixels: at least, at most
_TITLE: Final = 34
_HEADLINE: Final = 18  # a line of it
_LINE: Final = 15
_LABEL: Final = 5 * _LINE  # variant, seconds, distance, two lines: figures, or a judge's words
_LETTER: Final = 6.2  # pixels, of the labels' size
_TITLE_LETTER: Final = _LETTER * 14 / 12
_MARGIN: Final = 8


def save_sheet(
    comparison: Comparison, sample: Path | None, path: Path, *, headline: str = ""
) -> None:
    """Draw the comparison as one picture and write it to `path`; raises OSError.

    `sample` is the picture that the pair was trained on, if it is there. Only the first MOST_ROWS
    rows are shown. `headline` stands above them.
    """
    from PIL import Image, ImageDraw

    rows = comparison.rows[:MOST_ROWS]
    side = _side(comparison)
    columns = max(len(row.cells) for row in rows) + (sample is not None)
    height = _TITLE + side + _LABEL + _MARGIN
    width = columns * (side + _MARGIN) + _MARGIN
    lines = wrap(headline, int((width - 2 * _MARGIN) / _TITLE_LETTER))
    head = len(lines) * _HEADLINE
    sheet = Image.new("RGB", (width, head + len(rows) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        place = (_MARGIN, _MARGIN + number * _HEADLINE)
        pen.text(place, line, fill="black", font_size=14)
    first = _MARGIN
    if sample is not None:
        first += side + _MARGIN
        with Image.open(sample) as trained:
            place = (_MARGIN, head + _TITLE)
            place_picture(sheet, pen, place, trained, side=side, lines=("trained on",))
    for number, row in enumerate(rows):
        top = head + number * height + _TITLE
        title = row.prompt if row.seed == 0 else f"{row.prompt}  (seed {row.seed})"
        room = int((sheet.width - first) / _TITLE_LETTER)
        pen.text((first, top - _TITLE + _MARGIN), shorten(title, room), fill="black", font_size=14)
        for column, cell in enumerate(row.cells.values()):
            place = (first + column * (side + _MARGIN), top)
            place_picture(sheet, pen, place, cell.image, side=side, lines=tuple(_lines(cell, side)))
    with replacing(path) as temporary:
        sheet.save(temporary)


def _side(comparison: Comparison) -> int:
    sides = (max(cell.image.size) for row in comparison.rows for cell in row.cells.values())
    least, most = _CELL
    return min(most, max(least, *sides))


def _lines(cell: Cell, side: int) -> Iterator[str]:
    yield cell.label
    if cell.seconds is not None:
        yield f"{cell.seconds:.2f} s"
    if cell.distance is not None:
        yield f"latents {cell.distance:.3f}"
    if cell.verdict:
        letters = int(side / _LETTER)
        yield from wrap(cell.verdict, letters, max_lines=2, placeholder=" ...")
    elif cell.psnr is not None and cell.ssim is not None:
        yield f"SSIM {cell.ssim:.3f}"
        yield f"PSNR {cell.psnr:.1f} dB"


def place_picture(
    sheet: "Image",
    pen: Any,
    place: tuple[int, int],
    image: "Image",
    *,
    side: int,
    lines: tuple[str, ...],
) -> None:
    """Draw a picture whole into its square, and lines below."""
    from PIL import Image, ImageOps

    left, top = place
    shown = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    sheet.paste(shown, (left + (side - shown.width) // 2, top + (side - shown.height) // 2))
    for number, line in enumerate(lines):
        pen.text((left, top + side + 2 + _LINE * number), line, fill="black", font_size=12)
