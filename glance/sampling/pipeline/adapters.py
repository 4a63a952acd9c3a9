"""LoRAs of any trainer in a pipeline's transformer, and which of them works.

A file's layers are found by the model's own names first, and by diffusers' converters for what is
left; a layer that finds no place in the model is an error, never skipped. An adapter's scale 1 is
B A times the file's alpha / rank.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import Any, Final, Protocol, override

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from glance.core.errors import LoraError, Problem
from glance.core.phase import Phase
from glance.core.tables import name_some
from glance.models.lora.file import PREFIX, read_header
from glance.models.lora.keys import (
    adapter_config,
    is_text_key,
    pair_problem,
    read_strength,
    sort_keys,
)
from glance.sampling.request import ExtraLora

_HINT: Final = "is it for another base model?"
_SWAPPED: Final = "pair"

# --- which LoRA works ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreparedLora:
    """A LoRA that fits the model, as diffusers' `load_lora_adapter` takes it with this prefix."""

    state: Mapping[str, torch.Tensor]
    """`transformer.<layer>.lora_A.weight` and `.lora_B.weight`, alpha multiplied into B."""
    metadata: Mapping[str, Any]
    """PEFT's LoraConfig, each key prefixed; the scale of every layer is 1."""
    rank: int
    """The largest."""


class Loras(Protocol):
    """The LoRAs of a pipeline: the pair's, and extra ones."""

    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        """Let the phase's LoRA work, at `scale` times its own strength, and the extra ones."""
        ...

    def leave(self, pipeline: Any) -> None:
        """Let none of the pair's work: the base model with the extra ones alone."""
        ...


class ResidentLoras(Loras):
    """All are adapters of the pipeline, the pair's named as their phase: switching moves no
    weights."""

    def __init__(self, extras: Mapping[str, ExtraLora] | None = None) -> None:
        """`extras`: by the names of their adapters, which are loaded already."""
        self._extras = extras or {}

    @override
    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        if phase.value not in _adapters(pipeline):
            self.leave(pipeline)
            return
        beside = {name: one.strength for name, one in self._extras.items() if one.with_pair}
        _activate(pipeline, {phase.value: scale, **beside})

    @override
    def leave(self, pipeline: Any) -> None:
        if self._extras:
            _activate(pipeline, {name: one.strength for name, one in self._extras.items()})
        elif _adapters(pipeline):
            pipeline.disable_lora()


class SwappedLoras(Loras):
    """One adapter whose weights are exchanged in place: a compiled model does not notice.

    Switching adapters, or changing the scale of one, changes what torch.compile has taken for
    constant, and it would compile again. So the scale is multiplied into the weights, and the base
    model alone is an adapter of zeros. Extra LoRAs are adapters beside it that nothing changes.
    """

    def __init__(self, prepared: Mapping[Phase, PreparedLora]) -> None:
        """Take LoRAs that are `level`: the same layers, the same rank."""
        self._prepared = prepared
        self._active: tuple[Phase, float] | None = None

    @override
    def use(self, pipeline: Any, phase: Phase, *, scale: float) -> None:
        if self._active == (phase, scale):
            return
        lora = self._prepared[phase]
        state = {
            key: tensor * scale if ".lora_B." in key and scale != 1 else tensor
            for key, tensor in lora.state.items()
        }
        pipeline.transformer.load_lora_adapter(
            state,
            prefix=PREFIX.removesuffix("."),
            adapter_name=_SWAPPED,
            metadata=dict(lora.metadata),
            hotswap=True,
        )
        self._active = (phase, scale)

    @override
    def leave(self, pipeline: Any) -> None:
        self.use(pipeline, next(iter(self._prepared)), scale=0.0)


def load_resident(
    pipeline: Any, loras: Mapping[Phase, Path], extras: Sequence[ExtraLora] = ()
) -> Loras:
    """Load each file as an adapter of its own; raises LoraError."""
    for phase, path in loras.items():
        load_adapter(pipeline, path, name=phase.value)
    return ResidentLoras(_load_extras(pipeline, extras))


