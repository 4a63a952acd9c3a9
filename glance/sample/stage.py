"""Copy the pair to where the trainer reads it."""

from pathlib import Path

from PIL import Image

from glance.errors import SampleError
from glance.files import replacing, write_text
from glance.pixels import DECODER_ERRORS, open_picture, to_rgb
from glance.sample.examine import Sample, identity
from glance.sample.findings import shown


def stage_sample(sample: Sample, data: Path, references: Path) -> None:
    """Write `<name>.png` (plain RGB) and `<name>.txt` into `data`, each atomically.

    A reference goes to `references` in the same way: the trainer pairs files of one name.
    Raises SampleError if a picture is no longer what was examined, OSError if a folder cannot
    be written.
    """
    pixels = _read(sample.image)
    reference = None if sample.reference is None else _read(sample.reference)
    if identity(pixels, sample.caption, reference) != sample.sha256:
        raise _changed(*filter(None, (sample.image, sample.reference)))
    _write(pixels, sample, data)
    if reference is not None:
        _write(reference, sample, references)


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


def _write(pixels: Image.Image, sample: Sample, folder: Path) -> None:
    with replacing(folder / f"{sample.name}.png") as temporary:
        pixels.save(temporary, "PNG")
    write_text(folder / f"{sample.name}.txt", f"{sample.caption}\n")
