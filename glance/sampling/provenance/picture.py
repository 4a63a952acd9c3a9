"""The files: writing a picture with its record, and reading the record of any picture.

The record is JSON, in the PNG text chunk `glance` or behind `glance: ` in the EXIF description;
beside it stands the infotext. Only this module writes or reads either.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from PIL import Image, PngImagePlugin
from pydantic import ValidationError

from glance.core.errors import InputError, ScheduleError, SetupError, locate_fault
from glance.core.files import replacing
from glance.core.pictures import DECODER_ERRORS, open_picture
from glance.sampling.provenance.infotext import format_parameters
from glance.sampling.provenance.record import SCHEMA_VERSION, Record

FORMATS: Final = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
"""The endings of the pictures that are written, and Pillow's names for them."""

_CHUNK: Final = "glance"
_COMFYUI_CHUNK: Final = "prompt"  # as its own SaveImage calls it
_MARK: Final = "glance: "
_DESCRIPTION: Final = 0x010E  # EXIF ImageDescription
_EXIF_FOLDER: Final = 0x8769
_USER_COMMENT: Final = 0x9286
_JPEG_EXIF_BYTES: Final = 65_533  # a marker's length is 16 bits and counts itself
_MAX_RECORD: Final = 1 << 21  # characters: two prompts of 64 Ki stay below it, however escaped
_MAX_FILE: Final = 1 << 29  # bytes: the largest picture, not compressed at all, is under half
_REMEDY: Final = "give a picture as `glance infer` wrote it: PNG, JPEG or WebP"


def write_picture(
    image: Image.Image,
    path: Path,
    record: Record | None,
    *,
    workflow: Mapping[str, Any] | None = None,
) -> None:
    """Write a picture atomically, with its record; without any metadata where there is none.

    A PNG also carries `workflow`, ComfyUI's API JSON, where its page looks for it when a picture
    is dropped there. PNG and WebP keep every pixel, JPEG is written at quality 95 with all of its
    colours. The same image and record give the same bytes.

    Raises InputError: no known ending, or a record longer than the 64 KiB that JPEG has for it.
    Raises SetupError: it cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: {path.suffix or 'no ending'} is not a picture format",
            hint=f"use one of {', '.join(FORMATS)}",
        )
    plain = image.copy()
    plain.info = {}  # Pillow would write the comment and the colour profile that it came with
    encoded = BytesIO()  # Pillow, writing JPEG itself, does not notice that the disk is full
    plain.save(encoded, format=kind, **_options(kind, path, record, workflow))
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(encoded.getvalue())
    except OSError as exc:
        raise SetupError(
            f"cannot write {path}: {exc.strerror or exc}", hint="give --output another path"
        ) from exc


def require_room(path: Path, record: Record) -> None:
    """Raise InputError where `write_picture` would, because JPEG has no room for the record."""
    if FORMATS.get(path.suffix.lower()) == "JPEG":
        _fitting_exif(path, record)


def read_record(path: Path) -> Record:
    """Return what a picture says of its making: well-formed, but anybody may have written it.

    Raises InputError: no such file, no picture, no record in it, a damaged one or one of a newer
    glance.
    """
    return parse_record(_read_text(path), source=path)


def parse_record(text: str, *, source: Path) -> Record:
    """Return the record that stands as JSON in the file `source`; raises InputError."""
    try:
        document = json.loads(text)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{source}: its record is of a newer glance, this one reads schema version "
                f"{SCHEMA_VERSION}",
                hint="use the glance that wrote it",
            )
        record = Record.model_validate(document)
        record.schedule.resolve()
        record.model_dump_json()  # raises where a text is none: it could not be printed either
    except (ValueError, ScheduleError, RecursionError) as exc:
        raise InputError(
            f"{source}: its glance record is damaged ({_first_fault(exc)})", hint=_REMEDY
        ) from exc
    return record


def _options(
    kind: str, path: Path, record: Record | None, workflow: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what Pillow's writer of that kind is told."""
    match kind:
        case "PNG":
            return {} if record is None else {"pnginfo": _text_chunks(record, workflow)}
        case "JPEG":
            exif = b"" if record is None else _fitting_exif(path, record)
            return {"quality": 95, "subsampling": "4:4:4", "exif": exif}
        case _:
            exif = b"" if record is None else _exif(record, format_parameters(record))
            return {"lossless": True, "exif": exif}


def _text_chunks(record: Record, workflow: Mapping[str, Any] | None) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()  # it takes iTXt, in UTF-8, where Latin-1 is not enough
    chunks.add_text("parameters", format_parameters(record))
    chunks.add_text(_CHUNK, _to_json(record))
    if workflow is not None:
        chunks.add_text(_COMFYUI_CHUNK, json.dumps(workflow))
    return chunks


def _fitting_exif(path: Path, record: Record) -> bytes:
    """Return EXIF that fits into JPEG: the record alone where both have no room."""
    for parameters in (format_parameters(record), None):
        exif = _exif(record, parameters)
        if len(exif) <= _JPEG_EXIF_BYTES:
            return exif
    raise InputError(
        f"{path}: the record of its making has {len(exif):,} bytes, JPEG has room for "
        f"{_JPEG_EXIF_BYTES:,}",
        hint="shorten the prompt, or write .png or .webp",
    )


def _exif(record: Record, parameters: str | None) -> bytes:
    exif = Image.Exif()
    exif.endian = ">"  # EXIF reads the comment in the file's byte order, the web UI in this one
    exif[_DESCRIPTION] = _MARK + _to_json(record)
    if parameters is not None:
        comment = b"UNICODE\0" + parameters.encode("utf-16-be")
        exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = comment
    return exif.tobytes()


def _to_json(record: Record) -> str:
    """Return the record in one line of ASCII, which is all that EXIF's description may hold."""
    return json.dumps(record.model_dump(mode="json"), separators=(",", ":"))


def _read_text(path: Path) -> str:
    """Return the record's JSON, unread; raises InputError."""
    try:
        if not path.is_file():  # opening a pipe would wait forever
            what = "is not a file" if path.exists() else "does not exist"
            raise InputError(f"picture {path} {what}", hint=_REMEDY)
        if path.stat().st_size > _MAX_FILE:
            raise InputError(f"picture {path} is larger than 512 MiB", hint=_REMEDY)
        with open_picture(path) as picture:
            text = _find_text(picture)
    except DECODER_ERRORS as exc:
        reason = getattr(exc, "strerror", None) or "it is no picture, or damaged"
        raise InputError(f"picture {path} cannot be read: {reason}", hint=_REMEDY) from exc
    if text is None:
        raise InputError(f"{path} carries no record of its making", hint=_REMEDY)
    if len(text) > _MAX_RECORD:
        raise InputError(f"{path}: its glance record is damaged (too long)", hint=_REMEDY)
    return text


def _find_text(picture: Image.Image) -> str | None:
    if picture.format == "PNG":
        chunk = picture.info.get(_CHUNK)
        return str(chunk) if isinstance(chunk, str) else None
    description = picture.getexif().get(_DESCRIPTION)
    if not isinstance(description, str) or not description.startswith(_MARK):
        return None
    return description.removeprefix(_MARK)


def _first_fault(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        text = locate_fault(exc.errors(include_url=False)[0])
    else:
        text = str(exc)
    return "".join(c if c.isprintable() else "?" for c in text[:200])  # it came with the file
