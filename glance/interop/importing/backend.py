"""SimpleTuner's data backends: which picture and caption they stand for."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import SampleError
from glance.core.files import read_text
from glance.core.findings import quoted
from glance.interop.importing.configs import TrainerFile
from glance.interop.importing.remark import Remark

_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_SAY: Final = "say which picture it is: --image x.png"
_MOST: Final = 1_000_000  # pixels
_MEGAPIXEL: Final = 1024  # the side of SimpleTuner's area 1.0, in whole steps of 64


@dataclass(frozen=True, slots=True)
class DataSource:
    """What a data backend trains on."""

    image: Path
    caption: str | None
    """None: the text file beside the picture."""
    resolution: int | None
    remarks: tuple[Remark, ...]


def find_data(file: TrainerFile, *, image: Path | None, caption: str | None) -> DataSource:
    """Return the one picture of a config's data backend; `image` and `caption` go before it.

    Raises SampleError: no backend that can be read, no folder of pictures, not exactly one picture.
    """
    backend = _read_backend(file, is_needed=image is None)
    picture = image or _only_picture(file.root / _folder(backend, file))
    if caption is None and backend.get("caption_strategy") == "instanceprompt":
        caption = str(backend.get("instance_prompt", "")) or None
    if caption is None and backend.get("caption_strategy") == "filename":
        caption = picture.stem.replace("_", " ")
    return DataSource(picture, caption, _resolution(backend), tuple(_remarks(backend)))


def _read_backend(file: TrainerFile, *, is_needed: bool) -> Mapping[str, Any]:
    """Return the first backend of pictures; empty where nobody needs it and it cannot be read."""
    path = file.root / str(file.options.get("data_backend_config", ""))
    try:
        content = json.loads(read_text(path))
        entries = [entry for entry in content if isinstance(entry, dict)]
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        if not is_needed:
            return {}
        reason = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
        raise SampleError(
            f"{file.path}: its data_backend_config {path} cannot be read ({reason})", hint=_SAY
        ) from exc
    pictures = [entry for entry in entries if entry.get("dataset_type", "image") == "image"]
    in_use = [entry for entry in pictures if entry.get("disabled") is not True]
    if in_use or not is_needed:
        return in_use[0] if in_use else {}
    raise SampleError(f"{path}: no data backend in it holds pictures", hint=_SAY)


def _folder(backend: Mapping[str, Any], file: TrainerFile) -> str:
    named = backend.get("instance_data_dir") or backend.get("image_dir")
    if named is None:
        raise SampleError(
            f"{file.path}: its data backend names no folder of this machine", hint=_SAY
        )
    return str(named)


def _only_picture(folder: Path) -> Path:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _PICTURES and path.is_file() and not path.name.startswith(".")
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise SampleError(
            f"{folder} holds {len(found)} pictures, glance trains on one: "
            f"{', '.join(path.name for path in found[:3])}{', ...' if len(found) > 3 else ''}",
            hint=f"--image {quoted(found[0])}",
        )
    what = "holds no picture" if folder.is_dir() else "is not there"
    raise SampleError(f"the data backend's folder {folder} {what}", hint=_SAY)


def _resolution(backend: Mapping[str, Any]) -> int | None:
    """Return the side of the training area in pixels."""
    given = backend.get("resolution")
    if not isinstance(given, int | float) or not 0 < given < _MOST:
        return None
    if backend.get("resolution_type") == "area" or given < 16:  # megapixels
        return max(64, round(_MEGAPIXEL * math.sqrt(given) / 64) * 64)
    return int(given)


def _remarks(backend: Mapping[str, Any]) -> Iterator[Remark]:
    if backend.get("backend") == "simple":
        yield Remark(
            "data backend",
            "simple",
            "a local backend and a text-embedding cache",
            "SimpleTuner has no backend simple, and none that says `backend`: it says `type`",
        )
    if "image_dir" in backend:
        yield Remark(
            "image_dir",
            str(backend["image_dir"]),
            "the picture is copied into the run's data/, which instance_data_dir names",
            "SimpleTuner does not read image_dir",
        )
    if backend and backend.get("disable_multiline_split") is not True:
        yield Remark(
            "disable_multiline_split",
            "",
            "true",
            "else a caption of two lines becomes two captions",
        )
    if backend.get("crop") is True:
        yield Remark(
            "crop",
            "true",
            "the whole picture, in its own aspect",
            "train with --crop center, or whole,center, to show a square of it",
        )
    if backend.get("resolution_type") == "pixel":
        yield Remark(
            "resolution_type", "pixel", "pixel_area", "memory then does not depend on the aspect"
        )
