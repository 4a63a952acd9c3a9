"""Copy the pair to where the trainer reads it."""

from pathlib import Path

from glance.errors import SampleError
from glance.files import replacing, write_text
from glance.pixels import DECODER_ERRORS, open_picture, to_rgb
from glance.sample.examine import Sample, identity
from glance.sample.findings import shown


def stage_sample(sample: Sample, folder: Path) -> None:
    """Write `<name>.png` (plain RGB) and `<name>.txt` into `folder`, each atomically.

    Raises SampleError if the image is no longer what was examined, OSError if `folder` cannot
    be written.
    """
    try:
        with open_picture(sample.image) as picture:
            pixels, _ = to_rgb(picture)
    except DECODER_ERRORS:
        pixels = None
    if pixels is None or identity(pixels, sample.caption) != sample.sha256:
        raise SampleError(
            f"image {shown(sample.image)} has changed since it was examined",
            hint="leave it alone and start again",
        )
    with replacing(folder / f"{sample.name}.png") as temporary:
        pixels.save(temporary, "PNG")
    write_text(folder / f"{sample.name}.txt", f"{sample.caption}\n")
