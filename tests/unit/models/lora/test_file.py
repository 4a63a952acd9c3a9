"""LoRA files: exact folding, whole headers, and every way in which a file is not a LoRA."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.pairs import make_origin, write_lora
from safetensors.numpy import load_file, save_file

from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.models.lora.examine import verify_lora
from glance.models.lora.file import (
    Lora,
    Tensor,
    hash_data,
    hash_file,
    read_header,
    read_lora,
    read_metadata,
    rewrite_metadata,
)
from glance.runs.lora import finalise_lora, is_final
from glance.schedule.lists import resolve_schedule

RANK = 4
FILE = Path("x.safetensors")
MODULE = "transformer.blocks.0.attn.to_q"
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"

type Tensors = dict[str, Tensor]


def tensor(values: Any, dtype: str = "F32") -> Tensor:
    array = np.asarray(values, dtype=np.float32)
    match dtype:
        case "F64":
            data = array.astype("<f8").tobytes()
        case "F32":
            data = array.tobytes()
        case "F16":
            data = array.astype("<f2").tobytes()
        case _:  # as many bytes as the type needs; for BF16 the upper halves
            data = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return Tensor(dtype, array.shape, data)


def pair(module: str = MODULE, *, rank: int = RANK, dtype: str = "F32", seed: int = 0) -> Tensors:
    random = np.random.default_rng(seed)
    return {
        f"{module}.lora_A.weight": tensor(random.normal(size=(rank, 6)), dtype),
        f"{module}.lora_B.weight": tensor(random.normal(size=(5, rank)), dtype),
    }


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Write safetensors by hand: the library's own writer knows no bf16 without torch."""
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for key, item in tensors.items():
        start, end = end, end + len(item.data)
        shape = list(item.shape)
        header[key] = {"dtype": item.dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    data = b"".join(item.data for item in tensors.values())
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def finalise(path: Path, rank: int = RANK, alpha: float = 16, phase: Phase = Phase.SLOW) -> None:
    finalise_lora(path, rank=rank, alpha=alpha, origin=make_origin(phase))


def refusal(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(LoraError) as caught:
        finalise(path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "lora"
    folder.mkdir()
    return folder / "x.safetensors"


def data_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return dict(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_folding_by_four_is_exact_and_leaves_lora_a(file: Path, dtype: str) -> None:
    tensors = pair(dtype=dtype)
    finalise(write(file, tensors), alpha=4 * RANK)
    final = read_lora(file).tensors
    assert (final[B].to_float() == 4 * tensors[B].to_float()).all()
    assert (final[A], final[B].dtype) == (tensors[A], dtype)


def test_bf16_times_three_is_rounded_to_the_nearest_even() -> None:
    bits = np.arange(2**16, dtype=np.uint32)
    bits = bits[(bits >> 7 & 0xFF) < 0xFD]  # three times it is still a finite number
    exact = (bits << 16).view(np.float32) * np.float32(3)
    below = exact.view(np.uint32) & 0xFFFF0000
    above = below + 0x10000
    to_below, to_above = (np.abs(end.view(np.float32) - exact) for end in (below, above))
    is_odd = below >> 16 & 1 == 1
    expected = np.where((to_above < to_below) | (to_above == to_below) & is_odd, above, below)
    scaled = Tensor("BF16", bits.shape, bits.astype("<u2").tobytes()).scaled(3.0)
    assert (scaled.to_float().view(np.uint32) == expected).all()


def test_f16_times_three_is_rounded_as_the_exact_product() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = every[np.abs(every) < 20000]
    expected = (values.astype(np.float32) * np.float32(3)).astype(np.float16)
    scaled = Tensor("F16", values.shape, values.tobytes()).scaled(3.0)
    assert (scaled.to_float() == expected).all()


@pytest.mark.parametrize(("phase", "end_sigma"), [(Phase.SLOW, 886.7053 / 1000), (Phase.FAST, 0.0)])
def test_header_says_all_that_sampling_needs(file: Path, phase: Phase, end_sigma: float) -> None:
    tensors = pair() | pair("transformer.blocks.1.ff")
    finalise(write(file, tensors), phase=phase)
    metadata = read_metadata(file)
    adapter = json.loads(metadata.pop("lora_adapter_metadata"))
    assert adapter == {
        "transformer.r": 4,
        "transformer.lora_alpha": 4,
        "transformer.target_modules": ["blocks.0.attn.to_q", "blocks.1.ff"],
        "transformer.rank_pattern": {},
        "transformer.alpha_pattern": {},
        "transformer.use_dora": False,
        "transformer.lora_bias": False,
    }
    timesteps = resolve_schedule("guide").phase(phase).timesteps
    sigmas = resolve_schedule("guide").phase(phase).sigmas
    others = ("modelspec.", "ss_")
    assert {key: text for key, text in metadata.items() if not key.startswith(others)} == {
        "format": "pt",
        "glance.version": "1.2.3",
        "glance.family": "flux",
        "glance.pair_id": "0123456789abcdef",
        "glance.base_model": "black-forest-labs/FLUX.1-dev",
        "glance.boundary": json.dumps(886.7053 / 1000),
        "glance.phase": phase,
        "glance.timesteps": json.dumps(timesteps),
        "glance.sigmas": json.dumps(sigmas),
        "glance.end_sigma": json.dumps(end_sigma),
        "glance.folded_scale": "4.0",
    }


def test_finalising_again_changes_nothing(file: Path) -> None:
    assert not is_final(write(file, pair()))
    finalise(file)
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    finalise(file)
    assert is_final(file)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_equal_loras_become_equal_files(file: Path) -> None:
    tensors = {key: item for n in range(12) for key, item in pair(f"transformer.b.{n}").items()}
    copies = [file.with_name(f"{number}.safetensors") for number in range(3)]
    for copy, reverse in zip(copies, (False, True, False), strict=True):
        own = dict.fromkeys(reversed("abcdefgh") if reverse else "abcdefgh", "kept")
        write(copy, dict(sorted(tensors.items(), reverse=reverse)), own)
        finalise(copy)
    assert len({hash_file(copy) for copy in copies}) == 1


def test_tensors_of_mixed_types_stay_aligned(file: Path) -> None:
    odd = {"transformer.a.lora_A.weight": tensor(np.ones((1, 3)), "BF16")}
    odd |= {"transformer.a.lora_B.weight": tensor(np.ones((3, 1)), "F32")}
    finalise(write(file, odd), rank=1, alpha=4)
    entries = header_of(file)
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    assert entries["transformer.a.lora_A.weight"]["data_offsets"] == [12, 18]
    assert entries["transformer.a.lora_B.weight"]["data_offsets"] == [0, 12]


def by_hand(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: int = 2, start: int = 0) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": [shape], "data_offsets": [start, start + 8]}}


def test_missing_file_is_named(file: Path) -> None:
    for read in (finalise, read_metadata):
        with pytest.raises(LoraError, match=f"^LoRA not found: {file}$"):
            read(file)
    assert not is_final(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a caption, not a LoRA\n" * 9,
        b"\xff" * 64,
        b"{}",
        *(slice(end) for end in (4, 100, -1)),
        by_hand(entry(), b"\0" * 7),
        by_hand(entry(), b"\0" * 9),
        by_hand(entry(start=4), b"\0" * 12),
        by_hand(entry(shape=3), b"\0" * 8),
        by_hand(entry("X9"), b"\0" * 8),
        by_hand({"a": {"dtype": "F32"}}),
        by_hand({"__metadata__": {"a": 1}}),
        by_hand([1]),
        by_hand(b"[" * 90_000),
        by_hand(b'{"__metadata__": {"a": "\\ud800"}}'),
        by_hand(b"\xff\xfe"),
    ],
    ids=lambda content: str(content)[:80],
)
def test_what_is_no_whole_safetensors_file_is_refused(file: Path, content: bytes | slice) -> None:
    whole = write(file, pair()).read_bytes()
    file.write_bytes(whole[content] if isinstance(content, slice) else content)
    assert refusal(file).startswith(f"{file}: not a whole safetensors file (")
    with pytest.raises(LoraError, match=r"not a whole safetensors file \("):
        read_header(file)
    assert not is_final(file)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "F32"), (np.inf, "F16"), (-np.inf, "BF16")])
