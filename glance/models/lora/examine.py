"""What a LoRA file of any origin is, and every reason why glance cannot use it."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glance.core.errors import LoraError, Problem, ScheduleError
from glance.core.phase import Phase
from glance.core.tables import name_some
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
    own, phases = lora.metadata, ", ".join(Phase)
    phase = _said(own, "phase", Phase, f"its header says phase {{}}: {phases} exist", problems)
    wrong = "its header holds no list of timesteps: {}"
    timesteps = _said(own, "timesteps", _numbers, wrong, problems)
    guidance = _said(own, "guidance", _number, "its header holds no guidance: {}", problems)
    if strength is not None and keys.pairs and not any(strength.factors.values()):
        problems.append(Problem(f"{strength.source}, and is 0: it changes nothing"))
    if strength is None or problems:
        raise LoraError(Problem(f"{path}: {item.message}", item.hint) for item in problems)
    return LoraFacts(
        path=path,
        sha256=hash_file(path),
        rank=max(lora.tensors[pair.down].shape[0] for pair in keys.pairs),
        modules=len(keys.pairs),
        phase=phase,
        family=lora.metadata.get("glance.family"),
        timesteps=timesteps,
        guidance=guidance,
        strength=strength,
    )


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


def _tensor_problems(tensors: Mapping[str, Tensor], pairs: Sequence[PairKeys]) -> list[Problem]:
    found = (pair_problem(one, tensors[one.down].shape, tensors[one.up].shape) for one in pairs)
    problems = list(filter(None, found))
    halves = [key for pair in pairs for key in (pair.down, pair.up)]
    alphas = [pair.alpha for pair in pairs if pair.alpha]
    odd = [f"{key} ({tensors[key].dtype})" for key in halves if tensors[key].dtype not in FLOATS]
    if odd:
        message = f"glance reads {', '.join(FLOATS)}, not {name_some(odd)}"
        problems.append(Problem(message, "save it again as bf16"))
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


def _said[T](
    metadata: Mapping[str, str],
    key: str,
    read: Callable[[str], T],
    wrong: str,
    problems: list[Problem],
) -> T | None:
    text = metadata.get(f"glance.{key}")
    try:
        return None if text is None else read(text)
    except (ValueError, TypeError):
        problems.append(Problem(wrong.format(text)))
        return None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, json.loads(text)))


def _key_problems(lora: Lora) -> list[Problem]:
    if not lora.tensors:
        return [Problem("it holds no tensors")]
    odd = [key for key in lora.tensors if not (key.startswith(PREFIX) and key.endswith((DOWN, UP)))]
    if odd:
        message = f"{len(odd)} of its keys are no LoRA pair of the transformer, first {odd[0]}"
        return [Problem(message)]
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
    values = {key: tensor.to_float() for key, tensor in lora.tensors.items()}
    remedy = "train in another --run with a smaller --learning-rate"
    problems = [
        Problem(f"{key} holds NaN or infinity", remedy)
        for key, own in values.items()
        if not np.isfinite(own).all()
    ]
    if not any(own.any() for key, own in values.items() if key.endswith(UP)):
        problems.append(Problem("every lora_B is zero: nothing was learnt"))
    return problems
