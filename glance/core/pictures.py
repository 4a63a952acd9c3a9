"""What a picture looks like: anything Pillow opens, safely, as plain upright 8-bit sRGB pixels.

Every choice that changes a pixel is made here, in this order: deep greyscale down to 8 bits,
alpha aside, embedded colour profile or gamma to sRGB, alpha over white, EXIF rotation.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import cast

from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from glance.core.errors import Problem
from glance.core.files import open_file

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
# A profile that moves no colour by more than this is sRGB in other words, whatever its name:
# converting would only add rounding.
_LEVELS_OF_SRGB = 2
_SRGB_GAMMA = 1 / 2.2  # as a PNG's gAMA has it
_DARK = 64  # the brightest of 255 levels in a picture that was hardly meant so
_FLAT = 8  # the span of levels in a picture of next to one colour
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
        with open_file(path) as file, Image.open(file) as picture:
            if picture.format == "EPS":  # decoding would run Ghostscript on the user's file
                raise UnidentifiedImageError("EPS")
            yield picture


def count_frames(picture: Image.Image) -> int:
    """Return how many frames or pages there are; 1 for a still that brings its parts along."""
    return 1 if picture.format in _STILLS else int(getattr(picture, "n_frames", 1))


def to_rgb(picture: Image.Image) -> tuple[Image.Image, tuple[Problem, ...]]:
    """Decode `picture` into a new RGB image that carries no EXIF, profile or other metadata.

    Returns it with what is doubtful about it, each a clause such as "its EXIF data is damaged".
    Raises one of DECODER_ERRORS if the pixels cannot be decoded.
    """
    picture.load()
    doubts: list[Problem] = []
    orientation = _orientation(picture, doubts)
    is_deep = picture.mode == "F" or picture.mode.startswith("I")
    colours, alpha = _split_alpha(_to_eight_bits(picture) if is_deep else picture)
    plain = _to_srgb(colours, picture, doubts)
    canvas = Image.new("RGB", plain.size, "white")
    canvas.paste(plain, mask=alpha)
    doubts += _doubt_content(canvas, alpha)
    # On an Exif of its own that holds nothing else: exif_transpose serialises all that is left,
    # and fails on a real file's one bad tag.
    canvas.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(canvas), tuple(doubts)


def _ignored(clause: str) -> Problem:
    return Problem(clause, "export it again if the result looks wrong")


def _doubt_content(canvas: Image.Image, alpha: Image.Image | None) -> Iterator[Problem]:
    """Find what can hardly be meant to be trained on; one thing alone, the plainest."""
    [(least, most)] = [(255, 255)] if alpha is None else _levels(alpha)
    extrema = _levels(canvas)
    darkest, brightest = min(low for low, _ in extrema), max(high for _, high in extrema)
    span = max(high - low for low, high in extrema)
    export = "export it again, with something to see in it"
    if most == 0:
        yield Problem("it is fully transparent: only white would be trained", export)
    elif span == 0:
        name = {0: "black", 255: "white"}.get(darkest if darkest == brightest else -1)
        what = f"wholly {name}" if name else "of a single colour"
        yield Problem(f"it is {what}: there is nothing to learn", export)
    elif span < _FLAT:
        yield Problem(f"it is almost a single colour: {span + 1} levels of 256", export)
    elif brightest < _DARK:
        yield Problem(
            f"it is nearly black: its brightest value is {brightest} of 255",
            "if it holds 10, 12 or 14 bits in 16, scale them up before you save it",
        )
    elif least < 255:
        yield Problem(
            "it is transparent in places: there it is trained as white",
            "flatten it onto a background, and save that",
        )


def _levels(picture: Image.Image) -> list[tuple[int, int]]:
    return [cast("tuple[int, int]", channel.getextrema()) for channel in picture.split()]


def _orientation(picture: Image.Image, doubts: list[Problem]) -> int:
    try:
        exif = picture.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        interoperability = exif.get_ifd(ExifTags.IFD.Interop)
    except DECODER_ERRORS:
        doubts.append(_ignored("its EXIF data is damaged, so it is taken as upright"))
        return 1
    if interoperability.get(1) == "R03" and not picture.info.get("icc_profile"):
        doubts.append(
            Problem(
                "it says Adobe RGB and brings no profile, so its colours are taken as sRGB",
                "export it with its colour profile, or as sRGB",
            )
        )
    return orientation if isinstance(orientation, int) else 1


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


def _to_srgb(colours: Image.Image, picture: Image.Image, doubts: list[Problem]) -> Image.Image:
    icc = picture.info.get("icc_profile")
    if not icc:
        return _without_gamma(colours.convert("RGB"), picture)
    plain = colours.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        mode = _PROFILE_MODES[profile.profile.xcolor_space.strip()]
        if not _can_hold(picture, mode):
            clause = f"its colour profile is not one for its pixels ({picture.mode})"
            doubts.append(_ignored(clause))
            return plain
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(profile, srgb, mode, "RGB")
        if _changes_nothing(transform, mode):
            return plain
        converted = ImageCms.applyTransform(colours.convert(mode), transform)
        assert converted is not None  # it is only where a picture is changed in its place
    except DECODER_ERRORS:
        doubts.append(_ignored("its colour profile is damaged, so its colours are taken as sRGB"))
        return plain
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether colours stay as they are: curves and primaries count, not a profile's name."""
    if mode == "CMYK":
        return False
    ramp = Image.linear_gradient("L")
    channels = (ramp, ramp.rotate(90), ramp.rotate(180))
    probes = [ramp] if mode == "L" else [Image.merge("RGB", channels), ramp.convert("RGB")]
    for probe in probes:
        seen = ImageCms.applyTransform(probe, transform)
        assert seen is not None
        moved = ImageChops.difference(seen, probe.convert("RGB"))
        if any(most > _LEVELS_OF_SRGB for _, most in _levels(moved)):
            return False
    return True


def _without_gamma(colours: Image.Image, picture: Image.Image) -> Image.Image:
    """Return a PNG's pixels as sRGB that says with which gamma it was encoded, as browsers do."""
    gamma = picture.info.get("gamma")
    if not isinstance(gamma, float) or "srgb" in picture.info or not 0.1 <= gamma <= 10:
        return colours
    if abs(gamma - _SRGB_GAMMA) < 0.02:
        return colours
    light = [(value / 255) ** (1 / gamma) for value in range(256)]
    levels = [
        round(255 * (12.92 * one if one <= 0.0031308 else 1.055 * one ** (1 / 2.4) - 0.055))
        for one in light
    ]
    return colours.point(levels * 3)


def _can_hold(picture: Image.Image, mode: str) -> bool:
    """Tell whether a profile for `mode` describes the picture's own numbers."""
    if "CMYK" in (mode, picture.mode):
        return mode == picture.mode
    return mode == "RGB" or Image.getmodebase(picture.mode) == "L"
