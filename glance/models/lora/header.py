"""A safetensors file's header: read and rewritten while the tensors stay where they are.

The tensors are copied as a stream of bytes, whatever their number and size; nothing is loaded.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import LoraError
from glance.core.files import open_file, replacing
from glance.models.lora.file import Tensor, encode_header, read_metadata, unreadable

_BLOCK: Final = 1 << 20  # bytes that are held at once while tensors are copied


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
