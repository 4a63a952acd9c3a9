"""Pictures that show what a pair does: of its newest `glance compare`, else those in images/.

Only what says that this very pair painted it is taken. A run is shared, so what lies in it is not
trusted: links that lead out of it are not followed, and nothing but PNG and JPEG is sent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

from pydantic import BaseModel

from glance.core.errors import InputError
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.evaluation.compare.outputs import find_picture
from glance.evaluation.compare.page import encode_shown
from glance.evaluation.compare.request import Variant
from glance.interop.source import Source
from glance.sampling.provenance.picture import FORMATS, read_record
from glance.sampling.provenance.record import Record

FOLDER: Final = "pictures"
MOST_ROWS: Final = 6
"""A card is looked at, not leafed through."""
_ENDINGS: Final = {"png": "png", "jpeg": "jpg"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, and where it lies in the repository."""

    path: str
    content: bytes
    label: str
    """How it was made: `both, 10 steps`."""
    is_pairs: bool = True
    """Whether both LoRAs painted it."""


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures of one prompt and seed."""

    prompt: str
    seed: int
    pictures: tuple[Picture, ...]
    negative: str = ""


class Figures(NamedTuple):
    """Means over all rows of a comparison; None where nobody measured."""

    label: str
    seconds: float | None
    ssim: float | None
    psnr: float | None


@dataclass(frozen=True, slots=True)
class Gallery:
    """What there is to show."""

    rows: tuple[Row, ...] = ()
    figures: tuple[Figures, ...] = ()
    conditions: str = ""
    """Where the seconds were taken: `cuda, bf16`."""
    notes: tuple[str, ...] = ()


def find_gallery(source: Source) -> Gallery:
    """Return the pictures of the run's comparison, else of its images/, at most MOST_ROWS rows.

    Which they are depends on the run's content alone, not on dates or places.
    """
    compared = _read_comparison(source)
    if compared is not None:
        return compared
    rows = tuple(_painted_rows(source))
    command = f"glance compare --run {quote(str(source.run.path))}"
    if rows:
        note = f"pictures are those of the run's images/: `{command}`"
        return Gallery(rows, notes=(f"{note} shows the base model beside them",))
    return Gallery(notes=(f"there are no pictures of this pair: `{command}` paints some",))


def encode_png(path: Path) -> bytes:
    """Return the picture's pixels as PNG and nothing else of it; raises one of DECODER_ERRORS."""
    with open_picture(path) as picture:
        pixels, _ = to_rgb(picture)
    encoded = BytesIO()
    pixels.save(encoded, format="PNG")
    return encoded.getvalue()


class _Mean(BaseModel):
    mean: float


class _Cell(BaseModel):
    steps: int
    was_cached: bool = False


class _Row(BaseModel):
    prompt: str
    seed: int
    variants: Mapping[Variant, _Cell]


class _Compared(BaseModel):
    """The parts of compare.json that a card shows."""

    loras: Mapping[Phase, str]
    schedule: Mapping[Phase, Mapping[str, tuple[float, ...]]]
    device: str
    dtype: str
    rows: tuple[_Row, ...]
    means: Mapping[Variant, Mapping[str, _Mean]]


def _read_comparison(source: Source) -> Gallery | None:
    """Return the comparison that lies in the run; None: there is none, or not of this pair."""
    folder = source.run.images / "compare"
    try:
        figures = _inside(source, folder / "compare.json").read_bytes()
        compared = _Compared.model_validate_json(figures)
        rows = [
            Row(row.prompt, row.seed, tuple(_pictures(source, folder, number, row)))
            for number, row in enumerate(compared.rows[:MOST_ROWS], start=1)
        ]
    except DECODER_ERRORS:  # no JSON, damaged, or of a glance that kept no pictures
        return None
    if not _is_of(source, compared) or not rows:
        return None
    return Gallery(
        tuple(rows),
        tuple(_figures(compared)),
        f"{compared.device}, {compared.dtype}",
        _left_out(len(compared.rows)),
    )


