"""A LoRA of another trainer: what it is, how strongly it was trained, and what says so."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from glance.core.errors import LoraError
from glance.core.phase import Phase
from glance.interop.importing.configs import read_trained_config
from glance.models.lora.examine import LoraFacts, drop_text, examine_lora
from glance.models.lora.file import FOLDED, Lora, read_lora
from glance.models.lora.pairs import sort_keys
from glance.models.lora.strength import TRAINED_CONFIG
from glance.runs.locate import locate_lora
from glance.schedule.lists import parse_list

_OFFICIAL_SPELLING: Final = ".lora.down.weight"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ForeignLora:
    """One file, whole and readable, and what is known of its training."""

    name: str
    """As the user named it."""
    facts: LoraFacts
    lora: Lora = field(repr=False)
    config: Mapping[str, Any] = field(default=_NOTHING, repr=False)
    """SimpleTuner's options that it was trained with; empty: not known."""
    factors: Mapping[str, float] | None = None
    """By layer, what lora_B is to be multiplied by; None: nobody knows."""
    reason: str = ""
    """What says so."""
    dropped: int = 0
    """How many keys of a text encoder were left out of it."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.facts.path

    @property
    def is_final(self) -> bool:
        """Whether glance finished it: then it is taken byte by byte."""
        return FOLDED in self.lora.metadata

    @property
    def factor(self) -> float | None:
        """The factor that all layers have; None: they differ, or nobody knows it."""
        values = set((self.factors or {}).values())
        return values.pop() if len(values) == 1 else None

    @property
    def timesteps(self) -> tuple[float, ...] | None:
        """The list that it was trained on, by its header or its config."""
        if self.facts.timesteps is not None:
            return self.facts.timesteps
        given = self.config.get("flow_custom_timesteps")
        if given is None:
            return None
        where = f"flow_custom_timesteps of {self.name}"
        return parse_list(str(given).strip("[]"), name=where).timesteps

    @property
    def folded(self) -> str:
        """What its lora_B is multiplied by, in words."""
        if self.is_final:
            return f"taken as it is: {self.reason}"
        times = "each layer's own factor" if self.factor is None else f"{self.factor:g}"
        left_out = f"; {self.dropped} keys of a text encoder left out" if self.dropped else ""
        return f"lora_B times {times}: {self.reason}{left_out}"

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of it."""
        return {
            "file": str(self.path),
            "sha256": self.facts.sha256,
            "rank": self.facts.rank,
            "layers": self.facts.modules,
            "folded": self.folded,
            "dropped": self.dropped,
        }


def open_lora(
    name: str,
    phase: Phase,
    *,
    alpha: float | None = None,
    config: Mapping[str, Any] | None = None,
    drops_text: bool = False,
) -> ForeignLora:
    """Read a LoRA of any trainer: a file, its folder, a run, or owner/repo:file of the Hub.

    `config` are the options it was trained with; without it, those in the file beside it. `alpha`
    is what the user says of it: it goes before a config, and must agree with the file itself.
    Raises LoraError: all that is wrong with the file, or an alpha that nobody knows.
    """
    path = locate_lora(name, phase)
    facts, whole = examine_lora(path, without_text=drops_text), read_lora(path)
    lora = drop_text(whole) if drops_text else whole
    trained = config or read_trained_config(path) or _NOTHING
    factors, reason = _factors(facts, lora, config or _NOTHING, alpha)
    dropped = len(whole.tensors) - len(lora.tensors)
    return ForeignLora(name, facts, lora, trained, factors, reason, dropped)


def swapped(loras: Mapping[Phase, ForeignLora]) -> str | None:
    """Return why slow and fast are the wrong way round; None where nothing says so."""
    for phase, one in loras.items():
        if one.facts.phase not in (None, phase):
            return f"{one.path} is the {one.facts.phase} LoRA of its pair"
    slow, fast = (loras[phase].timesteps for phase in Phase)
    if slow and fast and max(slow) < min(fast):
        return f"{loras[Phase.SLOW].path} was trained on less noise than {loras[Phase.FAST].path}"
    return None


def _factors(
    facts: LoraFacts, lora: Lora, config: Mapping[str, Any], alpha: float | None
) -> tuple[Mapping[str, float], str]:
    """Return what lora_B is to be multiplied by, and what says so; raise LoraError if nothing does.

    The file itself goes before the user, the user before the configs.
    """
    strength, ranks = facts.strength, _ranks(lora)
    rank = max(ranks.values())
    if strength.source is not None and strength.is_own:
        _require_agreement(facts.path, lora, strength.factors, alpha)
        return strength.factors, strength.source
    if alpha is not None:
        return {layer: alpha / own for layer, own in ranks.items()}, f"--alpha {alpha:g}"
    if config:
        given = config.get("lora_alpha")
        said = _positive(given if given is not None else rank, facts.path)
        what = "" if given is not None else ", by SimpleTuner's default"
        reason = f"alpha {said:g}{what}, rank {rank}, in the config that it was trained with"
        return {layer: said / own for layer, own in ranks.items()}, reason
    if strength.source is not None:
        return strength.factors, strength.source
    raise LoraError(f"{facts.path} says nothing of alpha, {_look(lora)}", hint=_hint(rank))


def _ranks(lora: Lora) -> dict[str, int]:
    """Return each layer's rank, by the file's own name of the layer."""
    return {pair.layer: lora.tensors[pair.down].shape[0] for pair in sort_keys(lora.tensors).pairs}


def _positive(alpha: Any, path: Path) -> float:
    with suppress(ValueError):
        number = float(str(alpha))
        if 0 < number < math.inf:
            return number
    raise LoraError(
        f"{path}: the config that it was trained with says lora_alpha {alpha!r}",
        hint="say what it was, --alpha N",
    )


def _look(lora: Lora) -> str:
    """Return what the spelling of its keys suggests: never enough to go by."""
    if any(key.endswith(_OFFICIAL_SPELLING) for key in lora.tensors):
        return (
            "and is spelled as the method's official code spells it: its trained strength is open"
        )
    return f"and there is no {TRAINED_CONFIG} beside it: its trained strength is open"


def _hint(rank: int) -> str:
    return (
        "say what it was trained with, --alpha N: SimpleTuner's lora_alpha (its default is the "
        f"rank, {rank}); the method's official code trains with 4 x rank, {4 * rank}, which its "
        f"own inference loses. --alpha {rank} takes the file as it is"
    )


def _require_agreement(
    path: Path, lora: Lora, factors: Mapping[str, float], alpha: float | None
) -> None:
    if alpha is None:
        return
    ranks = _ranks(lora)
    if any(abs(factors[layer] * rank - alpha) > 1e-3 for layer, rank in ranks.items()):
        layer, rank = next(iter(ranks.items()))
        raise LoraError(
            f"--alpha {alpha:g}: {path} says alpha {factors[layer] * rank:g} itself",
            hint="drop --alpha",
        )
