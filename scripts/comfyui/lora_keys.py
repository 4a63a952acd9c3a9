"""Does ComfyUI map every key of an exported LoRA, and change the weights as diffusers does?"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from glance.interop.comfyui import to_comfyui
from glance.models.families import FAMILIES, Family
from glance.models.lora.file import DOWN, PREFIX, UP, Lora, Tensor
from scripts.comfyui.checkout import Checkout
from scripts.comfyui.models import FULL_SIZE, build_in_comfyui, build_in_diffusers

RANK = 2
_OURS = (PREFIX, "diffusion_model.")


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of a family's LoRA."""

    layers: int
    """Of diffusers' transformer that it changes."""
    keys: int
    """Tensors of the exported file."""
    weights: int
    """Of ComfyUI's model that it changes."""
    modules: tuple[str, ...]
    """Those layers, N for a number."""
    names: tuple[str, ...]
    """What of a file's names ComfyUI maps to its model, N for a number."""


def prove_keys(checkout: Checkout, name: str) -> Mapped | None:
    """Load a LoRA of every layer that may be trained; None: the checkout lacks the family.

    Raises AssertionError where a key is left over, or where a weight would change otherwise than
    in diffusers.
    """
    family, model = FAMILIES[name], build_in_diffusers(name)
    theirs = build_in_comfyui(checkout, name, model)
    if theirs is None:
        return None
    lora = make_lora(model, family, but=FULL_SIZE[name].differs)
    exported = to_comfyui(lora, family)
    tensors = {key: _to_torch(tensor) for key, tensor in exported.tensors.items()}
    patches, left_over = load(checkout, theirs, tensors)
    assert not left_over, f"{name}: {len(left_over)} keys are left over, first {left_over[0]}"
    _compare(checkout, theirs, patches, lora, family)
    places = checkout.module("comfy.lora").model_lora_keys_unet(theirs, {})
    return Mapped(
        layers=len(lora.modules),
        keys=len(tensors),
        weights=len({_weight_of(key) for key in patches}),
        modules=_patterns(lora.modules),
        names=_patterns(name for name in places if name.startswith(_OURS)),
    )


def make_lora(model: torch.nn.Module, family: Family, *, but: tuple[str, ...] = ()) -> Lora:
    """Return a LoRA of random numbers on every layer that SimpleTuner may be told to train."""
    generator = np.random.default_rng(0)
    ends = tuple(f".{end}" for end in family.block_layers if not end.endswith(but))
    tensors: dict[str, Tensor] = {}
    for module, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and f".{module}".endswith(ends):
            halves = ((DOWN, (RANK, layer.in_features)), (UP, (layer.out_features, RANK)))
            for half, shape in halves:
                values = generator.standard_normal(shape, dtype=np.float32)
                tensors[f"{PREFIX}{module}{half}"] = Tensor("F32", shape, values.tobytes())
    return Lora(tensors, {})


def load(
    checkout: Checkout, model: Any, tensors: dict[str, torch.Tensor]
) -> tuple[dict[Any, Any], list[str]]:
    """Return what ComfyUI patches, and the keys that it says are not loaded."""
    lora = checkout.module("comfy.lora")
    converted = checkout.module("comfy.lora_convert").convert_lora(tensors)
    with _Warnings() as heard:
        patches = lora.load_lora(converted, lora.model_lora_keys_unet(model, {}))
    return patches, [line.rpartition(" ")[2] for line in heard.lines if "not loaded" in line]


def _compare(
    checkout: Checkout, model: Any, patches: dict[Any, Any], lora: Lora, family: Family
) -> None:
    """Hold the change of the first and last blocks' weights to diffusers', value by value."""
    calculate = checkout.module("comfy.lora").calculate_weight
    places = checkout.module("comfy.lora").model_lora_keys_unet(model, {})
    shapes = {key: weight.shape for key, weight in model.state_dict().items()}
    for stem, modules in _stems(lora, family).items():
        place = places[stem]
        parts = (place,) if isinstance(place, str) else place
        weight, offset, function = (*parts, None, None)[:3]
        nothing = torch.zeros(shapes[weight])
        changed = calculate([(1.0, patches[place], 1.0, offset, function)], nothing, weight)
        expected = torch.zeros(shapes[weight])
        rows = expected if offset is None else expected.narrow(*offset)
        change = torch.cat([_change(lora, module) for module in modules])
        # ComfyUI has shift before scale where diffusers has scale before shift.
        rows += change if function is None else torch.cat(change.chunk(2)[::-1])
        assert torch.allclose(changed, expected, atol=1e-5), f"{weight} changes otherwise"


def _stems(lora: Lora, family: Family) -> dict[str, list[str]]:
    """Return the names in ComfyUI's file of the layers to compare, and diffusers' of each."""
    stems: dict[str, list[str]] = {}
    for module in _outermost(lora.modules):
        stems.setdefault(_stem(module, family), []).append(module)
    # q, k and v in this order, as the rows of the one projection are
    return {stem: sorted(names, key=_row_order) for stem, names in stems.items()}


def _outermost(modules: Iterable[str]) -> list[str]:
    """Return the layers of the first and the last block of every kind, and those of no block."""
    blocks = {module: re.match(r"(.+?)\.(\d+)\.", module) for module in modules}
    last: dict[str, int] = {}
    for block in filter(None, blocks.values()):
        last[block[1]] = max(last.get(block[1], 0), int(block[2]))
    return [
        module
        for module, block in blocks.items()
        if block is None or int(block[2]) in (0, last[block[1]])
    ]


def _stem(module: str, family: Family) -> str:
    if not family.comfyui.fuses_qkv:
        return f"transformer.{module}"
    stack, number, end = module.split(".", 2)
    own = family.comfyui.layer_names.get(end, "attention.qkv")
    return f"diffusion_model.{stack}.{number}.{own}"


def _row_order(module: str) -> int:
    return "qkv".find(module[-1])


def _change(lora: Lora, module: str) -> torch.Tensor:
    """Return what the pair adds to the weight of diffusers' layer: B A, (out, in)."""
    down, up = (_to_torch(lora.tensors[f"{PREFIX}{module}{half}"]) for half in (DOWN, UP))
    return up @ down


def _patterns(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({re.sub(r"\.\d+\.", ".N.", name) for name in names}))


def _weight_of(key: Any) -> str:
    return str(key if isinstance(key, str) else key[0])


def _to_torch(tensor: Tensor) -> torch.Tensor:
    return torch.from_numpy(tensor.to_float().copy())


class _Warnings(logging.Handler):
    """Hears what ComfyUI warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "_Warnings":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