@pytest.mark.parametrize("key", [A, B])
def test_value_not_finite_is_refused(file: Path, value: float, dtype: str, key: str) -> None:
    tensors = pair(dtype=dtype)
    array = tensors[key].to_float().astype(np.float32)
    array[1, 2] = value
    lora = Lora({**tensors, key: tensor(array, dtype)}, {})
    assert refusal(write(file, lora.tensors)) == f"x.safetensors: {key} holds NaN or infinity"
    with pytest.raises(LoraError) as caught:
        verify_lora(lora, path=file)
    assert caught.value.problems[0].hint == "train in another --run with a smaller --learning-rate"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_lora_that_learnt_nothing_is_refused(file: Path, dtype: str) -> None:
    flat = {**pair(dtype=dtype), B: tensor(np.full((5, RANK), -0.0), dtype)}
    assert refusal(write(file, flat)) == "x.safetensors: every lora_B is zero: nothing was learnt"
    finalise(write(file, flat | pair("transformer.other")))  # one that moved is enough
    assert is_final(file)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "it holds no tensors"),
        ({A: pair()[A]}, f"{MODULE} lacks its lora_A or lora_B"),
        ({B: pair()[B]}, f"{MODULE} lacks its lora_A or lora_B"),
        (
            pair() | pair("text_encoder.b") | pair("unet.a"),
            "4 of its keys are no LoRA pair of the transformer, first text_encoder.b.lora_A.weight",
        ),
        (
            {**pair(), f"{MODULE}.alpha": tensor([[4.0]])},
            f"1 of its keys are no LoRA pair of the transformer, first {MODULE}.alpha",
        ),
        (pair(rank=8), f"{A} has rank 8, not 4; x.safetensors: {B} has rank 8, not 4"),
        ({**pair(), A: tensor(np.ones((4, 6, 1)))}, f"{A} has shape (4, 6, 1), not two dimensions"),
        ({**pair(), A: tensor(np.ones((4, 6)), "I16")}, f"{A} is I16, not floating point"),
    ],
    ids=["empty", "no B", "no A", "other models", "alpha", "rank", "convolution", "integers"],
)
def test_what_is_no_such_lora_is_refused(file: Path, tensors: Tensors, message: str) -> None:
    assert refusal(write(file, tensors)) == f"x.safetensors: {message}"


