"""Examine the picture and its caption together.

The files are the user's own and may hold anything: every fault is reported as a Problem, all of
them at once, and the originals are only ever opened for reading.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from glance.core.errors import Findings, Problem, SampleError, quoted, reason_of, shown
from glance.core.files import is_folder, is_readable, replacing, write_text
from glance.core.kinds import refuse_preview, refuse_unreadable
from glance.core.pictures import DECODER_ERRORS, count_frames, open_picture, to_rgb
from glance.runs.caption import check_length, examine_caption, find_caption
from glance.runs.view import Size, View

_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic")


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
    number: int = 1  # among those of one name

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    @property
    def name(self) -> str:
        """The image's stem, made safe as a file stem, and unlike that of any other in the run."""
        name = name_safely(self.image.stem)
        return name if self.number == 1 else f"{name}-{self.number}"


@dataclass(frozen=True, slots=True)
class Examination:
    """All that is to say about a pair."""

    sample: Sample | None  # None when there are problems
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    def require(self) -> Sample:
        """Return the sample; raise SampleError with all problems where there is none."""
        if self.sample is None:
            raise SampleError(self.problems)
        return self.sample


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a pair goes: whole, and as it is trained."""

    data: Path
    references: Path
    views: Mapping[Path, View] = field(default_factory=dict)
    """The trainer's folders, and what each shows of the picture; pairs may share one."""
    shown_reference: tuple[Path, Size] | None = None
    """The trainer's folder of the reference, and its size there."""


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


def measure_picture(path: Path) -> tuple[int, int]:
    """Return the width and height of a reference, upright; raise SampleError if it is unfit."""
    found = Findings()
    pixels = examine_picture(path, None, found, word="reference")
    if pixels is None:
        raise SampleError(found.problems)
    return pixels.size


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


def examine_picture(
    path: Path, resolution: int | None, found: Findings, *, word: str = "image"
) -> Image.Image | None:
    """Return the upright RGB pixels; None when the picture is unfit.

    `resolution` is the area to train at, as the side of a square; `word` is what messages call
    the picture.
    """
    what = f"{word} {shown(path)}"
    if not is_readable(path, what, found, remedy="give the path of an image"):
        return None
    try:
        if path.stat().st_size == 0:
            found.refuse(f"{what} is empty (0 bytes)", "copy or export it again")
            return None
        with open_picture(path) as picture:
            if refuse_preview(picture, path, what, found):
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


def find_images(given: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and the pictures of each folder that is, by their names.

    Whatever its ending says, a file that is named is one. Raises SampleError for nothing at all, a
    folder without a picture, and a run's, all together.
    """
    found, problems = list[Path](), list[Problem]()
    for path in given:
        if not is_folder(path):
            found.append(path)
            continue
        folder = path.expanduser()
        try:
            inside = sorted(filter(_is_picture, folder.iterdir()))
        except OSError as exc:
            message = f"{shown(path)} cannot be read: {reason_of(exc)}"
            problems.append(Problem(message, f"chmod u+rx {quoted(path)}"))
            continue
        if (folder / "glance.json").is_file():
            problems.append(
                Problem(f"{shown(path)} is a run", f"to continue it: --resume {quoted(path)}")
            )
        elif not inside:
            problems.append(
                Problem(
                    f"{shown(path)} is a folder without an image ({', '.join(_PICTURES)})",
                    "give an image, or a folder that holds some with their captions beside them",
                )
            )
        found += inside
    if problems:
        raise SampleError(problems)
    return list(dict.fromkeys(found))


def fitting_area(path: Path, usual: int) -> int:
    """Return the resolution to train a picture at.

    The usual one, or what the picture has if that is at least half of it: enlarged, it would teach
    its own blur, and a much smaller one has nothing to teach. A picture that cannot be opened gets
    the usual one; to examine it is another matter.
    """
    try:
        with open_picture(path) as picture:
            width, height = picture.size
    except DECODER_ERRORS:
        return usual
    there = math.isqrt(width * height) // 64 * 64
    return there if there < usual and _is_near(there, usual) else usual


def stage_sample(sample: Sample, stage: Stage) -> None:
    """Write `<name>.png` (plain RGB) and `<name>.txt` into each folder, each atomically.

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
        _write(view.show(pixels), sample, folder)
    if reference is None:
        return
    _write(reference, sample, stage.references)
    if stage.shown_reference is not None:
        folder, size = stage.shown_reference
        _write(reference.resize(size, Image.Resampling.LANCZOS), sample, folder)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _PICTURES and not path.name.startswith(".") and path.is_file()


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
                "no reference: this family edits an image, so it needs the one to begin with",
                "pass it with --source-image; --image is what it becomes, the caption says how",
            )
        return None
    if not edits:
        found.refuse(
            f"reference {shown(reference)}: this family generates from text alone",
            "drop --source-image, or train a family that edits: such as Qwen-Image-Edit",
        )
        return None
    pixels = examine_picture(reference, resolution, found, word="reference")
    if pixels is not None and image is not None and _fingerprint(pixels) == _fingerprint(image):
        found.warn(
            f"reference {shown(reference)} is the image itself: there is no edit to learn",
            "give the image before the edit",
        )
    return pixels


def _is_near(side: int, usual: int) -> bool:
    return side >= usual / 2


def _check_header(picture: Image.Image, what: str, resolution: int | None, found: Findings) -> bool:
    """Report what shows before decoding; tell whether it is a single picture."""
    width, height = picture.size
    if resolution is not None and width * height < resolution * resolution:
        fitting = math.isqrt(width * height) // 64 * 64
        remedy = f"--resolution {fitting}" if fitting else "use an image of at least 64x64 pixels"
        if fitting and not _is_near(fitting, resolution):
            half = resolution // 2
            remedy = (
                f"use an image of {half}x{half} pixels or more; {remedy} trains this one as it "
                "is, which is less than the model is made for"
            )
        found.refuse(
            f"{what} is {width}x{height} pixels, too small for resolution {resolution}", remedy
        )
    frames = count_frames(picture)
    if frames > 1:
        found.refuse(f"{what} is animated ({frames} frames)", "save one frame of it as PNG")
    return frames <= 1


def _read(path: Path) -> Image.Image:
    try:
        with open_picture(path) as picture:
            return to_rgb(picture)[0]
    except DECODER_ERRORS as exc:
        raise _changed(path) from exc


def _changed(*paths: Path) -> SampleError:
    return SampleError(
        f"{' or '.join(map(shown, paths))} has changed since it was examined",
        hint="do not change it while glance runs, and start again",
    )


def _write(pixels: Image.Image, sample: Sample, folder: Path) -> None:
    with replacing(folder / f"{sample.name}.png") as temporary:
        pixels.save(temporary, "PNG")
    write_text(folder / f"{sample.name}.txt", f"{sample.caption}\n")