def _is_of(source: Source, compared: _Compared) -> bool:
    recorded = {phase: source.manifest.phases[phase].lora for phase in Phase}
    return source.schedule.to_json() == _as_json(compared) and all(
        record is not None and compared.loras.get(phase) == record.sha256
        for phase, record in recorded.items()
    )


def _as_json(compared: _Compared) -> dict[str, dict[str, list[float]]]:
    return {
        phase.value: {name: list(values) for name, values in lists.items()}
        for phase, lists in compared.schedule.items()
    }


def _pictures(source: Source, folder: Path, number: int, row: _Row) -> Iterator[Picture]:
    """Yield a row's pictures, for a page; raises one of DECODER_ERRORS."""
    for variant, cell in row.variants.items():
        with open_picture(_inside(source, find_picture(folder, number, variant))) as picture:
            kind, content = encode_shown(to_rgb(picture)[0])
        path = f"{FOLDER}/{number}-{variant}.{_ENDINGS[kind]}"
        yield Picture(path, content, variant.label(cell.steps), variant is Variant.BOTH)


def _figures(compared: _Compared) -> Iterator[Figures]:
    for variant, means in compared.means.items():
        if variant in compared.rows[0].variants:
            label = variant.label(compared.rows[0].variants[variant].steps)
            found = {name: mean.mean for name, mean in means.items()}
            seconds = found.get("seconds") if _is_timed(compared, variant) else None
            yield Figures(label, seconds, found.get("ssim"), found.get("psnr"))


def _is_timed(compared: _Compared, variant: Variant) -> bool:
    """Whether its pictures were painted side by side with the base's and the pair's.

    An older glance kept the seconds of another day beside a picture in its cache.
    """
    beside = (variant, Variant.BASE, Variant.BOTH)
    cells = (row.variants.get(one) for row in compared.rows for one in beside)
    return not any(cell is not None and cell.was_cached for cell in cells)


def _left_out(rows: int) -> tuple[str, ...]:
    if rows <= MOST_ROWS:
        return ()
    return (f"the card shows {MOST_ROWS} of the comparison's {rows} rows",)


def _painted_rows(source: Source) -> Iterator[Row]:
    """Yield pictures that record both of this pair's LoRAs, by name."""
    number = 0
    for path in sorted(source.run.images.glob("*")):
        if number == MOST_ROWS or path.suffix.lower() not in FORMATS:
            continue
        found = _read_painted(source, path)
        if found is not None:
            number += 1
            record, content = found
            picture = Picture(f"{FOLDER}/{number}.png", content, Variant.BOTH.label(record.steps))
            settings = record.settings
            yield Row(settings.prompt, settings.seed, (picture,), settings.negative_prompt)


def _read_painted(source: Source, path: Path) -> tuple[Record, bytes] | None:
    """Return a picture and its record; None for what this pair did not paint, or is damaged."""
    try:
        record = read_record(_inside(source, path))
        return (record, encode_png(path)) if _is_painted_by(source, record) else None
    except InputError:
        return None
    except DECODER_ERRORS:
        return None


def _is_painted_by(source: Source, record: Record) -> bool:
    recorded = {phase: source.manifest.phases[phase].lora for phase in Phase}
    wanted = {phase: None if lora is None else lora.sha256 for phase, lora in recorded.items()}
    is_same = {use.phase: use.sha256 for use in record.loras} == wanted
    is_usual = all(use.scale == 1 for use in record.loras) and record.init_latents_sha256 is None
    return is_same and is_usual


def _inside(source: Source, path: Path) -> Path:
    """Return `path`; raises FileNotFoundError where it is a link that leads out of the run."""
    if not path.resolve().is_relative_to(source.run.path.resolve()):
        raise FileNotFoundError(path)
    return path
