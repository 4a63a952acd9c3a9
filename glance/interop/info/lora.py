"""A LoRA file of anybody's: its keys, its scale, its hashes, and everything in its header."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import LoraError, Problem
from glance.core.findings import shown
from glance.interop.info.description import (
    Description,
    count,
    format_bytes,
    join_numbers,
    list_problems,
    list_values,
    to_json,
)
from glance.models.lora.examine import examine_lora
from glance.models.lora.file import hash_file, unreadable
from glance.models.lora.header import Header, hash_data, read_header
from glance.models.lora.pairs import PairKeys, sort_keys
from glance.models.lora.strength import Strength, read_strength
from glance.runs.modelspec import SPEC
from glance.schedule.lists import MAX_TIMESTEP

_OWN: Final = "glance."
_STYLES: Final = {
    "lora_unet_": "kohya",
    "lora_transformer_": "OneTrainer",
    "base_model.model.": "PEFT",
    "transformer.": "diffusers",
    "diffusion_model.": "ComfyUI",
    "model.diffusion_model.": "ComfyUI, of a whole checkpoint",
}
"""Whose names a key has, by how it begins."""
_BARE: Final = "bare names of layers"


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What a file holds, by its header, its bytes and its few numbers of alpha."""

    header: Header
    pairs: tuple[PairKeys, ...]
    sha256: str
    data_sha256: str
    """Of all that follows the header."""
    strength: Strength | None
    """How strongly it is applied; None: that cannot be made out, for a reason in `problems`."""
    problems: tuple[Problem, ...]
    """Why glance could not use it."""

    @property
    def ranks(self) -> Mapping[int, int]:
        """Rank -> in how many layers."""
        return Counter(sorted(_rank(self.header, pair) for pair in self.pairs))

    @property
    def dtypes(self) -> Mapping[str, int]:
        """Type, by safetensors' name -> how many tensors have it."""
        return Counter(sorted(entry.dtype for entry in self.header.entries.values()))

    @property
    def parameters(self) -> int:
        """How many numbers the file holds."""
        return sum(math.prod(entry.shape) for entry in self.header.entries.values())

    @property
    def styles(self) -> tuple[str, ...]:
        """Whose names the pairs have."""
        return tuple(sorted({_style(pair.down) for pair in self.pairs}))

    @property
    def scales(self) -> Mapping[float, int]:
        """What B A is multiplied by -> in how many layers."""
        return Counter({} if self.strength is None else self.strength.factors.values())

    @property
    def alpha(self) -> str | None:
        """Where alpha is said; None: nowhere, so it is taken as the rank."""
        return None if self.strength is None else self.strength.source

    def said(self, name: str) -> str | None:
        """Return what glance wrote into the header under `name`."""
        return self.header.metadata.get(f"{_OWN}{name}")

    @property
    def timesteps(self) -> list[float] | None:
        """The timesteps (0-1000) that it was trained on, where the header says it."""
        try:
            return [float(value) for value in json.loads(self.said("timesteps") or "")]
        except (ValueError, TypeError):
            return None


def read_lora_file(path: Path) -> LoraFile:
    """Read all that is to be known; raises LoraError when it is no whole safetensors file."""
    header = read_header(path)
    keys = sort_keys(header.entries)
    try:
        return LoraFile(
            header=header,
            pairs=keys.pairs,
            sha256=hash_file(path),
            data_sha256=hash_data(header),
            strength=_strength(header, keys.pairs),
            # without pairs it may be a whole model, of which no tensor need be read
            problems=_examine(path) if keys.pairs else keys.problems,
        )
    except OSError as exc:
        raise unreadable(path, exc) from exc


def describe_lora(file: LoraFile) -> Description:
    """Return the description of a file that was read."""
    return Description(lora_document(file), tuple(_lines(file)))


