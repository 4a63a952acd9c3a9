"""How strongly a LoRA is applied: alpha by rank, wherever its trainer has written alpha.

Everybody who loads, converts or describes a LoRA asks `read_strength`. The first that speaks is
believed: glance's own header (alpha is multiplied in), the file's alpha tensors (layer by layer),
its header as diffusers, PEFT and scripts write it, PEFT's adapter_config.json beside it,
SimpleTuner's simpletuner_config.json beside it, and kohya's ss_network_alpha.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import LoraError
from glance.models.lora.file import FLOATS, FOLDED, PREFIX, Tensor
from glance.models.lora.header import Header, read_header, read_tensor
from glance.models.lora.pairs import (
    PairKeys,
    Scaling,
    match_pattern,
    parse_scaling,
    read_scaling,
    sort_keys,
)

ADAPTER_CONFIG: Final = "adapter_config.json"
"""What PEFT writes beside a LoRA."""
TRAINED_CONFIG: Final = "simpletuner_config.json"
"""What SimpleTuner writes beside a finished LoRA: every option that it was trained with."""
INTEGERS: Final = ("I64", "I32")  # as which some trainers write alpha
_ALPHAS: Final = ("lora_alpha", "network_alpha", "alpha")
_OPTIONS: Final = ("use_rslora", "alpha_pattern", "use_dora", "init_lora_weights")
_MOVE: Final = "move it out of that folder, or the LoRA into one of its own"
_SAME: Final = 1e-4  # factors are told apart by this much of themselves
_LONGEST: Final = 10_000_000  # bytes of a config; PEFT's have a few thousand


@dataclass(frozen=True, slots=True)
class Strength:
    """What each layer's B A is multiplied by, and what says so."""

    factors: Mapping[str, float]
    """By the file's own name of the layer."""
    source: str | None
    """Where alpha is said; None: nowhere, so it is taken as the rank."""
    is_own: bool = True
    """Whether the file itself says it, rather than one that lies beside it."""
    is_in_tensors: bool = False
    """Whether tools that look for alpha among the tensors alone apply it alike."""

    @property
    def factor(self) -> float | None:
        """The factor that all layers have; None: they differ."""
        values = set(self.factors.values())
        return values.pop() if len(values) == 1 else None

    def describe(self) -> str:
        """Return the factor and what says it, in words."""
        factor = "each layer's own" if self.factor is None else f"{self.factor:g}"
        return f"{factor}: {self.source or 'alpha is said nowhere and taken as the rank'}"


def read_strength(header: Header, pairs: Sequence[PairKeys]) -> Strength:
    """Return how strongly a file's pairs are applied.

    Raises LoraError: what says it cannot be understood, is of another LoRA, or contradicts the
    file; OSError where the file cannot be read.
    """
    ranks = {pair.layer: next(iter(header.entries[pair.down].shape), 0) for pair in pairs}
    usual = dict.fromkeys(ranks, 1.0)
    if FOLDED in header.metadata:
        source = f"glance folded {header.metadata[FOLDED]} into lora_B"
        return Strength(usual, source, is_in_tensors=True)
    read = {pair.layer: read_alpha(read_tensor(header, pair.alpha)) for pair in pairs if pair.alpha}
    alphas = {layer: alpha for layer, alpha in read.items() if alpha is not None}
    is_open = not alphas or len(alphas) < len(ranks)
    said = next(_statements(header, ranks), None) if is_open else None
    factors = usual if said is None else said.factors
    if alphas:
        own = {layer: alpha / ranks[layer] for layer, alpha in alphas.items() if ranks[layer]}
        source = "alpha is in its tensors"
        return Strength({**factors, **own}, source, is_in_tensors=said is None)
    if said is None:
        return Strength(usual, None)
    return Strength(factors, said.where, is_own=said.is_own)


def read_file_strength(path: Path) -> Strength:
    """Return how strongly a file's pairs are applied; raises what read_strength raises."""
    header = read_header(path)
    return read_strength(header, sort_keys(header.entries).pairs)


def read_alpha(tensor: Tensor) -> float | None:
    """Return the one number of an alpha tensor; None where it is none."""
    if math.prod(tensor.shape) != 1:
        return None
    if tensor.dtype in FLOATS:
        value = float(tensor.to_float().reshape(-1)[0])
        return value if math.isfinite(value) else None
    if tensor.dtype in INTEGERS:
        return float(int.from_bytes(tensor.data, "little", signed=True))
    return None


def find_trained_config(lora: Path) -> Path | None:
    """Return the file of options that SimpleTuner wrote beside a LoRA, or above its checkpoint."""
    places = (folder / TRAINED_CONFIG for folder in (lora.parent, lora.parent.parent))
    return next((path for path in places if path.is_file()), None)


@dataclass(frozen=True, slots=True)
class _Said:
    """What one place says of alpha."""

    factors: Mapping[str, float]
    alpha: str
    """In words."""
    where: str
    is_own: bool


def _statements(header: Header, ranks: Mapping[str, int]) -> Iterator[_Said]:
    """Yield what says alpha, but for tensors, in the order in which it is believed."""
    own = _in_header(header.metadata, ranks)
    path = header.path.parent / ADAPTER_CONFIG
    try:
        beside = _beside(path, ranks)
    except LoraError:
        if own is None:
            raise
        beside = None  # damaged or another LoRA's, and not needed
    if own is not None and beside is not None and not _agree(own, beside):
        raise LoraError(
            f"its header says alpha {own.alpha}, {path} says {beside.alpha}",
            hint=f"is {path} another LoRA's? {_MOVE}",
        )
    trained = find_trained_config(header.path)
    found = (
        own,
        beside,
        None if trained is None else _recorded(trained, ranks),
        _of_kohya(header, ranks),
    )
    yield from (said for said in found if said is not None)