def test_tensors_and_their_places_stay_and_others_read_the_file() -> None:
    write_lora(FILE, {"own": "kept"})
    data, entries, before = data_of(FILE), header_of(FILE), load_file(FILE)
    copy, metadata = Path("new/y.safetensors"), {"new": "ä\n" * 3, "own": "kept"}

    rewrite_metadata(read_header(FILE), metadata, copy)

    assert data_of(copy) == data == data_of(FILE)
    assert header_of(copy) == {**entries, "__metadata__": metadata}
    assert list(header_of(copy))[1:] == [key for key in entries if key != "__metadata__"]
    assert (read_metadata(copy), read_metadata(FILE)) == (metadata, {"own": "kept"})
    assert hash_data(read_header(copy)) == hashlib.sha256(data).hexdigest()
    after = load_file(copy)
    assert before.keys() == after.keys()
    assert all((after[key] == before[key]).all() for key in before)


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


def test_file_that_lost_bytes_meanwhile_is_not_copied() -> None:
    header = read_header(write_lora(FILE))
    FILE.write_bytes(FILE.read_bytes()[:-1])

    with pytest.raises(LoraError, match=r"x\.safetensors changed while it was copied"):
        rewrite_metadata(header, {}, Path("y"))
    assert [path.name for path in Path().iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    "change", [finalise, lambda path: rewrite_metadata(read_header(path), {"a": "b"}, path)]
)
def test_failing_switch_leaves_the_file(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = write(FILE, pair()).read_bytes()
    monkeypatch.setattr(Path, "replace", fail)

    with pytest.raises(OSError, match="No space left"):
        change(FILE)
    assert FILE.read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["x.safetensors"]
