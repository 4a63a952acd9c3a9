"""What a picture looks like: anything Pillow opens, safely, as plain upright 8-bit sRGB pixels.

Every choice that changes a pixel is made here, in this order: deep greyscale down to 8 bits,
alpha aside, embedded colour profile to sRGB, alpha over white, EXIF rotation.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

# Decoders fed with damaged or hostile bytes leak whatever their parsing runs into; this is what
# their sources and a long run of mutated files have shown. BaseException stays out.
DECODER_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    NameError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    StopIteration,
    BufferError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    ImageCms.PyCMSError,
)

# What an ICC profile calls its colours, and the mode in which LittleCMS takes them.
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Phone JPEGs with a depth map and layered drawings: several pictures in a file, but one still.
_STILLS = frozenset({"MPO", "PSD"})

# Without any handler, what Pillow logs about damaged files would go to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture without decoding it; keep Pillow's warnings quiet until it is closed.

    Raises UnidentifiedImageError if it is none, DecompressionBombError or
    DecompressionBombWarning if it is absurdly large, or another of DECODER_ERRORS.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # By handle, not by name: Pillow would map a named file, and die if it shrinks meanwhile.
        with path.open("rb") as file, Image.open(file) as picture:
            if picture.format == "EPS":  # decoding would run Ghostscript on the user's file
                raise UnidentifiedImageError("EPS")
            yield picture


def count_frames(picture: Image.Image) -> int:
    """Return how many frames or pages there are; 1 for a still that brings its parts along."""
    return 1 if picture.format in _STILLS else int(getattr(picture, "n_frames", 1))


def to_rgb(picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode `picture` into a new RGB image that carries no EXIF, profile or other metadata.

    Returns it with what had to be ignored on the way, each a clause such as "its EXIF data is
    damaged". Raises one of DECODER_ERRORS if the pixels cannot be decoded.
    """
    picture.load()
    ignored: list[str] = []
    orientation = _orientation(picture, ignored)
    eight_bits = _to_eight_bits(picture) if _is_deep(picture) else picture
    colours, alpha = _split_alpha(eight_bits)
    plain = _to_srgb(colours, picture, ignored)
    canvas = Image.new("RGB", plain.size, "white")
    canvas.paste(plain, mask=alpha)
    return _upright(canvas, orientation), tuple(ignored)


def _orientation(picture: Image.Image, ignored: list[str]) -> int:
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:
        ignored.append("its EXIF data is damaged, so it is taken as upright")
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(canvas: Image.Image, orientation: int) -> Image.Image:
    # On an Exif of its own that holds nothing else: exif_transpose serialises all that is left,
    # and fails on a real file's one bad tag.
    canvas.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(canvas)


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Scale from the range that the mode stands for, widened to what the pixels hold."""
    import numpy as np

    is_float = picture.mode == "F"
    values = np.asarray(picture).astype(np.float64 if is_float else np.float32)
    finite = values[np.isfinite(values)]
    low, peak = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    ceilings = (1.0, 255.0) if is_float else (65535.0,)
    high = next((ceiling for ceiling in ceilings if peak <= ceiling), peak)
    bounded = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (bounded - low) * (255.0 / (high - low))
    grey = Image.fromarray((scaled + 0.5).astype(np.uint8))
    if "transparency" in picture.info:
        opaque = (values != picture.info["transparency"]).astype(np.uint8) * 255
        grey.putalpha(Image.fromarray(opaque))
    return grey


def _split_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if not picture.has_transparency_data:
        return picture, None
    if picture.mode == "La":
        picture = picture.convert("LA")
    rgba = picture.convert("RGBA")
    return rgba.convert("RGB"), rgba.getchannel("A")


def _to_srgb(colours: Image.Image, picture: Image.Image, ignored: list[str]) -> Image.Image:
    icc = picture.info.get("icc_profile")
    if not icc:
        return colours.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        name = ImageCms.getProfileDescription(profile).lower()
        if "srgb" in name and "linear" not in name:  # converting would only add rounding
            return colours.convert("RGB")
        mode = _PROFILE_MODES[profile.profile.xcolor_space.strip()]
        if not _can_hold(picture, mode):
            ignored.append(f"its colour profile is not one for its pixels ({picture.mode})")
            return colours.convert("RGB")
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            colours.convert(mode), profile, srgb, outputMode="RGB"
        )
    except DECODER_ERRORS:
        converted = None
    if converted is None:
        ignored.append("its colour profile is damaged, so its colours are taken as sRGB")
        return colours.convert("RGB")
    return converted


def _can_hold(picture: Image.Image, mode: str) -> bool:
    """Tell whether a profile for `mode` describes the picture's own numbers."""
    if "CMYK" in (mode, picture.mode):
        return mode == picture.mode
    return mode == "RGB" or Image.getmodebase(picture.mode) == "L"