def _in_header(metadata: Mapping[str, str], ranks: Mapping[str, int]) -> _Said | None:
    """Read diffusers' adapter metadata, a LoraConfig under any key, or its fields as keys."""
    scaling = read_scaling(metadata)
    if scaling is not None:
        return _said(scaling, ranks, "alpha is in its header")
    for key, text in metadata.items():
        config = _parse(text) if "lora_alpha" in text else None
        if isinstance(config, dict):
            bare = {name.removeprefix(PREFIX): value for name, value in config.items()}
            if scaling := parse_scaling(bare, f"its header's {key}"):
                return _said(scaling, ranks, f"alpha is in its header ({key})")
    plain = {key.removeprefix(PREFIX): text for key, text in metadata.items()}
    options = {key: _parse(plain[key]) for key in _OPTIONS if key in plain}
    for key in _ALPHAS:
        config = {**options, "lora_alpha": _parse(plain.get(key, ""))}
        if scaling := parse_scaling(config, f"its header's {key}"):
            return _said(scaling, ranks, f"alpha is in its header ({key})")
    return None


def _beside(path: Path, ranks: Mapping[str, int]) -> _Said | None:
    """Read PEFT's config beside the file; raise LoraError unless it is this file's."""
    config = _read_json(path)
    if config is None or config.get("lora_alpha") is None:
        return None
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if kind != "LORA":
        raise LoraError(f"{path} is of another kind of adapter, {kind}", hint=_MOVE)
    scaling = parse_scaling(config, str(path), remedy=f"mend it, or {_MOVE}")
    try:
        rank, patterns = config.get("r"), dict(config.get("rank_pattern") or {})
        fits = rank is None or all(
            match_pattern(patterns, layer, rank) == own for layer, own in ranks.items()
        )
    except (TypeError, ValueError, re.error) as exc:
        raise LoraError(f"{path} cannot be read: {exc}", hint=_MOVE) from exc
    if not fits:
        found = ", ".join(map(str, sorted(set(ranks.values()))))
        raise LoraError(f"{path} is of rank {rank}, the LoRA of {found}", hint=_MOVE)
    if scaling is None:
        return None
    return _said(scaling, ranks, f"alpha is in {ADAPTER_CONFIG} beside it", is_own=False)


def _recorded(path: Path, ranks: Mapping[str, int]) -> _Said | None:
    """Read the options that SimpleTuner recorded; its usual alpha is the rank."""
    try:
        config = _read_json(path)
    except LoraError:  # a damaged one says nothing, and is nobody's fault
        return None
    if config is None:
        return None
    options = {key.strip().lstrip("-").replace("-", "_"): own for key, own in config.items()}
    alpha, rank = options.get("lora_alpha"), options.get("lora_rank")
    if isinstance(rank, int) and rank not in ranks.values():
        return None  # of another training
    where = f"alpha is in {path.name} beside it"
    if alpha in (None, ""):
        return _Said(dict.fromkeys(ranks, 1.0), "the rank", f"{where}: the rank", is_own=False)
    start = options.get("lora_initialisation_style")
    said = {"lora_alpha": alpha, "init_lora_weights": start}
    scaling = parse_scaling(said, str(path), remedy=f"mend it, or {_MOVE}")
    return None if scaling is None else _said(scaling, ranks, where, is_own=False)


def _of_kohya(header: Header, ranks: Mapping[str, int]) -> _Said | None:
    """Read what kohya's trainers note of a network whose own alpha tensors are gone.

    Converters to other names multiply alpha in, drop the tensors and keep the notes (musubi-tuner's
    convert_lora.py): so of a network of kohya's by other names they are not true any more.
    """
    metadata = header.metadata
    is_kohyas = metadata.get("ss_network_module", "").startswith("networks.")
    has_its_names = any(key.endswith(".lora_down.weight") for key in header.entries)
    rank = _number(metadata.get("ss_network_dim"))
    if (is_kohyas and not has_its_names) or (rank is not None and rank not in ranks.values()):
        return None
    alpha = _number(metadata.get("ss_network_alpha"))
    if not alpha:  # 0 and None stand for the rank, Dynamic for one of each layer's own
        return None
    return _said(Scaling(alpha), ranks, "alpha is in its header (ss_network_alpha)")


def _said(scaling: Scaling, ranks: Mapping[str, int], where: str, *, is_own: bool = True) -> _Said:
    factors = {layer: scaling.factor(layer, rank) if rank else 1.0 for layer, rank in ranks.items()}
    return _Said(factors, f"{scaling.alpha:g}", where, is_own)


def _agree(one: _Said, other: _Said) -> bool:
    return all(
        math.isclose(factor, other.factors[layer], rel_tol=_SAME)
        for layer, factor in one.factors.items()
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a config's content; None where there is none. Raises LoraError for a damaged one."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            content = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError) as exc:
        raise LoraError(f"{path} cannot be read: {exc}", hint=f"mend it, or {_MOVE}") from exc
    if not isinstance(content, dict):
        raise LoraError(f"{path} cannot be read: it holds no config", hint=f"mend it, or {_MOVE}")
    return content


def _parse(text: str) -> Any:
    """Return what a header's text stands for, in JSON or Python's words; None: nothing is said."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        words: Mapping[str, Any] = {"none": None, "": None, "true": True, "false": False}
        return words.get(text.strip().lower(), text)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
