"""What a file says of its making: the record of an image, in the image and beside its latents.

In an image the record is JSON, in the PNG text chunk `glance` or behind `glance: ` in the EXIF
description; beside it stands the infotext, and in a PNG ComfyUI's workflow. Saved latents are a
safetensors file: the tensor `latents`, (1, ...) as the family packs them, at the noise level of
the fast phase's first sigma; the record is JSON in the header's `glance`. Only this module writes
or reads any of them, but for the tensor itself.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from glance import __version__
from glance.core.device import Device, Precision
from glance.core.errors import (
    InputError,
    ScheduleError,
    SetupError,
    as_typed,
    locate_fault,
    reason_of,
)
from glance.core.files import find_place, replacing, require_file
from glance.core.phase import Phase
from glance.core.pictures import DECODER_ERRORS, open_picture
from glance.sampling.comfyui import Graph, lay_out_page
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule

SCHEMA_VERSION: Final = 1
TENSOR: Final = "latents"
KEY: Final = "glance"
"""Of the record: a PNG's text chunk, and the header of saved latents."""
FORMATS: Final = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
"""The endings of the images that are written, and Pillow's names for them."""

_MARK: Final = "glance: "
_DESCRIPTION: Final = 0x010E  # EXIF ImageDescription
_EXIF_FOLDER: Final = 0x8769
_USER_COMMENT: Final = 0x9286
_JPEG_EXIF_BYTES: Final = 65_533  # a marker's length is 16 bits and counts itself
_MAX_RECORD: Final = 1 << 21  # characters: two prompts of 64 Ki stay below it, however escaped
_MAX_FILE: Final = 1 << 29  # bytes: the largest picture, not compressed at all, is under half
_REMEDY: Final = "give an image as `glance infer` wrote it: PNG, JPEG or WebP"
_LATENTS_REMEDY: Final = "give a file that `glance infer --save-latents` wrote"
_TAG_ENDS: Final = re.compile(r'[:,<>"\s]+')
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}\b")  # of a model's folder; a Hub commit has 40
_PLACES: Final[dict[str, Any]] = {
    **dict.fromkeys(("schema_version", "run", "model", "transformer"), True),
    "schedule": {"name"},
    "loras": {"__all__": {"file"}},
    "extra_loras": {"__all__": {"name", "file"}},
    "settings": {"reference"},
}
"""What does not decide a pixel: places and names."""

# --- the record ----------------------------------------------------------------------------------


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraUse(_Part):
    """One LoRA of the pair, and how strongly it was applied."""

    phase: Phase
    file: str
    """Relative to the picture's folder, or on the Hub: owner/repo:file.safetensors."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scale: float


class ExtraUse(_Part):
    """One LoRA besides the pair's."""

    name: str
    """Of its file, and no other's of the image."""
    file: str
    """Where it is, as that of a LoRA of the pair."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    strength: float
    with_pair: bool = True
    """See request.ExtraLora."""


class PhaseTimesteps(_Part):
    """The timesteps of one phase, 0-1000, stepped from; the sigmas are there for the reader."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]


class ScheduleUse(_Part):
    """What was stepped along."""

    name: str
    """The preset's, or custom."""
    slow: PhaseTimesteps
    fast: PhaseTimesteps

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        """Return a record's form of a schedule."""
        return cls.model_validate({"name": schedule.name, **schedule.to_json()})

    def resolve(self) -> Schedule:
        """Return the schedule as the object that checks its rules; raises ScheduleError."""
        return Schedule(self.name, self.slow.timesteps, self.fast.timesteps)


