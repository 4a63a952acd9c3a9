"""A LoRA file in memory: its tensors with numpy alone, its header, reading and writing."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from glance.core.errors import LoraError
from glance.core.files import explain_tensors, open_file

PREFIX: Final = "transformer."
ADAPTER_METADATA: Final = "lora_adapter_metadata"  # diffusers.loaders.lora_base
FOLDED: Final = "glance.folded_scale"
DOWN: Final = ".lora_A.weight"
UP: Final = ".lora_B.weight"
_NUMPY: Final = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
FLOATS: Final = (*_NUMPY, "BF16")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the file holds it: dtype by safetensors' name, and its raw bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray

    def to_float(self) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
        """Return the values; bf16, which numpy lacks, as the float32 it is the upper half of."""
        if self.dtype == "BF16":
            upper = np.frombuffer(self.data, dtype="<u2").astype(np.uint32) << 16
            return upper.view(np.float32).reshape(self.shape)
        return np.frombuffer(self.data, dtype=_NUMPY[self.dtype]).reshape(self.shape)

    def scaled(self, factor: float) -> "Tensor":
        """Return the tensor times `factor`, in its own dtype; exact for powers of two."""
        values = self.to_float() * np.float64(factor)
        if self.dtype == "BF16":
            bits = values.astype(np.float32).view(np.uint32)
            rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
            return Tensor(self.dtype, self.shape, (rounded >> 16).astype("<u2").tobytes())
        return Tensor(self.dtype, self.shape, values.astype(_NUMPY[self.dtype]).tobytes())


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA file in memory: tensors by key, and the header's metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules it changes, by their names in the transformer."""
        keys = (key for key in self.tensors if key.endswith(DOWN))
        return tuple(sorted(key.removeprefix(PREFIX).removesuffix(DOWN) for key in keys))

    @property
    def rank(self) -> int:
        """The rank of its first pair."""
        return next(tensor.shape[0] for key, tensor in self.tensors.items() if key.endswith(DOWN))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the header's metadata without reading tensors; raise LoraError if it has no header."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait forever
            raise unreadable(path, OSError("not a file"))
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as exc:
        raise unreadable(path, exc) from exc


def read_lora(path: Path) -> Lora:
    """Read the whole file; raise LoraError when it is missing, truncated or no safetensors."""
    metadata = read_metadata(path)
    try:
        content = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as exc:
        raise unreadable(path, exc) from exc
    return Lora(
        {
            key: Tensor(str(value["dtype"]), tuple(value["shape"]), value["data"])
            for key, value in sorted(content)  # they come in a random order
        },
        metadata,
    )


def write_lora(lora: Lora, path: Path) -> None:
    """Write the file."""
    with path.open("wb") as file:
        file.writelines(encode_lora(lora))


def encode_lora(lora: Lora) -> Iterator[bytes | bytearray]:
    """Yield the file's bytes, by hand: safetensors' own writer orders the metadata anew at each
    run, and equal LoRAs should be equal files."""
    entries: dict[str, Any] = {}
    offset = 0
    tensors = _in_order(lora.tensors)
    for key, tensor in tensors.items():
        end = offset + len(tensor.data)
        entries[key] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    yield encode_header(lora.metadata, entries)
    yield from (tensor.data for tensor in tensors.values())


def encode_header(metadata: Mapping[str, str], entries: Mapping[str, Any]) -> bytes:
    """Return what stands before the tensors: the header's length and the header, as JSON.

    The metadata are sorted, `entries` stay in their order; it is padded to a multiple of 8 bytes,
    to which the format aligns the tensors.
    """
    header = {"__metadata__": dict(sorted(metadata.items())), **entries}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all that follows the header when `write_lora` writes them."""
    digest = hashlib.sha256()
    for tensor in _in_order(tensors).values():
        digest.update(tensor.data)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the file's SHA-256."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unreadable(path: Path, exc: Exception) -> LoraError:
    """Return the refusal of a file that cannot be read as safetensors: what it is, what to do."""
    try:
        found = explain_tensors(path)
    except FileNotFoundError:
        return LoraError(f"LoRA not found: {path}", hint="give a .safetensors file that is here")
    except OSError as own:
        return LoraError(f"{path} cannot be read: {own.strerror or own}")
    if found is None:
        return LoraError(f"{path}: not a whole safetensors file ({exc})")
    what, remedy = found
    return LoraError(f"{path}: not a whole safetensors file (it is {what})", hint=remedy)


def _in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return them as they are written, the widest types first, so that all stay aligned."""
    return dict(sorted(tensors.items(), key=lambda item: -int(item[1].dtype[-2:])))