def lora_document(file: LoraFile) -> dict[str, Any]:
    """Return it as JSON; the header's metadata whole."""
    header, timesteps = file.header, file.timesteps
    return {
        "kind": "lora" if file.pairs else "safetensors",
        "path": str(header.path),
        "bytes": header.bytes,
        "sha256": file.sha256,
        "autov2": file.sha256[:10],
        "autov3": file.data_sha256[:12],
        "keys": list(file.styles),
        "layers": len(file.pairs),
        "ranks": {str(rank): count for rank, count in file.ranks.items()},
        "alpha": file.alpha,
        "scales": {f"{scale:g}": count for scale, count in file.scales.items()},
        "dtypes": dict(file.dtypes),
        "parameters": file.parameters,
        "family": file.said("family"),
        "phase": file.said("phase"),
        "timesteps": timesteps,
        "sigmas": timesteps and [value / MAX_TIMESTEP for value in timesteps],
        "boundary": _number(file.said("boundary")),
        "guidance": _number(file.said("guidance")),
        "pair_id": file.said("pair_id"),
        "base_model": file.said("base_model"),
        "modelspec": _modelspec(header),
        "metadata": dict(header.metadata),
        "problems": to_json(file.problems),
    }


def summarise(file: LoraFile) -> str:
    """Return in one line what kind of LoRA it is, safe to print."""
    if not file.pairs:
        what = f"safetensors, no LoRA: {count(len(file.header.entries), 'tensor')}"
    else:
        what = f"LoRA of {count(len(file.pairs), 'layer')}, rank {_counted(file.ranks)}"
    kinds = f", {', '.join(file.dtypes)}" if file.dtypes else ""
    size = format_bytes(file.header.bytes)
    return f"{what}{kinds}, {file.parameters:,} parameters, {size}"


def _lines(file: LoraFile) -> Iterator[str]:
    metadata = file.header.metadata
    yield f"{shown(file.header.path)}: {summarise(file)}"
    yield from list_values(
        {
            "SHA-256": file.sha256,
            "AutoV2": file.sha256[:10],
            "AutoV3": f"{file.data_sha256[:12]} (tensors alone)",
            "keys": ", ".join(file.styles) or None,
            "scale": _scale_text(file),
            **_training(file),
        }
    )
    yield from list_problems(file.problems)
    if spec := _modelspec(file.header):
        yield "ModelSpec:"
        yield from list_values(spec)
    others = {key: text for key, text in metadata.items() if not key.startswith((SPEC, _OWN))}
    if others:
        yield "other metadata:"
        yield from list_values(dict(sorted(others.items())))


def _training(file: LoraFile) -> dict[str, str | None]:
    boundary = _number(file.said("boundary"))
    return {
        "family": file.said("family"),
        "base model": file.said("base_model"),
        "phase": file.said("phase"),
        "timesteps": None if file.timesteps is None else join_numbers(file.timesteps),
        "boundary": None if boundary is None else f"sigma {boundary:.6g}",
        "guidance": file.said("guidance"),
        "pair": file.said("pair_id"),
        "glance": file.said("version"),
    }


def _scale_text(file: LoraFile) -> str | None:
    if not file.pairs or file.strength is None:
        return None
    said = file.alpha or "alpha is said nowhere and taken as the rank"
    return f"{_counted(file.scales)} ({said})"


def _strength(header: Header, pairs: tuple[PairKeys, ...]) -> Strength | None:
    try:
        return read_strength(header, pairs)
    except LoraError:  # told among the problems
        return None


def _examine(path: Path) -> tuple[Problem, ...]:
    try:
        examine_lora(path)
    except LoraError as exc:
        mark = f"{path}: "
        return tuple(Problem(item.message.removeprefix(mark), item.hint) for item in exc.problems)
    return ()


def _rank(header: Header, pair: PairKeys) -> int:
    return next(iter(header.entries[pair.down].shape), 0)


def _style(key: str) -> str:
    return next((style for start, style in _STYLES.items() if key.startswith(start)), _BARE)


def _modelspec(header: Header) -> dict[str, str]:
    found = (key for key in sorted(header.metadata) if key.startswith(SPEC))
    return {key.removeprefix(SPEC): header.metadata[key] for key in found}


def _counted(counts: Mapping[int, int] | Mapping[float, int]) -> str:
    """Return the values, and how many of each there are where there is more than one."""
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    return ", ".join(f"{value:g} ({count})" for value, count in counts.items())


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if math.isfinite(found) else None
