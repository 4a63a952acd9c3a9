"""Copy the pair into the run, and to where the trainer reads it."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from glance.core.errors import SampleError
from glance.core.files import replacing, write_text
from glance.core.findings import shown
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.dataset.examine import Sample, identity
from glance.dataset.view import Size, View


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a pair goes: whole, and as it is trained."""

    data: Path
    references: Path
    views: Mapping[Path, View] = field(default_factory=dict)
    """The trainer's folders, each of one picture alone: it takes all that it finds."""
    shown_reference: tuple[Path, Size] | None = None
    """The trainer's folder of the reference, and its size there."""


def stage_sample(sample: Sample, stage: Stage) -> None:
    """Write `<name>.png` (plain RGB) and `<name>.txt` into each folder, each atomically.

    What else a folder of the trainer's held is removed; the pair's own folders may hold more.
    A reference has the picture's name: the trainer pairs files of one name.
    Raises SampleError if a picture is no longer what was examined, OSError if a folder cannot
    be written.
    """
    pixels = _read(sample.image)
    reference = None if sample.reference is None else _read(sample.reference)
    if identity(pixels, sample.caption, reference) != sample.sha256:
        raise _changed(*filter(None, (sample.image, sample.reference)))
    _write(pixels, sample, stage.data)
    for folder, view in stage.views.items():
        _write_alone(view.show(pixels), sample, folder)
    if reference is None:
        return
    _write(reference, sample, stage.references)
    if stage.shown_reference is not None:
        folder, size = stage.shown_reference
        _write_alone(reference.resize(size, Image.Resampling.LANCZOS), sample, folder)


def _read(path: Path) -> Image.Image:
    try:
        with open_picture(path) as picture:
            return to_rgb(picture)[0]
    except DECODER_ERRORS as exc:
        raise _changed(path) from exc


def _changed(*paths: Path) -> SampleError:
    return SampleError(
        f"{' or '.join(map(shown, paths))} has changed since it was examined",
        hint="leave it alone and start again",
    )


def _write_alone(pixels: Image.Image, sample: Sample, folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    _write(pixels, sample, folder)


def _write(pixels: Image.Image, sample: Sample, folder: Path) -> None:
    with replacing(folder / f"{sample.name}.png") as temporary:
        pixels.save(temporary, "PNG")
    write_text(folder / f"{sample.name}.txt", f"{sample.caption}\n")
