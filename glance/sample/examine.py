"""Examine the picture and its caption together.

The files are the user's own and may hold anything: every fault is reported as a Problem, all of
them at once, and the originals are only ever opened for reading.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glance.errors import Problem, SampleError
from glance.sample.caption import check_length, examine_caption, find_caption
from glance.sample.findings import Findings
from glance.sample.picture import examine_picture


@dataclass(frozen=True, slots=True)
class Sample:
    """A pair that is fit to train on."""

    image: Path  # the user's original, never touched
    caption: str  # stripped, may hold inner newlines
    caption_file: Path | None  # None when the caption was given as an argument
    width: int  # pixels, upright (after EXIF rotation)
    height: int
    sha256: str  # identity of what is trained: upright RGB pixels, their size, the caption

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
) -> Examination:
    """Find all that is wrong with the image and its caption; raise nothing.

    Without `caption`, the text file of the same basename is read. `resolution` is the area to
    train at (resolution squared), `text_tokens` how much text the model reads.
    """
    found = Findings()
    pixels = examine_picture(image, resolution, found)
    file = find_caption(image, found) if caption is None else None
    text = examine_caption(caption, file, found)
    if text is not None and text_tokens is not None:
        check_length(text, text_tokens, found)
    sample = None
    if pixels is not None and text is not None and not found.problems:
        sample = Sample(image, text, file, *pixels.size, identity(pixels, text))
    return Examination(sample, tuple(found.problems), tuple(found.warnings))


def load_sample(
    image: Path,
    *,
    caption: str | None = None,
    resolution: int | None = None,
    text_tokens: int | None = None,
) -> Examination:
    """Return an examination whose sample is set; raise SampleError with all problems otherwise."""
    found = examine_sample(image, caption=caption, resolution=resolution, text_tokens=text_tokens)
    if found.sample is None:
        raise SampleError(found.problems)
    return found


def safe_name(image: Path) -> str:
    """Return the image's stem as a name that is safe for files, folders and other programs."""
    safe = re.sub(r"[^\w.-]+", "-", image.stem).strip("-.")
    return safe[:80].rstrip("-.") or "sample"


def identity(pixels: Image.Image, caption: str) -> str:
    """Return what tells one pair from another: the upright RGB pixels, their size, the text."""
    digest = hashlib.sha256(f"{pixels.width}x{pixels.height}\n".encode())
    digest.update(pixels.tobytes())
    digest.update(caption.encode())
    return digest.hexdigest()
