"""A LoRA file in memory: its tensors with numpy alone, its header, reading and writing."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from glance.core.errors import LoraError, reason_of
from glance.core.files import open_file, replacing
from glance.core.kinds import explain_tensors

PREFIX: Final = "transformer."
ADAPTER_METADATA: Final = "lora_adapter_metadata"  # diffusers.loaders.lora_base
FOLDED: Final = "glance.folded_scale"
DOWN: Final = ".lora_A.weight"
UP: Final = ".lora_B.weight"
_NUMPY: Final = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
FLOATS: Final = (*_NUMPY, "BF16")
_BLOCK: Final = 1 << 20  # bytes that are held at once while tensors are copied


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


@dataclass(frozen=True, slots=True)
class Entry:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Its first byte, counted from the end of the header."""
    end: int

    def to_json(self) -> dict[str, Any]:
        """Return it as the header holds it."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "data_offsets": [self.start, self.end],
        }


@dataclass(frozen=True, slots=True)
class Header:
    """A file's header, and where its tensors begin."""

    path: Path
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]
    """In the header's order."""
    start: int
    """Bytes before the first tensor."""

    @property
    def bytes(self) -> int:
        """How long the whole file is."""
        return self.start + max((entry.end for entry in self.entries.values()), default=0)


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
        entries[key] = Entry(tensor.dtype, tuple(tensor.shape), offset, end).to_json()
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
        return LoraError(f"{path} cannot be read: {reason_of(own)}")
    if found is None:
        return LoraError(f"{path}: not a whole safetensors file ({exc})")
    what, remedy = found
    return LoraError(f"{path}: not a whole safetensors file (it is {what})", hint=remedy)


def read_header(path: Path) -> Header:
    """Read a header; raise LoraError when the file is missing, damaged or not as long as it says.

    safetensors itself checks that every tensor's bytes are there, and that none lie between them.
    """
    metadata = read_metadata(path)
    try:
        with open_file(path) as file:
            size = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(size))
    except (OSError, ValueError) as exc:
        raise unreadable(path, exc) from exc
    content.pop("__metadata__", None)
    entries = {
        key: Entry(item["dtype"], tuple(item["shape"]), *item["data_offsets"])
        for key, item in content.items()
    }
    return Header(path, metadata, entries, 8 + size)


def rewrite_metadata(header: Header, metadata: Mapping[str, str], target: Path) -> None:
    """Write the file once more with these metadata, to another path or its own, atomically.

    The tensors, their order and their offsets stay; the metadata are sorted, so that equal input
    gives equal bytes. Raises LoraError when the file has changed since its header was read, and
    OSError where it cannot be read or written.
    """
    entries = {key: entry.to_json() for key, entry in header.entries.items()}
    with replacing(target) as temporary:
        with header.path.open("rb") as old, temporary.open("wb") as new:
            begin = new.write(encode_header(metadata, entries))
            old.seek(header.start)
            shutil.copyfileobj(old, new, _BLOCK)
            copied = new.tell() - begin
        if copied != header.bytes - header.start:
            raise LoraError(f"{header.path} changed while it was copied", hint="try again")


def hash_data(header: Header) -> str:
    """Return the SHA-256 of all that follows the header; raises OSError.

    ModelSpec's `hash_sha256`, and what Civitai and the web UI call AutoV3, of which they show
    twelve digits: it stays when metadata change.
    """
    with header.path.open("rb") as file:
        file.seek(header.start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensor(header: Header, key: str) -> Tensor:
    """Read one tensor alone; raises OSError."""
    entry = header.entries[key]
    with header.path.open("rb") as file:
        file.seek(header.start + entry.start)
        return Tensor(entry.dtype, entry.shape, file.read(entry.end - entry.start))


def _in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return them as they are written, the widest types first, so that all stay aligned."""
    return dict(sorted(tensors.items(), key=lambda item: -int(item[1].dtype[-2:])))