def unload_pair(pipeline: Any) -> None:
    """Remove the adapters that `load_resident` made of the pair, as many as there are."""
    names = [phase.value for phase in Phase if phase.value in _adapters(pipeline)]
    if names:
        pipeline.transformer.delete_adapters(names)


def load_swapped(
    pipeline: Any, loras: Mapping[Phase, Path], extras: Sequence[ExtraLora] = ()
) -> Loras:
    """Load one adapter that takes the weights of any of the files in turn; raises LoraError.

    Extra LoRAs must be such that work beside the pair's.
    """
    if not all(one.with_pair for one in extras):
        raise ValueError("one that does not work beside the pair's would have to be switched off")
    named = _load_extras(pipeline, extras)
    if not loras:
        return ResidentLoras(named)
    prepared = level({phase: prepare_adapter(pipeline, path) for phase, path in loras.items()})
    first = next(iter(prepared.values()))
    # PEFT takes the tensors themselves as weights: what is swapped in later must not overwrite them
    own = replace(first, state={key: tensor.clone() for key, tensor in first.state.items()})
    load_adapter(pipeline, own, name=_SWAPPED)
    _activate(pipeline, {_SWAPPED: 1.0, **{name: one.strength for name, one in named.items()}})
    return SwappedLoras(prepared)


def _load_extras(pipeline: Any, extras: Sequence[ExtraLora]) -> Mapping[str, ExtraLora]:
    """Load each as an adapter of a name that is free; return them by these names."""
    free = (name for n in count(1) if (name := f"extra-{n}") not in _adapters(pipeline))
    named: dict[str, ExtraLora] = {}
    for one in extras:
        name = next(free)
        prepared = prepare_adapter(pipeline, Path(one.file), without_text=True)
        load_adapter(pipeline, prepared, name=name)
        named[name] = one
    return named


def _adapters(pipeline: Any) -> set[str]:
    return {name for names in pipeline.get_list_adapters().values() for name in names}


def _activate(pipeline: Any, strengths: Mapping[str, float]) -> None:
    pipeline.enable_lora()
    pipeline.set_adapters(list(strengths), list(strengths.values()))


def level(prepared: Mapping[Phase, PreparedLora]) -> dict[Phase, PreparedLora]:
    """Return the LoRAs with the layers of all of them and the largest rank, filled up with zeros.

    What they do stays the same, but for how sums with zeros in them round.
    """
    rank = max(lora.rank for lora in prepared.values())
    models = {key: tensor for lora in prepared.values() for key, tensor in lora.state.items()}
    layers = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in models}
    config = adapter_config(dict.fromkeys(sorted(layers), rank))
    return {
        phase: PreparedLora(
            {key: _padded(lora, models[key], rank, key) for key in models}, config, rank
        )
        for phase, lora in prepared.items()
    }


def _padded(lora: PreparedLora, model: torch.Tensor, rank: int, key: str) -> torch.Tensor:
    """Return A, (rank, in), or B, (out, rank), with zeros where the LoRA has nothing."""
    shape = (rank, model.shape[1]) if ".lora_A." in key else (model.shape[0], rank)
    whole = torch.zeros(shape, dtype=model.dtype)
    if (tensor := lora.state.get(key)) is not None:
        whole[: tensor.shape[0], : tensor.shape[1]] = tensor
    return whole


# --- a file as an adapter ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer's LoRA at scale 1: A, (rank, in), and B, (out, rank)."""

    down: torch.Tensor
    up: torch.Tensor


type Pairs = dict[str, Pair]
"""By layer: as the file calls it before it is matched, by the model's name after."""


