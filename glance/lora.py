"""LoRA files: read, verify, finalise. Works on safetensors with numpy; needs no torch.

SimpleTuner's final file loses alpha: its header holds nothing but `format`, so every tool reads
the pair at scale 1 where it was trained at alpha / rank. Finalising multiplies that factor into
lora_B and says so in the header; from then on scale 1 is right everywhere.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from glance import __version__
from glance.errors import LoraError, Problem
from glance.files import replacing
from glance.schedule import Phase, PhaseSchedule

PREFIX: Final = "transformer."
ADAPTER_METADATA: Final = "lora_adapter_metadata"  # diffusers.loaders.lora_base
_A: Final = ".lora_A.weight"
_B: Final = ".lora_B.weight"
_FOLDED: Final = "glance.folded_scale"
_NUMPY: Final = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_FLOATS: Final = (*_NUMPY, "BF16")


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
        keys = (key for key in self.tensors if key.endswith(_A))
        return tuple(sorted(key.removeprefix(PREFIX).removesuffix(_A) for key in keys))

    @property
    def rank(self) -> int:
        """The rank of its first pair."""
        return next(tensor.shape[0] for key, tensor in self.tensors.items() if key.endswith(_A))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the header's metadata without reading tensors; raise LoraError if it has no header."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as exc:
        raise _unreadable(path, exc) from exc


def read_lora(path: Path) -> Lora:
    """Read the whole file; raise LoraError when it is missing, truncated or no safetensors."""
    metadata = read_metadata(path)
    try:
        content = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as exc:
        raise _unreadable(path, exc) from exc
    return Lora(
        {
            key: Tensor(str(value["dtype"]), tuple(value["shape"]), value["data"])
            for key, value in sorted(content)  # they come in a random order
        },
        metadata,
    )


def verify_lora(lora: Lora, *, path: Path, rank: int | None = None) -> None:
    """Raise LoraError unless the tensors are a LoRA that was trained.

    Every key is half of a lora_A / lora_B pair of the transformer, every pair has `rank` (the
    first one's, if not given), every value is finite, and lora_B, which starts at zero, moved.
    """
    problems = _key_problems(lora) or _shape_problems(lora, rank) or _value_problems(lora)
    if problems:
        raise LoraError(Problem(f"{path.name}: {item.message}", item.hint) for item in problems)


def finalise_lora(
    path: Path,
    *,
    rank: int,
    alpha: float,
    phase: Phase,
    schedule: PhaseSchedule,
    family: str,
) -> None:
    """Verify the trainer's file and make it final, in place and atomically.

    lora_B is multiplied by alpha / rank; the header gains diffusers' adapter metadata (so that
    alpha = rank is explicit) and glance's own keys. A file that is final already stays as it is.
    Raises LoraError as `read_lora` and `verify_lora` do.
    """
    lora = read_lora(path)
    verify_lora(lora, path=path, rank=rank)
    if _FOLDED in lora.metadata:
        return
    factor = alpha / rank
    tensors = {
        key: tensor.scaled(factor) if key.endswith(_B) else tensor
        for key, tensor in lora.tensors.items()
    }
    metadata = {
        **lora.metadata,
        ADAPTER_METADATA: json.dumps(_adapter_metadata(lora), sort_keys=True),
        "glance.version": __version__,
        "glance.family": family,
        "glance.phase": phase.value,
        "glance.timesteps": json.dumps(schedule.timesteps),
        "glance.sigmas": json.dumps(schedule.sigmas),
        "glance.end_sigma": json.dumps(schedule.end_sigma),
        _FOLDED: json.dumps(factor),
    }
    with replacing(path) as temporary:
        _write(Lora(tensors, metadata), temporary)


def is_final(path: Path) -> bool:
    """Whether the file exists and has been finalised."""
    try:
        return _FOLDED in read_metadata(path)
    except LoraError:
        return False


def hash_file(path: Path) -> str:
    """Return the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(lora: Lora, path: Path) -> None:
    """Write the file by hand: safetensors' own writer orders the metadata anew at each run, and
    equal LoRAs should be equal files. Like it, the widest types come first: all stay aligned."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(lora.metadata.items()))}
    offset = 0
    tensors = dict(sorted(lora.tensors.items(), key=lambda item: -int(item[1].dtype[-2:])))
    for key, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[key] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns the tensors to 8 bytes
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(tensor.data for tensor in tensors.values())


def _adapter_metadata(lora: Lora) -> dict[str, Any]:
    """PEFT's LoraConfig, prefixed as diffusers stores it: alpha = rank, so scale 1."""
    config = {
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "target_modules": list(lora.modules),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "lora_bias": False,
    }
    return {f"{PREFIX}{key}": value for key, value in config.items()}


def _key_problems(lora: Lora) -> list[Problem]:
    if not lora.tensors:
        return [Problem("it holds no tensors")]
    odd = [key for key in lora.tensors if not (key.startswith(PREFIX) and key.endswith((_A, _B)))]
    if odd:
        return [
            Problem(f"{len(odd)} of its keys are no LoRA pair of the transformer, first {odd[0]}")
        ]
    halves = Counter(key.removesuffix(_A).removesuffix(_B) for key in lora.tensors)
    lonely = [module for module, count in halves.items() if count != 2]
    return [Problem(f"{module} lacks its lora_A or lora_B") for module in lonely]


def _shape_problems(lora: Lora, rank: int | None) -> list[Problem]:
    problems: list[Problem] = []
    for key, tensor in lora.tensors.items():
        if tensor.dtype not in _FLOATS:
            problems.append(Problem(f"{key} is {tensor.dtype}, not floating point"))
        elif len(tensor.shape) != 2:
            problems.append(Problem(f"{key} has shape {tensor.shape}, not two dimensions"))
        else:
            found = tensor.shape[0] if key.endswith(_A) else tensor.shape[1]
            rank = found if rank is None else rank
            if found != rank:
                problems.append(Problem(f"{key} has rank {found}, not {rank}"))
    return problems


def _value_problems(lora: Lora) -> list[Problem]:
    problems: list[Problem] = []
    moved = False
    for key, tensor in lora.tensors.items():
        values = tensor.to_float()
        if not np.isfinite(values).all():
            problems.append(
                Problem(
                    f"{key} holds NaN or infinity",
                    "train again with --restart and a smaller --learning-rate",
                )
            )
        moved = moved or (key.endswith(_B) and bool(values.any()))
    if not moved:
        problems.append(Problem("every lora_B is zero: nothing was learnt"))
    return problems


def _unreadable(path: Path, exc: Exception) -> LoraError:
    if isinstance(exc, FileNotFoundError):
        return LoraError(f"LoRA not found: {path}")
    return LoraError(f"{path}: not a whole safetensors file ({exc})")
