"""What a file is that is not what it should be, by its first bytes, its ending or its length."""

import json
import re
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.errors import Findings, quoted
from glance.core.files import open_file, unused_path

if TYPE_CHECKING:
    from PIL import Image

_HEAD: Final = 4096  # bytes, which tell a file's kind
# TIFF's tags: a smaller version of another picture; Adobe's raw.
_REDUCED, _DNG_VERSION = 254, 50706
_LFS: Final = "a Git LFS pointer, not the file itself"
_HTML: Final = "a page of HTML, perhaps an error message"
_SVG: Final = "a vector drawing (SVG)"
_HEIC: Final = "a HEIC photo"
_AVIF: Final = "an AVIF image"
_JXL: Final = "a JPEG XL image"
_PSD: Final = "a Photoshop document"
_RAW: Final = "a camera's raw photo"
_VIDEO: Final = "a video"
_ZIP: Final = "a ZIP archive or an office document"
_PICKLE: Final = "a pickle, which may run code when it is opened, so glance opens none"
_SAFETENSORS: Final = "a .safetensors file"
_KINDS: Final = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb".{5}\0\0\0\{\s*\"", _SAFETENSORS),  # first: its length may be any bytes
        (rb"version https://git-lfs\.github\.com/spec/", _LFS),
        (rb"\s*(?i:<!doctype html|<(html|head|body|script|title)\b)", _HTML),
        (rb"\s*<(\?xml|!--|svg\b|!doctype svg).*<svg\b|\s*<svg\b", _SVG),
        (rb"\s*<\?xml", "an XML document"),
        (rb"\{\\rtf", "a rich text document"),
        (rb"%PDF-", "a PDF document"),
        (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"GIF8[79]a", "a GIF image"),
        (rb"RIFF....WEBP", "a WebP image"),
        (rb"BM....\0\0\0\0", "a BMP image"),
        (rb"....ftyp(hei[cmsx]|hevc|mif1|msf1)", _HEIC),
        (rb"....ftypavi[fs]", _AVIF),
        (rb"....ftypcrx ", _RAW),
        (rb"....ftyp|\x1a\x45\xdf\xa3", _VIDEO),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", _JXL),
        (rb"8BPS", _PSD),
        (rb"gimp xcf", "a GIMP document"),
        (rb"FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb", _RAW),
        (rb"PK\x03\x04", _ZIP),
        (rb"\xd0\xcf\x11\xe0", "an old office document"),
        (rb"\x1f\x8b", "a gzip archive"),
        (rb"7z\xbc\xaf", "a 7z archive"),
        (rb"Rar!", "a RAR archive"),
        (rb"\x28\xb5\x2f\xfd", "a zstd archive"),
        (rb"GGUF[\1-\x0f]\0\0\0", "a GGUF file"),
        (rb"\x89HDF", "an HDF5 file"),
        (rb"\x93NUMPY", "a numpy file"),
        (rb"\x80[\2-\5]", _PICKLE),
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
_AGAIN: Final = "download or copy it again, whole"
_TENSOR_REMEDIES: Final = {
    **dict.fromkeys(("a GGUF file", "an HDF5 file", "a numpy file"), "get it as .safetensors"),
    **dict.fromkeys(
        ("a gzip archive", "a 7z archive", "a RAR archive", "a zstd archive"),
        "unpack it, and give the .safetensors file that is in it",
    ),
    _PICKLE: "convert it to .safetensors, or get it as that",
}
_PICKLE_NAMES: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
LONGEST_HEADER: Final = 100_000_000  # as the safetensors library has it
_TITLE: Final = re.compile(r"<title[^>]*>\s*(.{1,80}?)\s*</title>", re.IGNORECASE | re.DOTALL)


def recognise(head: bytes) -> str | None:
    """Return what a file is that begins so; None for what may be plain text, or anything."""
    start = head[:_HEAD].removeprefix(b"\xef\xbb\xbf")
    return next((name for pattern, name in _KINDS if pattern.match(start)), None)


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
        found.refuse(f"{what} is no image that can be read", "save it as PNG or JPEG")
        return
    found.refuse(f"{what} cannot be read: it is {kind}", fetching(kind) or _conversion(kind, path))


def refuse_preview(picture: "Image.Image", path: Path, what: str, found: Findings) -> bool:
    """Refuse a raw photo of which Pillow reads only the small preview in it, a TIFF."""
    tags = getattr(picture, "tag_v2", {})
    is_raw = _RAW_ENDING.fullmatch(path.suffix) or _DNG_VERSION in tags or tags.get(_REDUCED) == 1
    if picture.format != "TIFF" or not is_raw:
        return False
    message = f"{what} is {_RAW}: only a small preview in it can be read"
    found.refuse(message, _conversion(_RAW, path))
    return True


