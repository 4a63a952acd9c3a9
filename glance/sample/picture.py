"""Is a picture fit to train on?"""

import math
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from glance.pixels import DECODER_ERRORS, count_frames, open_picture, to_rgb
from glance.sample.findings import Findings, is_readable, shown


def examine_picture(
    path: Path, resolution: int | None, found: Findings, *, word: str = "image"
) -> Image.Image | None:
    """Return the upright RGB pixels; None when the picture is unfit.

    `resolution` is the area to train at, as the side of a square; `word` is what messages call
    the picture.
    """
    what = f"{word} {shown(path)}"
    if not is_readable(path, what, found, remedy="give the path of a picture"):
        return None
    try:
        if path.stat().st_size == 0:
            found.refuse(f"{what} is empty (0 bytes)", "copy or export it again")
            return None
        with open_picture(path) as picture:
            is_still = _check_header(picture, what, resolution, found)
            pixels, ignored = to_rgb(picture) if is_still else (None, ())
    except UnidentifiedImageError:
        found.refuse(f"{what} is no picture that can be read", "save it as PNG or JPEG")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        found.refuse(
            f"{what} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to open safely",
            "scale it down first",
        )
    except DECODER_ERRORS as error:
        reason = shown(error)[:200] or type(error).__name__
        found.refuse(
            f"{what} cannot be decoded, it is damaged or cut short: {reason}",
            "copy or export it again, as PNG or JPEG",
        )
    else:
        for clause in ignored:
            found.warn(f"{what}: {clause}", "export it again if the result looks wrong")
        return pixels
    return None


def fitting_area(path: Path, usual: int) -> int:
    """Return the resolution to train a picture at.

    The usual one, or what the picture has if that is at least a quarter of the usual pixels:
    enlarged, it would teach its own blur, and a much smaller one has nothing to teach. A picture
    that cannot be opened gets the usual one; to examine it is another matter.
    """
    try:
        with open_picture(path) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return usual
    except DECODER_ERRORS:
        return usual
    there = math.isqrt(width * height) // 64 * 64
    return there if usual / 2 <= there < usual else usual


def _check_header(picture: Image.Image, what: str, resolution: int | None, found: Findings) -> bool:
    """Report what shows before decoding; tell whether it is a single picture."""
    width, height = picture.size
    if resolution is not None and width * height < resolution * resolution:
        fitting = math.isqrt(width * height) // 64 * 64
        found.refuse(
            f"{what} is {width}x{height} pixels, too small for resolution {resolution}",
            f"--resolution {fitting}" if fitting else "use a picture of at least 64x64 pixels",
        )
    frames = count_frames(picture)
    if frames > 1:
        found.refuse(f"{what} is animated ({frames} frames)", "save one frame of it as PNG")
    return frames <= 1
