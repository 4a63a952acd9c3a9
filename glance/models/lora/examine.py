"""What a LoRA file of any origin is, and every reason why glance cannot use it."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glance.core.errors import LoraError, Problem, ScheduleError
from glance.core.phase import Phase
from glance.models.lora.file import (
    DOWN,
    FLOATS,
    PREFIX,
    UP,
    Lora,
    Tensor,
    hash_file,
    read_header,
    read_lora,
)
from glance.models.lora.keys import (
    PairKeys,
    Strength,
    is_text_key,
    name_some,
    pair_problem,
    read_alpha,
    read_strength,
    sort_keys,
)
from glance.schedule.lists import Schedule


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
    strength: Strength
    """How strongly it is applied, and what says so."""

    @property
    def scale_is_known(self) -> bool:
        """Whether anything says alpha; else it is taken as alpha = rank, scale 1."""
        return self.strength.source is not None


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


def examine_lora(path: Path, *, without_text: bool = False) -> LoraFacts:
    """Read the whole file, of whatever trainer, and say what it is.

    Raises LoraError with all problems: no such file, a pickle, not whole, other adapters than
    LoRA, parts of a text encoder, halves without the other, ranks that differ within a pair,
    values that are not floating point or not finite, a strength that cannot be made out, and a
    LoRA that changes nothing. `without_text` leaves out what belongs to a text encoder.
    """
    lora = read_lora(path)
    if without_text:
        lora = drop_text(lora)
    keys = sort_keys(lora.tensors)
    problems = [*keys.problems, *_tensor_problems(lora.tensors, keys.pairs)]
    strength: Strength | None = None
    try:
        strength = read_strength(read_header(path), keys.pairs)
    except LoraError as exc:
        problems += exc.problems
    problems += _header_problems(lora.metadata)
    if strength is not None and keys.pairs and not any(strength.factors.values()):
        problems.append(Problem(f"{strength.source}, and is 0: it changes nothing"))
    if strength is None or problems:
        raise LoraError(Problem(f"{path}: {item.message}", item.hint) for item in problems)
    return _facts(path, lora, keys.pairs, strength)


def drop_text(lora: Lora) -> Lora:
    """Return the LoRA without what belongs to a text encoder."""
    kept = {key: tensor for key, tensor in lora.tensors.items() if not is_text_key(key)}
    return Lora(kept, lora.metadata)


def verify_lora(lora: Lora, *, path: Path, rank: int | None = None) -> None:
    """Raise LoraError unless the tensors are a LoRA that was trained.

    Every key is half of a lora_A / lora_B pair of the transformer, every pair has `rank` (the
    first one's, if not given), every value is finite, and lora_B, which starts at zero, moved.
    """
    problems = _key_problems(lora) or _shape_problems(lora, rank) or _value_problems(lora)
    if problems:
        raise LoraError(Problem(f"{path.name}: {item.message}", item.hint) for item in problems)


def _facts(path: Path, lora: Lora, pairs: Sequence[PairKeys], strength: Strength) -> LoraFacts:
    return LoraFacts(
        path=path,
        sha256=hash_file(path),
        rank=max(lora.tensors[pair.down].shape[0] for pair in pairs),
        modules=len(pairs),
        phase=_phase(lora.metadata),
        family=lora.metadata.get("glance.family"),
        timesteps=_timesteps(lora.metadata),
        guidance=_guidance(lora.metadata),
        strength=strength,
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
        key
        for key in halves
        if tensors[key].dtype in FLOATS and not np.isfinite(tensors[key].to_float()).all()
    ]
    infinite += [key for key in alphas if read_alpha(tensors[key]) is None]
    if infinite:
        problems.append(Problem(f"NaN, infinity or no number is in {name_some(infinite)}"))
    if pairs and not problems and not any(tensors[pair.up].to_float().any() for pair in pairs):
        problems.append(Problem("every lora_B (up) is zero: it changes nothing"))
    return problems


def _header_problems(metadata: Mapping[str, str]) -> list[Problem]:
    problems: list[Problem] = []
    for read in (_phase, _timesteps, _guidance):
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