def explain_tensors(path: Path) -> tuple[str, str] | None:
    """Return what a file is that should be safetensors, and what to do; None: it looks whole.

    By its first bytes and its length: whether the header's content makes sense is not asked, and
    no tensor is read. Raises OSError where it cannot be read.
    """
    mode, size = path.stat().st_mode, path.stat().st_size
    if not stat.S_ISREG(mode):  # opening a pipe would wait forever
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        return kind, "give a .safetensors file"
    if not size:
        return "empty", _AGAIN
    with open_file(path) as file:
        found = _explain_head(file.read(_HEAD), path) or _explain_length(file, size)
    # what the name says, where the content says nothing: a pickle may begin with anything
    if found and found[0].startswith(("no safetensors", "text")):
        return _as_tensors(_PICKLE) if path.suffix.lower() in _PICKLE_NAMES else found
    return found


def _conversion(kind: str, path: Path) -> str:
    command = _CONVERTERS.get(kind)
    if command is None:
        return "save it as PNG in the program that made it"
    new = unused_path(path.with_suffix(".png"))
    return f"save it as PNG: {command.format(old=quoted(path), new=quoted(new))}"


def _as_tensors(kind: str) -> tuple[str, str]:
    return kind, _TENSOR_REMEDIES.get(kind, _AGAIN)


def _explain_head(head: bytes, path: Path) -> tuple[str, str] | None:
    kind = recognise(head)
    if kind == _LFS:
        match = re.search(rb"\nsize (\d+)", head)
        size = f" of {int(match[1]) / 1e6:,.1f} MB" if match else ""
        return (
            f"a Git LFS pointer, which stands for a file{size} that was not fetched",
            "run `git lfs pull` in the folder that it was cloned to, or download the file itself",
        )
    if kind == _ZIP:
        return _explain_zip(path)
    if not head.strip(b"\0"):
        return "zeros where its header should be: a download that was not finished", _AGAIN
    text = _explain_text(head)
    return text if text or kind in (None, _SAFETENSORS) else _as_tensors(kind)


def _explain_zip(path: Path) -> tuple[str, str]:
    """Tell what torch.save writes, a pickle in a zip archive, from an archive of something."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a damaged zip archive", _AGAIN
    if any(name.endswith(("data.pkl", ".pkl")) for name in names):
        return _as_tensors(_PICKLE)
    inside = next((name for name in names if name.endswith(".safetensors")), None)
    if inside is not None:
        return "a zip archive", f"unpack it, and give the {inside} that is in it"
    return "a zip archive without a .safetensors file in it", _AGAIN


def _explain_text(head: bytes) -> tuple[str, str] | None:
    """Tell what a server has sent in place of a file; None: it is no text."""
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if "<html" in text.lower() or text.lower().startswith("<!doctype html"):
        match = _TITLE.search(text)
        title = f', "{_one_line(match[1])}",' if match else ""
        return (
            f"a web page{title} which a server sent in place of the file",
            "download the file itself: its link may want a token, or `resolve` in place of `blob`",
        )
    text = text.rstrip("\ufffd")  # a character may be cut in two at the end
    if not text or not all((c.isprintable() and c != "\ufffd") or c in "\t\r\n\f" for c in text):
        return None
    kind = "JSON" if text[0] in "{[" else "XML" if text[0] == "<" else "text"
    return f'{kind}, no tensors: "{_one_line(text)}"', "download the file itself, or give another"


def _one_line(text: str) -> str:
    first = "".join(c if c.isprintable() else " " for c in text[:200])
    first = " ".join(first.split())
    return first if len(first) <= 80 else f"{first[:80]}..."


def _explain_length(file: Any, size: int) -> tuple[str, str] | None:
    """Compare a file's length with what its header says that it has."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    start = file.read(1)
    if size < 8 or (length <= LONGEST_HEADER and start == b"{" and 8 + length > size):
        return f"cut short within its header, after {size:,} bytes", _AGAIN
    if length > LONGEST_HEADER or start != b"{":
        return "no safetensors file, by its first bytes", _AGAIN
    file.seek(8)
    try:
        entries = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "damaged: its header cannot be read", _AGAIN
    if size < whole:
        return f"cut short: {size:,} of its {whole:,} bytes are there", _AGAIN
    if size > whole:
        return f"damaged: {size - whole:,} bytes longer than its header says", _AGAIN
    return None
