"""A file's header: read and rewritten while the tensors stay as they are, and never loaded."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import write_lora
from safetensors.numpy import load_file, save_file

from glance.core.errors import LoraError
from glance.models.lora.file import read_metadata
from glance.models.lora.header import hash_data, read_header, read_tensor, rewrite_metadata

FILE = Path("x.safetensors")


def data_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return dict(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]))


def write_by_hand(header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    FILE.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_tensors_and_their_places_stay() -> None:
    write_lora(FILE, {"own": "kept"})
    data, entries = data_of(FILE), header_of(FILE)

    rewrite_metadata(read_header(FILE), {"own": "kept", "new": "ä\n"}, FILE)

    assert data_of(FILE) == data
    assert header_of(FILE) == {**entries, "__metadata__": {"new": "ä\n", "own": "kept"}}
    assert list(header_of(FILE))[1:] == [key for key in entries if key != "__metadata__"]


def test_others_read_the_rewritten_file() -> None:
    write_lora(FILE)
    before = load_file(FILE)

    rewrite_metadata(read_header(FILE), {"a": "猫" * 3}, FILE)

    after = load_file(FILE)
    assert before.keys() == after.keys()
    assert all((after[key] == before[key]).all() for key in before)
    assert read_metadata(FILE) == {"a": "猫" * 3}
    assert int.from_bytes(FILE.read_bytes()[:8], "little") % 8 == 0


def test_equal_metadata_give_equal_bytes() -> None:
    header = read_header(write_lora(FILE))
    keys = [f"key{number}" for number in range(20)]

    rewrite_metadata(header, dict.fromkeys(keys, "x"), Path("a"))
    rewrite_metadata(header, dict.fromkeys(reversed(keys), "x"), Path("b"))
    rewrite_metadata(read_header(Path("b")), read_metadata(Path("b")), Path("c"))

    assert Path("a").read_bytes() == Path("b").read_bytes() == Path("c").read_bytes()


def test_another_path_leaves_the_file_alone() -> None:
    before = write_lora(FILE).read_bytes()

    rewrite_metadata(read_header(FILE), {"a": "b"}, Path("new/y.safetensors"))

    assert FILE.read_bytes() == before
    assert read_metadata(Path("new/y.safetensors")) == {"a": "b"}


def test_metadata_may_be_missing() -> None:
    save_file({"a": np.ones(3, np.float32)}, FILE)

    header = read_header(FILE)
    rewrite_metadata(header, {}, FILE)

    assert (header.metadata, read_metadata(FILE)) == ({}, {})
    assert load_file(FILE)["a"].tolist() == [1, 1, 1]


def test_memory_does_not_grow_with_the_tensors() -> None:
    save_file({"a": np.ones(1 << 24, np.float32)}, FILE)  # 64 MiB
    tracemalloc.start()

    header = read_header(FILE)
    hash_data(header)
    rewrite_metadata(header, {"a": "b"}, FILE)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23
    assert FILE.stat().st_size > 1 << 26


def test_hash_is_of_the_tensors_alone() -> None:
    write_lora(FILE)
    before = hash_data(read_header(FILE))

    rewrite_metadata(read_header(FILE), {"a": "b"}, FILE)

    assert before == hash_data(read_header(FILE)) == hashlib.sha256(data_of(FILE)).hexdigest()


def test_one_tensor_is_read_alone() -> None:
    save_file({"a": np.zeros(5, np.float32), "b.alpha": np.full((), 8, np.float32)}, FILE)

    found = read_tensor(read_header(FILE), "b.alpha")

    assert (found.shape, found.to_float().item()) == ((), 8)


def test_whole_file_is_as_long_as_its_header_says() -> None:
    assert read_header(write_lora(FILE)).bytes == FILE.stat().st_size


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 7),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 9),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
        ({"a": {"dtype": "F32"}}, b""),
        ({"__metadata__": {"a": 1}}, b""),
        ([1], b""),
        (b"[" * 90_000, b""),
        (b'{"__metadata__": {"a": "\\ud800"}}', b""),
        (b"\xff\xfe", b""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damaged_file_is_refused(header: object, data: bytes) -> None:
    write_by_hand(header, data)

    with pytest.raises(LoraError, match=r"^x.safetensors: not a whole safetensors file \("):
        read_header(FILE)


@pytest.mark.parametrize("content", [b"", b"1234567", (2**63).to_bytes(8, "little") + b"{}"])
def test_header_longer_than_the_file_is_refused(content: bytes) -> None:
    FILE.write_bytes(content)

    with pytest.raises(LoraError, match="not a whole safetensors file"):
        read_header(FILE)


def test_file_that_lost_bytes_meanwhile_is_not_copied() -> None:
    header = read_header(write_lora(FILE))
    FILE.write_bytes(FILE.read_bytes()[:-1])

    with pytest.raises(LoraError, match=r"x\.safetensors changed while it was copied"):
        rewrite_metadata(header, {}, Path("y"))
    assert [path.name for path in Path().iterdir()] == ["x.safetensors"]


def test_failing_switch_leaves_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = write_lora(FILE).read_bytes()
    monkeypatch.setattr(Path, "replace", fail)

    with pytest.raises(OSError, match="No space left"):
        rewrite_metadata(read_header(FILE), {"a": "b"}, FILE)
    assert FILE.read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["x.safetensors"]
