"""What a comparison leaves in its folder: pictures/, sheet.png and compare.json.

What an earlier comparison left there is kept unless the new one holds all of it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, Final

from glance.core.errors import SetupError, reason_of
from glance.core.files import replacing, write_json
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.evaluation.comparison import Cell, Comparison, Verdict
from glance.evaluation.request import Variant

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET: Final = "sheet.png"
_FIGURES: Final = "compare.json"
_SHARED: Final = (
    *("family", "model", "base_revision", "loras", "schedule", "device", "dtype", "quantize"),
)
"""What all images of a comparison have in common, and is a name in compare.json."""
_NAME: Final = re.compile(rf"\d+-({'|'.join(Variant)})\.png")

MOST_ROWS: Final = 40  # of the sheet: taller, and viewers take it for an attack
_CELL: Final = (160, 320)  # pixels: at least, at most
_SHEET_PIXELS: Final = 60_000_000  # from 90 million on Pillow warns of an attack
_TITLE: Final = 34
_HEADLINE: Final = 18  # a line of it
_LINE: Final = 15
_LABEL: Final = 5 * _LINE  # variant, seconds, distance, two lines: figures, or a judge's words
_LETTER: Final = 6.2  # pixels, of the labels' size
_TITLE_LETTER: Final = _LETTER * 14 / 12
_MARGIN: Final = 8


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison, what it says of the pair, and where it is written down."""

    comparison: Comparison
    verdict: Verdict
    folder: Path
    document: dict[str, Any]
    """What compare.json holds."""
    earlier: Path | None
    """Where the comparison is kept that was in the folder before, if it was another one."""

    @property
    def sheet(self) -> Path:
        """The image to look at."""
        return self.folder / SHEET

    def to_json(self) -> dict[str, Any]:
        """Return what `glance compare --json` prints."""
        return {"sheet": str(self.sheet), **self.document}


def write_report(
    comparison: Comparison,
    verdict: Verdict,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    sample: Path | None,
) -> Report:
    """Write pictures/, sheet.png and compare.json into `folder`.

    `facts`: what all images have in common, by the names in _SHARED; `sample`: the image that the
    pair was trained on, if it is there. compare.json comes last: what it speaks of is there.
    Raises SetupError.
    """
    document = {**facts, **comparison.to_json(), "sentence": verdict.sentence}
    document["verdict"] = verdict.to_json()
    try:
        earlier = _set_aside(folder, comparison, document)
        for number, row in enumerate(comparison.rows, start=1):
            for variant, cell in row.cells.items():
                with replacing(find_picture(folder, number, variant)) as temporary:
                    cell.image.save(temporary, format="PNG")
        save_sheet(comparison, sample, folder / SHEET, headline=verdict.sentence)
        write_json(folder / _FIGURES, document)
    except BrokenPipeError:  # not the folder: whoever read our output has left
        raise
    except OSError as exc:
        raise SetupError(
            f"cannot write {exc.filename or folder}: {reason_of(exc)}",
            hint="give --output a folder that you may write to and that has space left",
        ) from exc
    return Report(comparison, verdict, folder, document, earlier)


def find_picture(folder: Path, row: int, variant: Variant) -> Path:
    """Return where a comparison keeps an image; `row` counts from 1, as in compare.json."""
    return folder / "pictures" / f"{row}-{variant}.png"


def _set_aside(folder: Path, new: Comparison, document: Mapping[str, Any]) -> Path | None:
    """Move what an earlier comparison left, unless the new one holds all of it; raises OSError."""
    pictures = [p for p in (folder / "pictures").glob("*.png") if _NAME.fullmatch(p.name)]
    # the figures last: what they speak of is there; index.html is of an earlier glance
    names = (SHEET, "index.html", _FIGURES)
    ours = [*pictures, *(folder / name for name in names if (folder / name).is_file())]
    if not ours:
        return None
    shown = {_pixels(cell.image) for row in new.rows for cell in row.cells.values()}
    try:
        earlier = json.loads((folder / _FIGURES).read_text(encoding="utf-8"))
        is_held = _images_of(earlier) <= _images_of(document)
        for path in pictures:
            with open_picture(path) as picture:
                is_held = is_held and _pixels(picture) in shown
    except DECODER_ERRORS:
        is_held = False  # there are none, or they are of another glance, or somebody's own
    if is_held:
        (folder / "index.html").unlink(missing_ok=True)
        return None
    number = 1
    while (aside := folder / f"earlier-{number}").exists():
        number += 1
    for path in ours:
        place = aside / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    return aside