class Record(_Part):
    """Everything that made one picture."""

    schema_version: Literal[1] = SCHEMA_VERSION
    glance: str = __version__
    """The glance that made it."""
    versions: Mapping[str, str]
    """Of the packages that sampled it."""
    family: str
    model: str
    """Base model: a Hub id, or relative to the picture's folder."""
    base_revision: str
    """Its commit on the Hub, or its folder's fingerprint."""
    transformer: str | None = None
    """Single file in place of its transformer, relative to the picture's folder."""
    run: str | None = None
    """Run folder, relative to the picture's folder."""
    device: Device
    dtype: Precision
    """Of the weights."""
    quantize: str = "none"
    """How the transformer was quantised."""
    schedule: ScheduleUse
    loras: tuple[LoraUse, ...]
    extra_loras: tuple[ExtraUse, ...] = ()
    """In the order in which they are added up."""
    settings: SampleSettings
    reference_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file in settings.reference, for a family that edits."""
    init_latents_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the saved latents that it began from, in place of the slow phase."""

    @model_validator(mode="after")
    def _knows_its_reference(self) -> Self:
        if (self.settings.reference is None) != (self.reference_sha256 is None):
            raise ValueError("settings.reference and reference_sha256 go together")
        return self

    @property
    def steps(self) -> int:
        """How many steps both phases took."""
        return len(self.schedule.slow.timesteps) + len(self.schedule.fast.timesteps)

    def key(self) -> str:
        """Return a SHA-256 over all that decides the pixels, and not over where things lie.

        So a run that was moved or a schedule that was renamed gives the same key. A model's folder
        counts by its fingerprint alone; a single file by its name, beside the base revision.
        """
        decisive = self.model_dump(mode="json", exclude=_PLACES)
        if not _FINGERPRINT.match(self.base_revision):
            decisive["model"] = self.model
        decisive["transformer"] = self.transformer and PurePosixPath(self.transformer).name
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record, and the file that holds it: its paths start from that file's folder."""

    record: Record
    source: Path

    def place(self, recorded: str) -> str:
        """Return a recorded path as seen from here; what is not there is a name on the Hub."""
        path = Path(os.path.normpath(self.source.parent / recorded))
        if path.exists():
            return str(path)
        found = find_place(recorded, self.source.parent)
        return os.path.relpath(found) if found.exists() else recorded


# --- files ---------------------------------------------------------------------------------------


def write_image(
    image: Image.Image,
    path: Path,
    record: Record | None,
    *,
    workflow: Graph | None = None,
) -> None:
    """Write a picture atomically, with its record; without any metadata where there is none.

    A PNG also carries ComfyUI's `workflow`, for its API and for its page, where that looks for it
    when a picture is dropped there. PNG and WebP keep every pixel, JPEG is written at quality 95
    with all of its colours. The same image and record give the same bytes.

    Raises InputError: no known ending, or a record longer than the 64 KiB that JPEG has for it.
    Raises SetupError: it cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: {path.suffix or 'no ending'} is not an image format",
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
            f"cannot write {path}: {reason_of(exc)}", hint="give --output another path"
        ) from exc


def require_room(path: Path, record: Record) -> None:
    """Raise InputError where `write_image` would, because JPEG has no room for the record."""
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


def latents_path(image: Path) -> Path:
    """Return where the latents of an image are saved."""
    return image.with_suffix(".latents.safetensors")


def preview_path(image: Path) -> Path:
    """Return where the preview of an image's slow phase is saved."""
    return image.with_stem(f"{image.stem}-slow")


def base_path(image: Path) -> Path:
    """Return where the base model's own image is saved, beside the pair's."""
    return image.with_stem(f"{image.stem}-base")


