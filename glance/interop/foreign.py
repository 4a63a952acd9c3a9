"""A LoRA of another trainer: how strongly it was trained, and its keys as diffusers' own.

Without torch: names alone are needed. What only diffusers' converters can bring over, a model's
original layout with its fused layers, is refused here: `glance infer --slow-lora` takes it.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from glance.core.errors import LoraError
from glance.core.files import require_file
from glance.core.phase import Phase
from glance.core.tables import name_some
from glance.models.base import read_model_json
from glance.models.lora.examine import LoraFacts, drop_text, examine_lora
from glance.models.lora.file import DOWN, FOLDED, PREFIX, UP, Lora, Tensor, read_lora
from glance.models.lora.keys import (
    TRAINED_CONFIG,
    find_trained_config,
    read_trained_options,
    sort_keys,
)
from glance.runs.locate import locate_lora
from glance.schedule.lists import parse_list

_LIST: Final = "flow_custom_timesteps"
_ORIGINAL: Final = re.compile(r"(double|single|joint)_blocks[._]")
_INDEX: Final = "transformer/diffusion_pytorch_model.safetensors.index.json"
_WEIGHT: Final = ".weight"
_AS_IT_IS: Final = (
    "it cannot be imported; `glance infer --slow-lora A --fast-lora B` takes it as it is"
)


@dataclass(frozen=True, slots=True)
class ForeignLora:
    """One file, whole and readable, and what is known of its training."""

    name: str
    """As the user named it."""
    facts: LoraFacts
    lora: Lora = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    """SimpleTuner's options that it was trained with; empty: not known."""
    factors: Mapping[str, float]
    """By layer, what lora_B is to be multiplied by."""
    reason: str
    """What says so."""
    dropped: int
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
        """The factor that all layers have; None: they differ."""
        values = set(self.factors.values())
        return values.pop() if len(values) == 1 else None

    @property
    def timesteps(self) -> tuple[float, ...] | None:
        """The list that it was trained on, by its header or its config."""
        if self.facts.timesteps is not None:
            return self.facts.timesteps
        given = self.config.get(_LIST)
        if given is None:
            return None
        return parse_list(str(given).strip("[]"), name=f"{_LIST} of {self.name}").timesteps

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
    name: str, phase: Phase, *, alpha: float | None = None, drops_text: bool = False
) -> ForeignLora:
    """Read a LoRA of any trainer: a file, its folder, a run, or owner/repo:file of the Hub.

    `alpha` is what the user says of it: it goes before a config beside the file, and must agree
    with the file itself. Raises LoraError: all that is wrong with the file, or an alpha that nobody
    knows.
    """
    path = locate_lora(name, phase)
    facts, whole = examine_lora(path, without_text=drops_text), read_lora(path)
    lora = drop_text(whole) if drops_text else whole
    factors, reason = _find_factors(facts, lora, alpha)
    dropped = len(whole.tensors) - len(lora.tensors)
    config = read_trained_options(find_trained_config(path))
    return ForeignLora(name, facts, lora, config, factors, reason, dropped)


def layer_names(model: str) -> frozenset[str] | None:
    """Return the layers of a model's transformer: a folder's, or a Hub model's by its index.

    None where nobody can say without loading it.
    """
    keys: list[str] = []
    index = read_model_json(model, _INDEX)
    if index is not None and isinstance(index.get("weight_map"), dict):
        keys += index["weight_map"]
    else:
        for path in sorted(Path(model).expanduser().glob("transformer/*.safetensors")):
            with suppress(OSError, SafetensorError):
                require_file(path)
                with safe_open(path, framework="numpy") as file:
                    keys += file.keys()
    layers = frozenset(key.removesuffix(_WEIGHT) for key in keys if key.endswith(_WEIGHT))
    return layers or None


