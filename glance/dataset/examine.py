"""Examine the picture and its caption together.

The files are the user's own and may hold anything: every fault is reported as a Problem, all of
them at once, and the originals are only ever opened for reading.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glance.core.errors import Problem, SampleError
from glance.core.findings import Findings, shown
from glance.dataset.caption import check_length, examine_caption, find_caption
from glance.dataset.picture import examine_picture
from glance.dataset.view import Size


@dataclass(frozen=True, slots=True)
class Sample:
    """A pair that is fit to train on; for a family that edits, with a reference picture."""

    image: Path  # the user's original, never touched
    caption: str  # stripped, may hold inner newlines
    caption_file: Path | None  # None when the caption was given as an argument
    width: int  # pixels, upright (after EXIF rotation)
    height: int
    sha256: str  # identity of what is trained: upright RGB pixels, their size, the caption
    reference: Path | None = None  # the user's original of what is edited into the image
    reference_size: Size | None = None

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    @property
    def name(self) -> str:
        """The image's stem, made safe as a file stem."""
        return safe_name(self.image)


@dataclass(frozen=True, slots=True)
class Examination:
    """All that is to say about a pair."""

    sample: Sample | None  # None when there are problems
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def examine_sample(
    image: Path,
    *,
    caption: str | None = None,
    resolution: int | None = None,
    text_tokens: int | None = None,
    reference: Path | None = None,
    edits: bool = False,
) -> Examination:
    """Find all that is wrong with the image, its caption and its reference; raise nothing.

    Without `caption`, the text file of the same basename is read. `resolution` is the area to
    train at (resolution squared), `text_tokens` how much text the model reads. A family
    that `edits` needs a reference, any other takes none.
    """
    found = Findings()
    pixels = examine_picture(image, resolution, found)
    file = find_caption(image, found) if caption is None else None
    text = examine_caption(caption, file, image, found)
    if text is not None and text_tokens is not None:
        check_length(text, text_tokens, found)
    before = _examine_reference(reference, pixels, resolution, found, edits=edits)
    sample = None
    if pixels is not None and text is not None and not found.problems:
        sha256 = identity(pixels, text, before)
        size = None if before is None else before.size
        sample = Sample(image, text, file, *pixels.size, sha256, reference, size)
    return Examination(sample, tuple(found.problems), tuple(found.warnings))


def load_sample(
    image: Path,
    *,
    caption: str | None = None,
    resolution: int | None = None,
    text_tokens: int | None = None,
    reference: Path | None = None,
    edits: bool = False,
) -> Examination:
    """Return an examination whose sample is set; raise SampleError with all problems otherwise."""
    found = examine_sample(
        image,
        caption=caption,
        resolution=resolution,
        text_tokens=text_tokens,
        reference=reference,
        edits=edits,
    )
    if found.sample is None:
        raise SampleError(found.problems)
    return found


def measure_picture(path: Path, word: str = "reference") -> tuple[int, int]:
    """Return the width and height of a picture, upright; raise SampleError if it is unfit."""
    found = Findings()
    pixels = examine_picture(path, None, found, word=word)
    if pixels is None:
        raise SampleError(found.problems)
    return pixels.size


def safe_name(image: Path) -> str:
    """Return the image's stem as a name that is safe for files, folders and other programs."""
    return name_safely(image.stem)


def name_safely(text: str) -> str:
    """Return a text as a name that is safe for files, folders and other programs."""
    safe = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    return safe[:80].rstrip("-.") or "sample"


def identity(pixels: Image.Image, caption: str, reference: Image.Image | None = None) -> str:
    """Return what tells one pair from another: the upright RGB pixels, their size, the text."""
    digest = hashlib.sha256(_fingerprint(pixels))
    digest.update(caption.encode())
    if reference is not None:
        digest.update(b"\n" + _fingerprint(reference))
    return digest.hexdigest()


def _fingerprint(pixels: Image.Image) -> bytes:
    return f"{pixels.width}x{pixels.height}\n".encode() + pixels.tobytes()


def _examine_reference(
    reference: Path | None,
    image: Image.Image | None,
    resolution: int | None,
    found: Findings,
    *,
    edits: bool,
) -> Image.Image | None:
    if reference is None:
        if edits:
            found.refuse(
                "no reference: this family edits a picture, so it needs the one to begin with",
                "pass it with --reference; --image is what it shall become, the caption says how",
            )
        return None
    if not edits:
        found.refuse(
            f"reference {shown(reference)}: this family paints from text alone",
            "drop --reference, or train a family that edits: such as Qwen-Image-Edit",
        )
        return None
    pixels = examine_picture(reference, resolution, found, word="reference")
    if pixels is not None and image is not None and _fingerprint(pixels) == _fingerprint(image):
        found.warn(
            f"reference {shown(reference)} is the image itself: there is no edit to learn",
            "give the picture before the edit",
        )
    return pixels
