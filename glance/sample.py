"""The picture and its caption: finds, examines, loads and stages the pair to train on.

The files are the user's own and may hold anything: every fault is reported as a Problem, all of
them at once, and the originals are only ever opened for reading.
"""

import hashlib
import math
import re
import shlex
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from glance.errors import Problem, SampleError
from glance.files import replacing, write_text
from glance.pixels import DECODER_ERRORS, count_frames, open_picture, to_rgb

MAX_CAPTION_BYTES = 64 * 1024


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
    found = _Findings()
    pixels = _examine_image(image, resolution, found)
    file = _caption_file(image, found) if caption is None else None
    text = _examine_caption(caption, file, found)
    if text is not None and text_tokens is not None:
        _check_length(text, text_tokens, found)
    sample = None
    if pixels is not None and text is not None and not found.problems:
        sample = Sample(image, text, file, *pixels.size, _identity(pixels, text))
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
    if pixels is None or _identity(pixels, sample.caption) != sample.sha256:
        raise SampleError(
            f"image {_shown(sample.image)} has changed since it was examined",
            hint="leave it alone and start again",
        )
    with replacing(folder / f"{sample.name}.png") as temporary:
        pixels.save(temporary, "PNG")
    write_text(folder / f"{sample.name}.txt", f"{sample.caption}\n")


def safe_name(image: Path) -> str:
    """Return the image's stem as a name that is safe for files, folders and other programs."""
    safe = re.sub(r"[^\w.-]+", "-", image.stem).strip("-.")
    return safe[:80].rstrip("-.") or "sample"


@dataclass(frozen=True, slots=True)
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, message: str, hint: str) -> None:
        self.problems.append(Problem(message, hint))

    def warn(self, message: str, hint: str) -> None:
        self.warnings.append(Problem(message, hint))


def _examine_image(image: Path, resolution: int | None, found: _Findings) -> Image.Image | None:
    what = f"image {_shown(image)}"
    if not _is_readable(image, what, found, remedy="give the path of a picture"):
        return None
    try:
        if image.stat().st_size == 0:
            found.refuse(f"{what} is empty (0 bytes)", "copy or export it again")
            return None
        with open_picture(image) as picture:
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
        reason = _shown(error)[:200] or type(error).__name__
        found.refuse(
            f"{what} cannot be decoded, it is damaged or cut short: {reason}",
            "copy or export it again, as PNG or JPEG",
        )
    else:
        for clause in ignored:
            found.warn(f"{what}: {clause}", "export it again if the result looks wrong")
        return pixels
    return None


def _check_header(
    picture: Image.Image, what: str, resolution: int | None, found: _Findings
) -> bool:
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


def _caption_file(image: Path, found: _Findings) -> Path | None:
    if image.name in ("", ".."):  # already refused as a directory, and has no basename
        return None
    first, second = (image.with_name(image.stem + suffix) for suffix in (".txt", ".caption"))
    there = [path for path in (first, second) if path != image and _exists(path)]
    if not there:
        found.refuse(
            f"no caption for {_shown(image)}: neither {_shown(first)} nor {_shown(second)} exists",
            f'write one line of text to {_shown(first)}, or pass --caption "..."',
        )
        return None
    if len(there) > 1:
        found.warn(
            f"both {_shown(first)} and {_shown(second)} exist: {_shown(first)} is used",
            "delete the one that is not meant",
        )
    return there[0]


def _examine_caption(caption: str | None, file: Path | None, found: _Findings) -> str | None:
    if caption is not None:
        return _clean(caption, "--caption", 'describe the picture: --caption "..."', found)
    if file is None:
        return None
    what = f"caption file {_shown(file)}"
    remedy = f'write one line of text to {_shown(file)}, or pass --caption "..."'
    if not _is_readable(file, what, found, remedy='put a text there, or pass --caption "..."'):
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        found.refuse(f"{what} cannot be read: {error.strerror}", remedy)
        return None
    if len(data) > MAX_CAPTION_BYTES:
        found.refuse(f"{what} is larger than 64 KiB, which no caption is", remedy)
        return None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        old, new = _quoted(file), _quoted(file.with_name(f"{file.name}.utf8"))
        found.refuse(
            f"{what} is not UTF-8 (byte {error.start})",
            f"iconv -f {encoding} -t utf-8 {old} > {new} && mv {new} {old}",
        )
        return None
    return _clean(text, what, remedy, found)


def _clean(text: str, what: str, remedy: str, found: _Findings) -> str | None:
    lines = re.sub("\r\n|[\r\u2028\u2029]", "\n", text).split("\n")
    for number, line in enumerate(lines, start=1):
        # Cs: lone surrogates, which is how bytes that are not UTF-8 arrive on the command line.
        bad = next(
            (c for c in line if c != "\t" and unicodedata.category(c) in ("Cc", "Cs")),
            None,
        )
        if bad is not None:
            found.refuse(
                f"{what} holds a character that is no text (U+{ord(bad):04X}, line {number})",
                "remove it; a caption is plain UTF-8 text",
            )
            return None
    cleaned = "\n".join(line.strip() for line in lines).strip()
    if not any(c.isprintable() and not c.isspace() for c in cleaned):
        found.refuse(f"{what} is empty", remedy)
        return None
    return cleaned


def _check_length(text: str, text_tokens: int, found: _Findings) -> None:
    estimate = max(1.3 * len(text.split()), len(text) / 4)
    if estimate > text_tokens:
        found.warn(
            f"the caption has about {estimate:.0f} tokens, but the model reads {text_tokens}: "
            "what lies beyond is cut",
            "shorten it, or put what matters first",
        )


def _is_readable(path: Path, what: str, found: _Findings, *, remedy: str) -> bool:
    """Refuse what is not a regular file that can be opened: opening a pipe would wait forever."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return True
    except (FileNotFoundError, NotADirectoryError):
        found.refuse(f"{what} does not exist", remedy)
    except PermissionError:
        found.refuse(f"{what} may not be read", f"chmod u+r {_quoted(path)}")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found.refuse(f"{what} cannot be read: {getattr(error, 'strerror', error)}", remedy)
    else:
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        found.refuse(f"{what} is {kind}", remedy)
    return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # there, but out of reach: reading it will say why
        return True


def _identity(pixels: Image.Image, caption: str) -> str:
    digest = hashlib.sha256(f"{pixels.width}x{pixels.height}\n".encode())
    digest.update(pixels.tobytes())
    digest.update(caption.encode())
    return digest.hexdigest()


def _shown(value: object) -> str:
    """Return text that is safe to print, whatever a file name or a decoder's message holds."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


def _quoted(path: Path) -> str:
    text = str(path)
    return _shown(shlex.quote(f"./{text}" if text.startswith("-") else text))
