"""What a file is that is not what it should be, by its first bytes or its ending."""

import re
from pathlib import Path
from typing import Final

from PIL import Image

from glance.core.findings import Findings, quoted, unused_path

_HEAD: Final = 4096  # bytes, which tell a file's kind
_REDUCED, _DNG_VERSION = (
    254,
    50706,
)  # TIFF's tags: a smaller version of another picture; Adobe's raw

_LFS: Final = "a Git LFS pointer, not the file itself"
_HTML: Final = "a page of HTML, perhaps an error message"
_SVG: Final = "a vector drawing (SVG)"
_HEIC: Final = "a HEIC photo"
_AVIF: Final = "an AVIF picture"
_JXL: Final = "a JPEG XL picture"
_PSD: Final = "a Photoshop document"
_RAW: Final = "a camera's raw photo"
_VIDEO: Final = "a video"

_BY_HEAD: Final = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"version https://git-lfs\.github\.com/spec/", _LFS),
        (rb"\s*(?i:<!doctype html|<(html|head|body|script|title)\b)", _HTML),
        (rb"\s*<(\?xml|!--|svg\b|!doctype svg).*<svg\b|\s*<svg\b", _SVG),
        (rb"\s*<\?xml", "an XML document"),
        (rb"\{\\rtf", "a rich text document"),
        (rb"%PDF-", "a PDF document"),
        (rb"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (rb"\xff\xd8\xff", "a JPEG picture"),
        (rb"GIF8[79]a", "a GIF picture"),
        (rb"RIFF....WEBP", "a WebP picture"),
        (rb"BM....\0\0\0\0", "a BMP picture"),
        (rb"....ftyp(hei[cmsx]|hevc|mif1|msf1)", _HEIC),
        (rb"....ftypavi[fs]", _AVIF),
        (rb"....ftypcrx ", _RAW),
        (rb"....ftyp|\x1a\x45\xdf\xa3", _VIDEO),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", _JXL),
        (rb"8BPS", _PSD),
        (rb"gimp xcf", "a GIMP document"),
        (rb"FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb", _RAW),
        (rb"PK\x03\x04", "a ZIP archive or an office document"),
        (rb"\xd0\xcf\x11\xe0", "an old office document"),
        (rb"\x1f\x8b|7z\xbc\xaf|Rar!", "a compressed archive"),
        (rb".{5}\0\0\0\{\s*\"", "a .safetensors file"),
    )
)
_RAW_ENDING: Final = re.compile(
    r"\.(3fr|arw|cr[23w]|dcr|dng|erf|fff|iiq|kdc|mef|mos|mrw|nef|nrw|orf|pef|raf|raw|rw[2l]|sr[2fw]"
    r"|x3f)",
    re.IGNORECASE,
)
_BY_ENDING: Final = {
    **dict.fromkeys((".heic", ".heif", ".hif"), _HEIC),
    **dict.fromkeys((".avif", ".avifs"), _AVIF),
    **dict.fromkeys((".psd", ".psb"), _PSD),
    **dict.fromkeys((".xcf", ".kra", ".clip"), "a painting program's document"),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi"), _VIDEO),
    ".svg": _SVG,
    ".jxl": _JXL,
}
_CONVERTERS: Final = {  # none of them is needed by glance; each writes a file that is not there yet
    _HEIC: "heif-convert {old} {new}, or on a Mac sips -s format png {old} --out {new}",
    _AVIF: "avifdec {old} {new}",
    _JXL: "djxl {old} {new}",
    _SVG: "rsvg-convert {old} -o {new}",
    _RAW: "darktable-cli {old} {new}",
    _VIDEO: "ffmpeg -n -i {old} -frames:v 1 {new}",
}


def recognise(head: bytes) -> str | None:
    """Return what a file is that begins so; None for what may be plain text, or anything."""
    start = head[:_HEAD].removeprefix(b"\xef\xbb\xbf")
    return next((name for pattern, name in _BY_HEAD if pattern.match(start)), None)


def fetching(kind: str | None) -> str | None:
    """Return what to do about a file whose content never arrived here; None for any other."""
    return {
        _LFS: "git lfs pull, in its repository, fetches the file",
        _HTML: "download the file itself once more",
    }.get(kind or "")


def refuse_unreadable(path: Path, what: str, found: Findings) -> None:
    """Refuse a picture that Pillow cannot read, by its kind's name and with a way to convert it."""
    try:
        with path.open("rb") as file:
            kind = recognise(file.read(_HEAD))
    except OSError:  # it was there a moment ago: the ending must do
        kind = None
    is_raw = _RAW_ENDING.fullmatch(path.suffix)
    kind = kind or (_RAW if is_raw else _BY_ENDING.get(path.suffix.lower()))
    if kind is None:
        found.refuse(f"{what} is no picture that can be read", "save it as PNG or JPEG")
        return
    found.refuse(f"{what} cannot be read: it is {kind}", fetching(kind) or _conversion(kind, path))


def is_preview(picture: Image.Image, path: Path) -> bool:
    """Whether Pillow reads not a raw photo but the small preview in it, which is a TIFF."""
    if picture.format != "TIFF":
        return False
    tags = getattr(picture, "tag_v2", {})
    is_raw = _RAW_ENDING.fullmatch(path.suffix) is not None
    return is_raw or _DNG_VERSION in tags or tags.get(_REDUCED) == 1


def refuse_preview(path: Path, what: str, found: Findings) -> None:
    """Refuse a raw photo, of which only the preview could be trained."""
    found.refuse(
        f"{what} is {_RAW}: only a small preview in it can be read", _conversion(_RAW, path)
    )


def _conversion(kind: str, path: Path) -> str:
    command = _CONVERTERS.get(kind)
    if command is None:
        return "save it as PNG in the program that made it"
    new = unused_path(path.with_suffix(".png"))
    return f"save it as PNG: {command.format(old=quoted(path), new=quoted(new))}"