def load_adapter(
    pipeline: Any, lora: Path | PreparedLora, *, name: str, kept_in: torch.dtype | None = None
) -> int:
    """Load it as the adapter `name` of the pipeline's transformer and return its largest rank.

    PEFT keeps it in the type of the layers' weights. `kept_in` is what it is kept in where those
    are in one that nothing computes in. Raises LoraError when it is no LoRA, or one for another
    model.
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
    if kept_in is not None:
        _put_back(pipeline.transformer, prepared, name, kept_in)
    return prepared.rank


def _put_back(transformer: Any, prepared: PreparedLora, name: str, dtype: torch.dtype) -> None:
    """Give an adapter the values of its file again, which PEFT has rounded."""
    for layer, module in transformer.named_modules():
        if isinstance(module, LoraLayer) and name in module.scaling:
            for half in ("lora_A", "lora_B"):
                weight = getattr(module, half)[name].weight
                values = prepared.state[f"{PREFIX}{layer}.{half}.weight"]
                weight.data = values.to(weight.device, dtype)


def prepare_adapter(pipeline: Any, path: Path, *, without_text: bool = False) -> PreparedLora:
    """Read the file and bring it into the transformer's own names, without loading it.

    `without_text` leaves out what belongs to a text encoder, which else is refused.
    Values stay as they are to the bit where alpha / rank is 1 and the names need no converter.
    Raises LoraError when it is no LoRA, or names every layer that the model lacks.
    """
    layers = _linear_layers(pipeline.transformer)
    pairs = _read_pairs(path, without_text=without_text)
    matched = _match(type(pipeline), pairs, layers, path=path)
    _require_fit(matched, layers, path=path)
    return _prepare(matched)


def rename_adapter(pipeline_class: Any, path: Path, layers: Collection[str]) -> PreparedLora:
    """Return the same for a model that is not loaded, of which `layers` are the names.

    What belongs to a text encoder is left out; whether shapes fit nobody can tell.
    """
    return _prepare(_match(pipeline_class, _read_pairs(path, without_text=True), layers, path=path))


def _prepare(matched: Pairs) -> PreparedLora:
    ranks = {layer: pair.down.shape[0] for layer, pair in matched.items()}
    state: dict[str, torch.Tensor] = {}
    for layer, pair in sorted(matched.items()):
        state[f"{PREFIX}{layer}.lora_A.weight"] = pair.down
        state[f"{PREFIX}{layer}.lora_B.weight"] = pair.up
    return PreparedLora(state, adapter_config(ranks), max(ranks.values()))


def _read_pairs(path: Path, *, without_text: bool) -> Pairs:
    """Return the file's pairs by layer, its strength multiplied into B."""
    header = read_header(path)
    tensors = load_file(path)
    if without_text:
        tensors = {key: tensor for key, tensor in tensors.items() if not is_text_key(key)}
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
        factor = factors.get(pair.layer, 1.0)
        pairs[pair.layer] = Pair(down, up if factor == 1 else (up.float() * factor).to(up.dtype))
    if problems:
        raise LoraError(Problem(f"{path}: {item.message}", item.hint) for item in problems)
    return pairs


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


def _match(pipeline_class: Any, pairs: Pairs, layers: Collection[str], *, path: Path) -> Pairs:
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


# --- files in a model's original layout ----------------------------------------------------------
#
# diffusers' converters rename, split what is fused, and drop some of what they do not know with a
# warning at most. So every pair goes through them a second time as a marker that tells what became
# of it.

_NORM_OUT: Final = "norm_out.linear"
# What they raise at names that they do not know.
_COMPLAINTS: Final = (ValueError, LookupError, AssertionError, RuntimeError, AttributeError)


_WORDS: Final = re.compile(
    r"double_stream_modulation_(?:img|txt)|single_stream_modulation|(?:double|single)_blocks"
    r"|(?:img|txt)_(?:attn|mlp|mod|in)|(?:time|vector|guidance)_in|(?:in|out)_layer"
    r"|final_layer|adaLN_modulation|[^_.]+"
)
"""The words of FLUX's original names, some of which hold an underscore themselves."""


_COMFYUI: Final = ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight")
_KOHYA: Final = ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight")
type Spelling = tuple[tuple[str, str], Callable[[str], str]]
_SPELLINGS: Final[tuple[Spelling, ...]] = (
    (_COMFYUI, str),
    (_KOHYA, lambda layer: layer.replace(".", "_")),
    # the dots that kohya writes as underscores: diffusers' converter of kohya's FLUX.2 LoRAs knows
    # fewer layers than that of the dotted names
    (_COMFYUI, lambda layer: ".".join(_WORDS.findall(layer))),
)
"""How converters expect to see a pair: what stands around the layer, and what they call it."""