def respell(
    lora: Lora,
    factors: Mapping[str, float],
    *,
    path: Path,
    known: Collection[str] | None,
    for_run: bool = True,
) -> Lora:
    """Return the LoRA with diffusers' keys, each layer's factor multiplied into lora_B.

    A factor of 1 leaves the values as they are, to the bit. `known` are the model's layers, None
    when nobody can say: then names with dots are taken as they are. Raises LoraError naming the
    layers that the model lacks, or with `for_run` ranks that differ.
    """
    pairs = sort_keys(lora.tensors).pairs
    names = _place([pair.layer for pair in pairs], known, path=path)
    ranks = {lora.tensors[pair.down].shape[0] for pair in pairs}
    if for_run and len(ranks) > 1:
        raise LoraError(
            f"{path}: its layers have ranks {', '.join(map(str, sorted(ranks)))}, a run has one",
            hint=_AS_IT_IS,
        )
    tensors: dict[str, Tensor] = {}
    for pair in pairs:
        name, factor = names[pair.layer], factors[pair.layer]
        up = lora.tensors[pair.up]
        tensors[f"{PREFIX}{name}{DOWN}"] = lora.tensors[pair.down]
        tensors[f"{PREFIX}{name}{UP}"] = up if factor == 1 else up.scaled(factor)
    return Lora(tensors, {"format": "pt"})


def _find_factors(
    facts: LoraFacts, lora: Lora, alpha: float | None
) -> tuple[Mapping[str, float], str]:
    """Return what lora_B is to be multiplied by, and what says so; raise LoraError if nothing does.

    The file itself goes before the user, the user before what lies beside the file.
    """
    strength, path = facts.strength, facts.path
    ranks = {pair.layer: lora.tensors[pair.down].shape[0] for pair in sort_keys(lora.tensors).pairs}
    if strength.source is not None and strength.is_own:
        own = {layer: strength.factors[layer] * rank for layer, rank in ranks.items()}
        if alpha is not None and any(abs(said - alpha) > 1e-3 for said in own.values()):
            said = f"{path} says alpha {next(iter(own.values())):g} itself"
            raise LoraError(f"--alpha {alpha:g}: {said}", hint="drop --alpha")
        return strength.factors, strength.source
    if alpha is not None:
        return {layer: alpha / rank for layer, rank in ranks.items()}, f"--alpha {alpha:g}"
    if strength.source is not None:
        return strength.factors, strength.source
    rank = max(ranks.values())
    looks = f"and there is no {TRAINED_CONFIG} beside it"
    if any(key.endswith(".lora.down.weight") for key in lora.tensors):  # never enough to go by
        looks = "and is spelled as the method's official code spells it"
    raise LoraError(
        f"{path} says nothing of alpha, {looks}: its trained strength is open",
        hint="say what it was trained with, --alpha N: SimpleTuner's lora_alpha (its default is "
        f"the rank, {rank}); the method's official code trains with 4 x rank, {4 * rank}, which "
        f"its own inference loses. --alpha {rank} takes the file as it is",
    )


def _place(layers: list[str], known: Collection[str] | None, *, path: Path) -> dict[str, str]:
    """Return each layer's name in the model; kohya has "_" where the model has "."."""
    if known is not None:
        underscored = {layer.replace(".", "_"): layer for layer in known}
        found = {layer: underscored.get(layer.replace(".", "_")) for layer in layers}
        places = {layer: place for layer, place in found.items() if place is not None}
    else:
        places = {one: one for one in layers if "." in one and not _ORIGINAL.match(one)}
    lost = [layer for layer in layers if layer not in places]
    if not lost:
        return places
    named = f"{path}: {len(lost)} of its {len(layers)} layers are not named as diffusers names them"
    message = f"{named}, first {lost[0]}, and the model is not here to find them in"
    hint = "give --model a folder that holds it"
    if any(_ORIGINAL.match(layer) for layer in lost):
        message, hint = f"{named} but in the model's original layout, first {lost[0]}", _AS_IT_IS
    elif known is not None:
        message = f"{path}: the model has no layer {name_some(lost)}"
        hint = "is it for another base model?"
    raise LoraError(message, hint=hint)