def _images_of(document: Mapping[str, Any]) -> set[str]:
    """Return what compare.json says of each image: what it shows, and how it was made."""
    facts = {name: document[name] for name in _SHARED}
    facts["extra_loras"] = document.get("extra_loras", [])
    return {
        json.dumps([facts, row["prompt"], row["seed"], variant, cell["steps"]], sort_keys=True)
        for row in document["rows"]
        for variant, cell in row["variants"].items()
    }


def _pixels(image: "Image") -> tuple[tuple[int, int], bytes]:
    return image.size, hashlib.sha256(image.convert("RGB").tobytes()).digest()


def save_sheet(
    comparison: Comparison, sample: Path | None, path: Path, *, headline: str = ""
) -> None:
    """Draw a row for each prompt and seed, the training sample in front; raises OSError.

    Only the first MOST_ROWS rows are shown. `headline` stands above them.
    """
    from PIL import Image, ImageDraw

    rows = comparison.rows[:MOST_ROWS]
    least, most = _CELL
    largest = max(max(cell.image.size) for row in comparison.rows for cell in row.cells.values())
    side = min(most, max(least, largest))
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
            place_picture(
                sheet, (_MARGIN, head + _TITLE), trained, side=side, lines=("trained on",)
            )
    for number, row in enumerate(rows):
        top = head + number * height + _TITLE
        title = row.prompt if row.seed == 0 else f"{row.prompt}  (seed {row.seed})"
        room = int((sheet.width - first) / _TITLE_LETTER)
        pen.text((first, top - _TITLE + _MARGIN), shorten(title, room), fill="black", font_size=14)
        for column, cell in enumerate(row.cells.values()):
            place = (first + column * (side + _MARGIN), top)
            place_picture(sheet, place, cell.image, side=side, lines=tuple(_lines(cell, side)))
    with replacing(path) as temporary:
        sheet.save(temporary)


def _lines(cell: Cell, side: int) -> Iterator[str]:
    yield cell.label
    if cell.seconds is not None:
        yield f"{cell.seconds:.2f} s"
    if "latents" in cell.figures:
        yield f"latents {cell.figures['latents']:.3f}"
    if cell.words:
        yield from wrap(cell.words, int(side / _LETTER), max_lines=2, placeholder=" ...")
    elif cell.figures:
        yield f"SSIM {cell.figures['ssim']:.3f}"
        yield f"PSNR {cell.figures['psnr']:.1f} dB"


def draw_grid(titles: Sequence[str], columns: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draw a sheet of images that are there: a row for each of `titles`, below one another.

    Each column has its name below each image of it, and an image a row; one that cannot be read
    is left out. The more there are, the smaller they are shown. Raises OSError.
    """
    from PIL import Image, ImageDraw

    places = [place for column in columns.values() for place in column]
    sizes = [_look(place, lambda picture: picture.size) for place in places]
    least, most = _CELL
    side = min(most, max((least, *(max(size) for size in sizes if size is not None))))
    while side > least // 2 and len(places) * (side + _TITLE) ** 2 > _SHEET_PIXELS:
        side -= _MARGIN
    labels = [wrap(name, int(side / _LETTER), max_lines=2, placeholder="..") for name in columns]
    height = _TITLE + side + _LINE * max(map(len, labels)) + _MARGIN
    width = len(columns) * (side + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, len(titles) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for row, title in enumerate(titles):
        top = row * height + _TITLE
        text = shorten(title, int(width / _TITLE_LETTER), placeholder=" ...")
        pen.text((_MARGIN, top - _TITLE + _MARGIN), text, fill="black", font_size=14)
        for column, (lines, column_places) in enumerate(zip(labels, columns.values(), strict=True)):
            at = (_MARGIN + column * (side + _MARGIN), top)
            image = _look(column_places[row], lambda picture: to_rgb(picture)[0])
            if image is not None:
                place_picture(sheet, at, image, side=side, lines=tuple(lines))
    with replacing(path) as temporary:
        sheet.save(temporary)


def _look[T](place: Path, take: "Callable[[Image], T]") -> T | None:
    with suppress(*DECODER_ERRORS), open_picture(place) as picture:
        return take(picture)
    return None


def place_picture(
    sheet: "Image", place: tuple[int, int], image: "Image", *, side: int, lines: tuple[str, ...]
) -> None:
    """Draw an image whole into its square of the sheet, and lines below."""
    from PIL import Image, ImageDraw, ImageOps

    left, top = place
    shown = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    sheet.paste(shown, (left + (side - shown.width) // 2, top + (side - shown.height) // 2))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((left, top + side + 2 + _LINE * number), line, fill="black", font_size=12)