def convert(
    pipeline_class: Any, pairs: Pairs, layers: Collection[str]
) -> Iterator[tuple[str, Pairs]]:
    """Yield each layer of the file that the pipeline's converter places, and what became of it.

    What it drops, or places in part or in none of `layers`, is not yielded. Some converters want
    all that they know, others refuse everything for one name that they do not know: so the whole is
    tried first, then what is left one by one.
    """
    left = dict(pairs)
    groups = ([*pairs], *([source] for source in pairs))
    for group, spelling in product(groups, _SPELLINGS):
        chosen = {source: left[source] for source in group if source in left}
        if not chosen:
            continue
        for source, converted in _try(pipeline_class, chosen, spelling, layers).items():
            del left[source]
            yield source, converted


def _try(
    pipeline_class: Any, pairs: Pairs, spelling: Spelling, layers: Collection[str]
) -> dict[str, Pairs]:
    """Convert markers, then the pairs themselves; return those of which every row arrived."""
    markers = {source: _marker(pair, number) for number, (source, pair) in enumerate(pairs.items())}
    try:
        origins = _origins(_run(pipeline_class, markers, spelling), list(pairs), layers)
        if not origins:
            return {}
        exact = {source: _exact(pair) for source, pair in pairs.items()}
        real = _run(pipeline_class, exact, spelling)
    except _COMPLAINTS:
        return {}
    rows: Counter[str] = Counter()
    found: dict[str, Pairs] = {}
    for layer in origins.keys() & real.keys():
        source = origins[layer]
        rows[source] += len(real[layer].up)
        found.setdefault(source, {})[layer] = _own(layer, real[layer], pairs[source])
    return {source: own for source, own in found.items() if rows[source] == len(pairs[source].up)}


def _origins(marked: Pairs, sources: list[str], layers: Collection[str]) -> dict[str, str]:
    """Return of which one layer of the file each of the model's was made."""
    origins: dict[str, str] = {}
    for layer in marked.keys() & set(layers):
        numbers = set(marked[layer].up.flatten().tolist())
        if len(numbers) == 1:
            origins[layer] = sources[int(numbers.pop()) - 1]
    return origins


def _run(pipeline_class: Any, pairs: Pairs, spelling: Spelling) -> Pairs:
    """Return what diffusers makes of a file that holds the pairs in this spelling."""
    (down, up), rename = spelling
    state: dict[str, torch.Tensor] = {}
    for layer, pair in pairs.items():
        name = rename(layer)
        state |= {down.format(name): pair.down, up.format(name): pair.up}
    made = pipeline_class.lora_state_dict(state)
    return {one.layer: Pair(made[one.down], made[one.up]) for one in sort_keys(made).pairs}


def _marker(pair: Pair, number: int) -> Pair:
    """Return a pair of rank 1 that says in every value where it comes from; 0 would look empty."""
    value = number + 1.0
    return Pair(torch.full((1, pair.down.shape[1]), value), torch.full((len(pair.up), 1), value))


def _exact(pair: Pair) -> Pair:
    """Converters compute rank / rank in the tensors' type, in which it must come out as 1."""
    rank = pair.down.shape[0]
    if torch.tensor(rank, dtype=pair.down.dtype).item() == rank:
        return pair
    return Pair(pair.down.float(), pair.up.float())


def _own(layer: str, converted: Pair, source: Pair) -> Pair:
    """Return it in the file's types, in memory of its own.

    q, k and v come with one A in common, over which another LoRA could not be swapped in.
    """
    down = converted.down.to(source.down.dtype, copy=True).contiguous()
    up = converted.up.to(source.up.dtype, copy=True).contiguous()
    if layer == _NORM_OUT and torch.equal(up, source.up):
        # (scale, shift), which the original layouts have the other way: diffusers' converter of
        # FLUX.1's LoRAs swaps them, that of FLUX.2's does not, although the one of the model does:
        # `convert_flux2_transformer_checkpoint_to_diffusers`
        up = up.roll(len(up) // 2, 0)
    return Pair(down, up)
