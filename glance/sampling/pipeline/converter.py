"""diffusers' converters of LoRAs in a model's original layout, with an account of what they lose.

They rename, split what is fused, and drop some of what they do not know with a warning at most.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from glance.models.lora.pairs import sort_keys

_NORM_OUT: Final = "norm_out.linear"
# What they raise at names that they do not know.
_COMPLAINTS: Final = (ValueError, LookupError, AssertionError, RuntimeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer's LoRA at scale 1: A, (rank, in), and B, (out, rank)."""

    down: torch.Tensor
    up: torch.Tensor


type Pairs = dict[str, Pair]
"""By layer: as the file calls it before it is matched, by the model's name after."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a converter expects to see a pair: what it calls the layer, and what stands around it."""

    down: str
    up: str
    rename: Callable[[str], str] = str

    def spell(self, pairs: Pairs) -> dict[str, torch.Tensor]:
        """Return the pairs as a file of this spelling holds them."""
        state: dict[str, torch.Tensor] = {}
        for layer, pair in pairs.items():
            name = self.rename(layer)
            state[self.down.format(name)] = pair.down
            state[self.up.format(name)] = pair.up
        return state


_WORDS: Final = re.compile(
    r"double_stream_modulation_(?:img|txt)|single_stream_modulation|(?:double|single)_blocks"
    r"|(?:img|txt)_(?:attn|mlp|mod|in)|(?:time|vector|guidance)_in|(?:in|out)_layer"
    r"|final_layer|adaLN_modulation|[^_.]+"
)
"""The words of FLUX's original names, some of which hold an underscore themselves."""


def with_dots(layer: str) -> str:
    """Return a layer of FLUX's original layout with its dots, which kohya writes as underscores.

    diffusers' converter of kohya's FLUX.2 LoRAs knows fewer layers than that of the dotted names.
    """
    return ".".join(_WORDS.findall(layer))


def _with_underscores(layer: str) -> str:
    return layer.replace(".", "_")


_COMFYUI: Final = ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight")
_KOHYA: Final = ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight")
_SPELLINGS: Final = (
    Spelling(*_COMFYUI),
    Spelling(*_KOHYA, rename=_with_underscores),
    Spelling(*_COMFYUI, rename=with_dots),
)


def convert(
    pipeline_class: Any, pairs: Pairs, layers: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[str, Pairs]]:
    """Yield each layer of the file that the pipeline's converter places, and what became of it.

    What it drops, or places in part or in none of `layers`, is not yielded. Some converters want
    all that they know, others refuse everything for one name that they do not know: so the whole is
    tried first, then what is left one by one.
    """
    left = dict(pairs)
    for group, spelling in _attempts(list(pairs)):
        chosen = {source: left[source] for source in group if source in left}
        if not chosen:
            continue
        for source, converted in _try(pipeline_class, chosen, spelling, layers).items():
            del left[source]
            yield source, converted


def _attempts(sources: list[str]) -> Iterator[tuple[list[str], Spelling]]:
    yield from ((sources, spelling) for spelling in _SPELLINGS)
    yield from (([source], spelling) for source in sources for spelling in _SPELLINGS)


def _try(
    pipeline_class: Any,
    pairs: Pairs,
    spelling: Spelling,
    layers: Mapping[str, tuple[int, int]],
) -> dict[str, Pairs]:
    """Convert markers, then the pairs themselves; return those of which every row arrived."""
    markers = {source: _marker(pair, number) for number, (source, pair) in enumerate(pairs.items())}
    try:
        origins = _origins(_run(pipeline_class, spelling.spell(markers)), list(pairs), layers)
        if not origins:
            return {}
        real = _run(pipeline_class, spelling.spell({at: _exact(pairs[at]) for at in pairs}))
    except _COMPLAINTS:
        return {}
    rows: Counter[str] = Counter()
    found: dict[str, Pairs] = {}
    for layer in origins.keys() & real.keys():
        source = origins[layer]
        rows[source] += len(real[layer].up)
        own = _swapped(real[layer], pairs[source]) if layer == _NORM_OUT else real[layer]
        found.setdefault(source, {})[layer] = _as(own, pairs[source])
    return {source: own for source, own in found.items() if rows[source] == len(pairs[source].up)}


def _origins(
    marked: Pairs, sources: list[str], layers: Mapping[str, tuple[int, int]]
) -> dict[str, str]:
    """Return of which one layer of the file each of the model's was made."""
    origins: dict[str, str] = {}
    for layer in layers.keys() & marked.keys():
        numbers = set(marked[layer].up.flatten().tolist())
        if len(numbers) == 1:
            origins[layer] = sources[int(numbers.pop()) - 1]
    return origins


def _run(pipeline_class: Any, state: dict[str, torch.Tensor]) -> Pairs:
    converted = pipeline_class.lora_state_dict(state)
    return {
        pair.layer: Pair(converted[pair.down], converted[pair.up])
        for pair in sort_keys(converted).pairs
    }


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


def _swapped(converted: Pair, source: Pair) -> Pair:
    """Return the last modulation as (scale, shift), which the original layouts have the other way.

    diffusers' converter of FLUX.1's LoRAs swaps them, that of FLUX.2's does not, although the one
    of the model does: `convert_flux2_transformer_checkpoint_to_diffusers`.
    """
    if not torch.equal(converted.up.to(source.up.dtype), source.up):
        return converted
    return Pair(converted.down, converted.up.roll(len(converted.up) // 2, 0))


def _as(converted: Pair, source: Pair) -> Pair:
    """Return it in the file's types, in memory of its own.

    q, k and v come with one A in common, over which another LoRA could not be swapped in.
    """
    return Pair(
        converted.down.to(source.down.dtype, copy=True).contiguous(),
        converted.up.to(source.up.dtype, copy=True).contiguous(),
    )
