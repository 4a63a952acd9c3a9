"""What glance's own training wrote: verify it, and make it final.

SimpleTuner's final file loses alpha: its header holds nothing but `format`, so every tool reads
the pair at scale 1 where it was trained at alpha / rank. Finalising multiplies that factor into
lora_B and says so in the header; from then on scale 1 is right everywhere.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from glance.core.errors import LoraError, Problem
from glance.core.files import replacing
from glance.models.lora.file import (
    ADAPTER_METADATA,
    DOWN,
    FLOATS,
    FOLDED,
    PREFIX,
    UP,
    Lora,
    hash_tensors,
    read_lora,
    read_metadata,
    write_lora,
)
from glance.models.lora.pairs import adapter_config
from glance.runs.modelspec import Origin, describe_origin


def verify_lora(lora: Lora, *, path: Path, rank: int | None = None) -> None:
    """Raise LoraError unless the tensors are a LoRA that was trained.

    Every key is half of a lora_A / lora_B pair of the transformer, every pair has `rank` (the
    first one's, if not given), every value is finite, and lora_B, which starts at zero, moved.
    """
    problems = _key_problems(lora) or _shape_problems(lora, rank) or _value_problems(lora)
    if problems:
        raise LoraError(Problem(f"{path.name}: {item.message}", item.hint) for item in problems)


def finalise_lora(path: Path, *, rank: int, alpha: float, origin: Origin) -> None:
    """Verify the trainer's file and make it final, in place and atomically.

    lora_B is multiplied by alpha / rank; the header keeps what the trainer wrote and gains
    diffusers' adapter metadata (so that alpha = rank is explicit) and all that `describe_origin`
    tells. A file that is final already stays as it is.
    Raises LoraError as `read_lora` and `verify_lora` do.
    """
    lora = read_lora(path)
    verify_lora(lora, path=path, rank=rank)
    if FOLDED in lora.metadata:
        return
    factor = alpha / rank
    tensors = {
        key: tensor.scaled(factor) if key.endswith(UP) else tensor
        for key, tensor in lora.tensors.items()
    }
    metadata = {
        **lora.metadata,
        ADAPTER_METADATA: json.dumps(
            adapter_config(dict.fromkeys(lora.modules, lora.rank)), sort_keys=True
        ),
        **describe_origin(origin, rank=rank, data_sha256=hash_tensors(tensors)),
        FOLDED: json.dumps(factor),
    }
    with replacing(path) as temporary:
        write_lora(Lora(tensors, metadata), temporary)


def is_final(path: Path) -> bool:
    """Whether the file exists and has been finalised."""
    try:
        return FOLDED in read_metadata(path)
    except LoraError:
        return False


def _key_problems(lora: Lora) -> list[Problem]:
    if not lora.tensors:
        return [Problem("it holds no tensors")]
    odd = [key for key in lora.tensors if not (key.startswith(PREFIX) and key.endswith((DOWN, UP)))]
    if odd:
        return [
            Problem(f"{len(odd)} of its keys are no LoRA pair of the transformer, first {odd[0]}")
        ]
    halves = Counter(key.removesuffix(DOWN).removesuffix(UP) for key in lora.tensors)
    lonely = [module for module, count in halves.items() if count != 2]
    return [Problem(f"{module} lacks its lora_A or lora_B") for module in lonely]


def _shape_problems(lora: Lora, rank: int | None) -> list[Problem]:
    problems: list[Problem] = []
    for key, tensor in lora.tensors.items():
        if tensor.dtype not in FLOATS:
            problems.append(Problem(f"{key} is {tensor.dtype}, not floating point"))
        elif len(tensor.shape) != 2:
            problems.append(Problem(f"{key} has shape {tensor.shape}, not two dimensions"))
        else:
            found = tensor.shape[0] if key.endswith(DOWN) else tensor.shape[1]
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
                    "train in another --run with a smaller --learning-rate",
                )
            )
        moved = moved or (key.endswith(UP) and bool(values.any()))
    if not moved:
        problems.append(Problem("every lora_B is zero: nothing was learnt"))
    return problems
