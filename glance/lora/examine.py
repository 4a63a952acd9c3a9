"""What a LoRA file of any origin is, and every reason why glance cannot use it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from glance.errors import LoraError, Problem, ScheduleError
from glance.lora.file import FLOATS, FOLDED, Lora, Tensor, hash_file, read_lora
from glance.lora.pairs import PairKeys, name_some, pair_problem, read_scaling, sort_keys
from glance.schedule import Phase, Schedule

_PICKLES: Final = (".pt", ".pth", ".ckpt", ".bin")
INTEGERS: Final = ("I64", "I32")  # as which some trainers write alpha


@dataclass(frozen=True, slots=True)
class LoraFacts:
    """A LoRA file that can be loaded, as far as the file alone tells."""

    path: Path
    sha256: str
    rank: int
    """The largest; layers may differ."""
    modules: int
    """How many layers it changes, as the file counts them: a fused qkv is one."""
    phase: Phase | None
    family: str | None
    timesteps: tuple[float, ...] | None
    """What glance recorded of its training: 1000 is noise, 0 the picture."""
    guidance: float | None
    """What glance recorded it was trained to be sampled with; None: nothing in particular."""
    scale_is_known: bool
    """Whether the file says anything of alpha; else it is taken as alpha = rank, scale 1."""


def trained_schedule(facts: Mapping[Phase, LoraFacts]) -> Schedule | None:
    """Return what a pair's headers say it was trained on; None when one of them does not say.

    Raises LoraError when the two lists are no schedule together.
    """
    slow, fast = (facts[phase].timesteps if phase in facts else None for phase in Phase)
    if slow is None or fast is None:
        return None
    try:
        return Schedule("trained", slow, fast)
    except ScheduleError as exc:
        raise LoraError(
            f"the LoRAs' headers hold no schedule: {exc}",
            hint="are they one pair? else say the lists yourself",
        ) from exc


def examine_lora(path: Path) -> LoraFacts:
    """Read the whole file, of whatever trainer, and say what it is.

    Raises LoraError with all problems: no such file, a pickle, not whole, other adapters than
    LoRA, parts of a text encoder, halves without the other, ranks that differ within a pair,
    values that are not floating point or not finite, and a LoRA that changes nothing.
    """
    if path.suffix.lower() in _PICKLES and path.exists():
        raise LoraError(
            f"{path}: a {path.suffix} file may run code when it is opened, so glance opens none",
            hint="convert it to .safetensors, or get it as that",
        )
    lora = read_lora(path)
    keys = sort_keys(lora.tensors)
    problems = [
        *keys.problems,
        *_tensor_problems(lora.tensors, keys.pairs),
        *_header_problems(lora.metadata),
    ]
    if problems:
        raise LoraError(Problem(f"{path}: {item.message}", item.hint) for item in problems)
    return _facts(path, lora, keys.pairs)


def _facts(path: Path, lora: Lora, pairs: Sequence[PairKeys]) -> LoraFacts:
    says_alpha = any(pair.alpha for pair in pairs) or read_scaling(lora.metadata) is not None
    return LoraFacts(
        path=path,
        sha256=hash_file(path),
        rank=max(lora.tensors[pair.down].shape[0] for pair in pairs),
        modules=len(pairs),
        phase=_phase(lora.metadata),
        family=lora.metadata.get("glance.family"),
        timesteps=_timesteps(lora.metadata),
        guidance=_guidance(lora.metadata),
        scale_is_known=FOLDED in lora.metadata or says_alpha,
    )


def _tensor_problems(tensors: Mapping[str, Tensor], pairs: Sequence[PairKeys]) -> list[Problem]:
    problems: list[Problem] = []
    for pair in pairs:
        shapes = (tensors[pair.down].shape, tensors[pair.up].shape)
        if problem := pair_problem(pair, *shapes):
            problems.append(problem)
    halves = [key for pair in pairs for key in (pair.down, pair.up)]
    alphas = [pair.alpha for pair in pairs if pair.alpha]
    odd = [f"{key} ({tensors[key].dtype})" for key in halves if tensors[key].dtype not in FLOATS]
    if odd:
        problems.append(
            Problem(
                f"glance reads {', '.join(FLOATS)}, not {name_some(odd)}",
                "save it again as bf16",
            )
        )
    infinite = [
        key for key in halves if tensors[key].dtype in FLOATS and not _is_finite(tensors[key])
    ]
    infinite += [key for key in alphas if not _is_number(tensors[key])]
    if infinite:
        problems.append(Problem(f"NaN, infinity or no number is in {name_some(infinite)}"))
    if pairs and not problems and not any(_moved(tensors[pair.up]) for pair in pairs):
        problems.append(Problem("every lora_B (up) is zero: it changes nothing"))
    return problems


def _is_finite(tensor: Tensor) -> bool:
    return bool(np.isfinite(tensor.to_float()).all())


def _moved(tensor: Tensor) -> bool:
    return bool(tensor.to_float().any())


def _is_number(alpha: Tensor) -> bool:
    """Whether it is one finite number."""
    if math.prod(alpha.shape) != 1:
        return False
    return alpha.dtype in INTEGERS or (alpha.dtype in FLOATS and _is_finite(alpha))


def _header_problems(metadata: Mapping[str, str]) -> list[Problem]:
    problems: list[Problem] = []
    for read in (read_scaling, _phase, _timesteps, _guidance):
        try:
            read(metadata)
        except LoraError as exc:
            problems.extend(exc.problems)
    return problems


def _phase(metadata: Mapping[str, str]) -> Phase | None:
    text = metadata.get("glance.phase")
    try:
        return None if text is None else Phase(text)
    except ValueError as exc:
        raise LoraError(f"its header says phase {text}: {', '.join(Phase)} exist") from exc


def _guidance(metadata: Mapping[str, str]) -> float | None:
    text = metadata.get("glance.guidance")
    try:
        value = None if text is None else float(text)
    except ValueError as exc:
        raise LoraError(f"its header holds no guidance: {text}") from exc
    if value is not None and not math.isfinite(value):
        raise LoraError(f"its header holds no guidance: {text}")
    return value


def _timesteps(metadata: Mapping[str, str]) -> tuple[float, ...] | None:
    text = metadata.get("glance.timesteps")
    try:
        return None if text is None else tuple(map(float, json.loads(text)))
    except (ValueError, TypeError) as exc:
        raise LoraError(f"its header holds no list of timesteps: {text}") from exc