def read_handover(path: Path) -> Record:
    """Return the record of a hand-over file; raise InputError when it is none."""
    try:
        require_file(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
    except FileNotFoundError as exc:
        raise InputError(f"latents not found: {path}", hint=_LATENTS_REMEDY) from exc
    except (OSError, SafetensorError) as exc:
        reason = reason_of(exc)
        message = f"{path}: not a whole safetensors file ({reason})"
        raise InputError(message, hint=_LATENTS_REMEDY) from exc
    if KEY not in metadata or names != [TENSOR]:
        raise InputError(f"{path} holds no latents of glance's", hint=_LATENTS_REMEDY)
    return parse_record(metadata[KEY], source=path)


def _options(
    kind: str, path: Path, record: Record | None, workflow: Graph | None
) -> dict[str, Any]:
    """Return what Pillow's writer of that kind is told."""
    if kind == "JPEG":
        exif = b"" if record is None else _fitting_exif(path, record)
        return {"quality": 95, "subsampling": "4:4:4", "exif": exif}
    if kind == "WEBP":
        exif = b"" if record is None else _exif(record, format_parameters(record))
        return {"lossless": True, "exif": exif}
    if record is None:
        return {}
    chunks = PngImagePlugin.PngInfo()  # it takes iTXt, in UTF-8, where Latin-1 is not enough
    chunks.add_text("parameters", format_parameters(record))
    chunks.add_text(KEY, _to_json(record))
    if workflow is not None:
        # As its SaveImage calls them. The page opens the second where it has both: out of the first
        # it rounds numbers, and reads {a|b} in a prompt as a choice.
        chunks.add_text("prompt", json.dumps(workflow.to_api()))
        chunks.add_text("workflow", json.dumps(lay_out_page(workflow), separators=(",", ":")))
    return {"pnginfo": chunks}


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
            raise InputError(f"image {path} {what}", hint=_REMEDY)
        if path.stat().st_size > _MAX_FILE:
            raise InputError(f"image {path} is larger than 512 MiB", hint=_REMEDY)
        with open_picture(path) as picture:
            is_png = picture.format == "PNG"
            found = picture.info.get(KEY) if is_png else picture.getexif().get(_DESCRIPTION)
    except DECODER_ERRORS as exc:
        reason = getattr(exc, "strerror", None) or "it is no image, or damaged"
        raise InputError(f"image {path} cannot be read: {reason}", hint=_REMEDY) from exc
    if not isinstance(found, str) or not (is_png or found.startswith(_MARK)):
        raise InputError(f"{path} carries no record of its making", hint=_REMEDY)
    text = str(found) if is_png else found.removeprefix(_MARK)
    if len(text) > _MAX_RECORD:
        raise InputError(f"{path}: its glance record is damaged (too long)", hint=_REMEDY)
    return text


def _first_fault(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        text = locate_fault(exc.errors(include_url=False)[0])
    else:
        text = str(exc)
    return "".join(c if c.isprintable() else "?" for c in text[:200])  # it came with the file


# --- the record in the words of AUTOMATIC1111's web UI, which Civitai and most viewers read ------


def format_parameters(record: Record) -> str:
    """Return what the web UI calls the infotext: the prompts, then one line of `name: value`.

    After its modules/infotext_utils.py: a value that holds a comma, a colon or a line break is
    quoted as JSON.

    "Lora hashes" are the first ten digits of a file's SHA-256. Civitai looks for an equal hash
    (`mfh.hash = irh.hash` in its SQL function get_image_resources), and this is the one that it
    keeps as AutoV2. The web UI itself writes twelve digits of a hash that leaves out the file's
    header (AutoV3); twelve digits of the whole file's would match nothing. Civitai takes the names
    for keys (src/utils/metadata/automatic.metadata.ts), and both LoRAs of a run are called alike:
    so each name ends in its phase. Extra LoRAs stand in the prompt, too, as people write them.
    """
    settings = record.settings
    extras = {_TAG_ENDS.sub("-", PurePosixPath(it.name).stem): it for it in record.extra_loras}
    hashes = {_lora_name(it): it.sha256 for it in record.loras}
    hashes |= {name: it.sha256 for name, it in extras.items()}
    tags = [f"<lora:{name}:{as_typed(it.strength)}>" for name, it in extras.items()]
    values = {
        "Steps": str(record.steps),
        "Sampler": "Euler",
        "Schedule type": record.schedule.name,
        "CFG scale": repr(settings.slow_guidance).removesuffix(".0"),
        "Seed": str(settings.seed),
        "Size": f"{settings.width}x{settings.height}",
        "Model": PurePosixPath(record.model).name,
        "Lora hashes": ", ".join(f"{name}: {sha256[:10]}" for name, sha256 in hashes.items()),
        "Version": f"glance {record.glance}",
    }
    lines = [" ".join((settings.prompt, *tags))]
    if settings.negative_prompt:
        lines.append(f"Negative prompt: {settings.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(text)}" for name, text in values.items() if text))
    return "\n".join(lines).encode(errors="replace").decode()  # it has to be encoded once more


def _lora_name(lora: LoraUse) -> str:
    stem = PurePosixPath(lora.file.replace(":", "/")).stem
    return f"{re.sub(r'[^\w.-]+', '-', stem)}-{lora.phase}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) else text
