"""Is a picture fit to train on?"""

import math
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from glance.core.findings import Findings, is_readable, shown
from glance.core.pictures import DECODER_ERRORS, count_frames, open_picture, to_rgb
from glance.dataset.kinds import is_preview, refuse_preview, refuse_unreadable


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
            if is_preview(picture, path):
                refuse_preview(path, what, found)
                return None
            is_still = _check_header(picture, what, resolution, found)
            pixels, doubts = to_rgb(picture) if is_still else (None, ())
    except UnidentifiedImageError:
        refuse_unreadable(path, what, found)
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
        for doubt in doubts:
            found.warn(f"{what}: {doubt.message}", doubt.hint or "")
        return pixels
    return None


def fitting_area(path: Path, usual: int) -> int:
    """Return the resolution to train a picture at.

    The usual one, or what the picture has if that is at least half of it: enlarged, it would teach
    its own blur, and a much smaller one has nothing to teach. A picture that cannot be opened gets
    the usual one; to examine it is another matter.
    """
    try:
        with open_picture(path) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return usual
    except DECODER_ERRORS:
        return usual
    there = math.isqrt(width * height) // 64 * 64
    return there if there < usual and _is_near(there, usual) else usual


def _is_near(side: int, usual: int) -> bool:
    return side >= usual / 2


def _check_header(picture: Image.Image, what: str, resolution: int | None, found: Findings) -> bool:
    """Report what shows before decoding; tell whether it is a single picture."""
    width, height = picture.size
    if resolution is not None and width * height < resolution * resolution:
        fitting = math.isqrt(width * height) // 64 * 64
        remedy = f"--resolution {fitting}" if fitting else "use a picture of at least 64x64 pixels"
        if fitting and not _is_near(fitting, resolution):
            half = resolution // 2
            remedy = (
                f"use a picture of {half}x{half} pixels or more; {remedy} trains this one as it "
                "is, which a model that is made for more may not paint"
            )
        found.refuse(
            f"{what} is {width}x{height} pixels, too small for resolution {resolution}", remedy
        )
    frames = count_frames(picture)
    if frames > 1:
        found.refuse(f"{what} is animated ({frames} frames)", "save one frame of it as PNG")
    return frames <= 1
