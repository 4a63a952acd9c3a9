"""Anybody's LoRA as an adapter of a pipeline's transformer: B A times alpha / rank at scale 1.

Names are resolved by the model's own layers first, and by `converter` for what is left; a layer of
the file that finds no place in the model is an error, never skipped.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from glance.core.errors import LoraError, Problem
from glance.models.lora.file import PREFIX
from glance.models.lora.header import read_header
from glance.models.lora.pairs import adapter_config, name_some, pair_problem, sort_keys
from glance.models.lora.strength import read_strength
from glance.sampling.pipeline.converter import Pair, Pairs, convert

_HINT: Final = "is it for another base model?"


@dataclass(frozen=True, slots=True)
class PreparedLora:
    """A LoRA that fits the model, as diffusers' `load_lora_adapter` takes it with this prefix."""

    state: Mapping[str, torch.Tensor]
    """`transformer.<layer>.lora_A.weight` and `.lora_B.weight`, alpha multiplied into B."""
    metadata: Mapping[str, Any]
    """PEFT's LoraConfig, each key prefixed; the scale of every layer is 1."""
    rank: int
    """The largest."""


def load_adapter(pipeline: Any, lora: Path | PreparedLora, *, name: str) -> int:
    """Load it as the adapter `name` of the pipeline's transformer and return its largest rank.

    Raises LoraError when it is no LoRA, or one for another model.
    """
    prepared = prepare_adapter(pipeline, lora) if isinstance(lora, Path) else lora
    try:
        pipeline.transformer.load_lora_adapter(
            dict(prepared.state),
            prefix=PREFIX.removesuffix("."),
            adapter_name=name,
            metadata=dict(prepared.metadata),
            low_cpu_mem_usage=True,  # as diffusers' load_lora_weights does
            _pipeline=pipeline,
        )
    except ValueError as exc:  # a layer of a kind that PEFT has no LoRA for
        raise LoraError(f"the LoRA {name} does not fit the model: {exc}", hint=_HINT) from exc
    _require_loaded(pipeline.transformer, prepared, name)
    return prepared.rank


def prepare_adapter(pipeline: Any, path: Path) -> PreparedLora:
    """Read the file and bring it into the transformer's own names, without loading it.

    Values stay as they are to the bit where alpha / rank is 1 and the names need no converter.
    Raises LoraError when it is no LoRA, or names every layer that the model lacks.
    """
    pairs = _read_pairs(path)
    layers = _linear_layers(pipeline.transformer)
    matched = _match(type(pipeline), pairs, layers, path=path)
    _require_fit(matched, layers, path=path)
    ranks = {layer: pair.down.shape[0] for layer, pair in matched.items()}
    state: dict[str, torch.Tensor] = {}
    for layer, pair in sorted(matched.items()):
        state[f"{PREFIX}{layer}.lora_A.weight"] = pair.down
        state[f"{PREFIX}{layer}.lora_B.weight"] = pair.up
    return PreparedLora(state, adapter_config(ranks), max(ranks.values()))


def _read_pairs(path: Path) -> Pairs:
    """Return the file's pairs by layer, its strength multiplied into B."""
    header = read_header(path)
    tensors = load_file(path)
    keys = sort_keys(tensors)
    problems = list(keys.problems)
    factors: Mapping[str, float] = {}
    try:
        factors = read_strength(header, keys.pairs).factors
    except LoraError as exc:
        problems += exc.problems
    pairs: Pairs = {}
    for pair in keys.pairs:
        down, up = tensors[pair.down], tensors[pair.up]
        if problem := pair_problem(pair, down.shape, up.shape):
            problems.append(problem)
            continue
        pairs[pair.layer] = Pair(down, _scaled(up, factors.get(pair.layer, 1.0)))
    if problems:
        raise LoraError(Problem(f"{path}: {item.message}", item.hint) for item in problems)
    return pairs


def _scaled(up: torch.Tensor, factor: float) -> torch.Tensor:
    return up if factor == 1 else (up.float() * factor).to(up.dtype)


def _linear_layers(transformer: Any) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every linear layer, those that carry other adapters included."""
    layers: dict[str, tuple[int, int]] = {}
    adapted = None
    for name, module in transformer.named_modules():
        if adapted and name.startswith(adapted):
            continue  # the adapters themselves, and the layer that they wrap
        if isinstance(module, LoraLayer):
            adapted = f"{name}."
            module = module.get_base_layer()
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            layers[name] = (module.out_features, module.in_features)
    return layers


def _match(
    pipeline_class: Any, pairs: Pairs, layers: Mapping[str, tuple[int, int]], *, path: Path
) -> Pairs:
    """Return the pairs by the model's names of the layers."""
    underscored = {layer.replace(".", "_"): layer for layer in layers}
    known = {source: underscored.get(source.replace(".", "_")) for source in pairs}
    foreign = {source: pair for source, pair in pairs.items() if known[source] is None}
    placed = [(layer, pairs[source]) for source, layer in known.items() if layer]
    for source, converted in convert(pipeline_class, foreign, layers):
        del foreign[source]
        placed += converted.items()
    if foreign:
        raise LoraError(
            f"{path}: {len(foreign)} of its {len(pairs)} layers are not the model's: "
            f"the model has no layer {name_some(foreign)}",
            hint=_HINT,
        )
    counts = Counter(layer for layer, _ in placed)
    if twice := [layer for layer, count in counts.items() if count > 1]:
        raise LoraError(f"{path}: more than one of its pairs changes {name_some(twice)}")
    return dict(placed)


def _require_fit(pairs: Pairs, layers: Mapping[str, tuple[int, int]], *, path: Path) -> None:
    problems = [
        Problem(
            f"{path}: {layer} is {layers[layer][1]} to {layers[layer][0]} wide in the model, "
            f"the LoRA is for {pair.down.shape[1]} to {len(pair.up)}",
            _HINT,
        )
        for layer, pair in pairs.items()
        if (len(pair.up), pair.down.shape[1]) != layers[layer]
    ]
    if problems:
        raise LoraError(problems)


def _require_loaded(transformer: Any, prepared: PreparedLora, name: str) -> None:
    """Raise LoraError unless exactly the LoRA's layers have the adapter, each at scale 1."""
    expected = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in prepared.state}
    scales = {
        layer: module.scaling[name]
        for layer, module in transformer.named_modules()
        if isinstance(module, LoraLayer) and name in module.scaling
    }
    wrong = sorted(expected ^ scales.keys() | {at for at, scale in scales.items() if scale != 1})
    if wrong:
        raise LoraError(f"the LoRA {name} was not loaded as it is at {name_some(wrong)}")
