"""How many parameters a model's parts have: of a folder by its headers, else by its name."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from glance.core.files import open_file
from glance.models.base import Weights, recorded_folder
from glance.models.families import Family

_LONGEST_HEADER = 100_000_000  # as the safetensors library has it


def weigh(model: str, transformer: str | None, *, family: Family, run: Path) -> Weights:
    """Return the weights of a recorded model, and of the single file in its transformer's place.

    Of a folder's or file's tensors only the headers are read; what is in no safetensors file does
    not count. A Hub model is known by its name, else taken for
    one of the family's usual size.
    """
    folder = recorded_folder(model, run)
    if _is_folder(folder):
        encoders = sorted(folder.glob("text_encoder*"))
        found = Weights(
            transformer=_count(folder.glob("transformer/*.safetensors")),
            text_encoders=tuple(_count(part.glob("*.safetensors")) for part in encoders),
            known=True,
        )
    else:
        size = _published(model, family)
        found = Weights(
            transformer=size or family.size.transformer,
            text_encoders=family.size.text_encoders,
            known=size is not None,
        )
    if transformer is None:
        return found
    file = recorded_folder(transformer, run)
    return found.model_copy(update={"transformer": _count([file]), "known": True})


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a run folder that cannot be: whoever makes it says it better
        return False


def _published(model: str, family: Family) -> float | None:
    if model == family.default_model:
        return family.size.transformer
    others = family.size.others.items()
    return next((size for fragment, size in others if fragment in model.lower()), None)


def _count(paths: Any) -> float:
    """Return the billions of parameters in safetensors files; none in what is damaged."""
    return round(sum(map(_count_file, paths)) / 1e9, 4)


def _count_file(path: Path) -> int:
    try:
        with open_file(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= _LONGEST_HEADER else {}
        return sum(
            math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return 0  # whoever loads it says it better
