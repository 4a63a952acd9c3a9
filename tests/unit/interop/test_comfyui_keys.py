"""LoRAs by ComfyUI's names: the same change of the same weights, to the bit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fakes.comfyui import RECORDING
from numpy.typing import NDArray

from glance.core.errors import LoraError
from glance.interop.comfyui import to_comfyui
from glance.models.families import FAMILIES, find_family
from glance.models.lora.file import (
    ADAPTER_METADATA,
    DOWN,
    UP,
    Lora,
    Tensor,
    hash_data,
    read_header,
    read_lora,
    write_lora,
)

FUSED = {"lumina2": "attn", "z_image": "attention"}
"""What diffusers calls the attention of these families' blocks."""
UNFUSED = [name for name in FAMILIES if name not in FUSED]
WIDTHS = {"to_q": 8, "to_k": 4, "to_v": 4}
"""Rows: with grouped queries, fewer of keys and values."""
IN = 8
Pair = tuple[Tensor, Tensor]


def tensor(values: NDArray[np.float32], dtype: str) -> Tensor:
    """Return values that all formats hold exactly, in one of them."""
    if dtype == "BF16":
        data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        data = values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    return Tensor(dtype, values.shape, data)


def make_pair(rows: int, rank: int, *, seed: int, dtype: str = "F32") -> Pair:
    draw = np.random.default_rng(seed)
    down, up = (
        draw.integers(-8, 9, shape).astype(np.float32) / 8 for shape in ((rank, IN), (rows, rank))
    )
    return tensor(down, dtype), tensor(up, dtype)


def as_lora(pairs: dict[str, Pair], metadata: dict[str, str] | None = None) -> Lora:
    halves = {
        f"transformer.{module}{half}": one
        for module, pair in pairs.items()
        for half, one in zip((DOWN, UP), pair, strict=True)
    }
    return Lora(halves, metadata or {})


def make_block(
    name: str, *, ranks: tuple[int, int, int] = (2, 2, 2), dtype: str = "F32"
) -> dict[str, Pair]:
    """Return the pairs of q, k and v of one block."""
    return {
        f"layers.0.{FUSED[name]}.{part}": make_pair(rows, rank, seed=seed, dtype=dtype)
        for seed, ((part, rows), rank) in enumerate(zip(WIDTHS.items(), ranks, strict=True))
    }


def change(pair: Pair) -> NDArray[np.float64]:
    """Return what a pair adds to its layer: B A, (out, in)."""
    down, up = (half.to_float().astype(np.float64) for half in pair)
    return up @ down


def find_pair(lora: Lora, name: str) -> Pair:
    return lora.tensors[f"{name}{DOWN}"], lora.tensors[f"{name}{UP}"]


def alpha(lora: Lora, name: str) -> float:
    found = lora.tensors[f"{name}.alpha"]
    assert (found.dtype, found.shape) == ("F32", ())
    return float(found.to_float())


@pytest.mark.parametrize("name", UNFUSED)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_every_byte_stays_and_alpha_is_each_pairs_rank(name: str, dtype: str) -> None:
    modules = [f"blocks.{i}.{target}" for i, target in enumerate(find_family(name).block_layers)]
    ranks = {module: 1 + number % 3 for number, module in enumerate(modules)}
    lora = as_lora({one: make_pair(6, ranks[one], seed=1, dtype=dtype) for one in modules})

    exported = to_comfyui(lora, find_family(name))

    assert lora.tensors.items() <= exported.tensors.items()
    added = set(exported.tensors) - set(lora.tensors)
    assert added == {f"transformer.{module}.alpha" for module in modules}
    assert all(alpha(exported, f"transformer.{one}") == ranks[one] for one in modules)


@pytest.mark.parametrize("name", ["flux", "lumina2"])
def test_the_header_is_that_of_the_file_and_what_is_given_stays_as_it_was(name: str) -> None:
    own = {ADAPTER_METADATA: json.dumps({"transformer.r": 2}), "glance.pair_id": "ab"}
    metadata = {**own, "modelspec.hash_sha256": "0xold"}
    pairs = {"a.to_q": make_pair(6, 2, seed=0)} if name == "flux" else make_block(name)
    lora = as_lora(pairs, dict(metadata))
    keys = set(lora.tensors)

    exported = to_comfyui(lora, find_family(name))

    assert (set(lora.tensors), lora.metadata) == (keys, metadata)
    path = Path("exported.safetensors")
    write_lora(exported, path)
    written = read_lora(path)
    assert written.tensors == dict(sorted(exported.tensors.items()))
    assert written.metadata == {  # without diffusers' own alpha: it refuses both at once
        "glance.pair_id": "ab",
        "modelspec.hash_sha256": f"0x{hash_data(read_header(path))}",
    }


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 3, 2)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("name", FUSED)
def test_the_one_pair_changes_the_one_layer_as_the_three_did(
    name: str, dtype: str, ranks: tuple[int, int, int]
) -> None:
    block = make_block(name, ranks=ranks, dtype=dtype)
    turned = dict(reversed(block.items()))

    exported = to_comfyui(as_lora(turned), find_family(name))

    qkv = "diffusion_model.layers.0.attention.qkv"
    assert set(exported.tensors) == {f"{qkv}{end}" for end in (DOWN, UP, ".alpha")}
    down, up = find_pair(exported, qkv)
    assert (down.dtype, down.shape) == (dtype, (sum(ranks), IN))
    assert (up.dtype, up.shape) == (dtype, (sum(WIDTHS.values()), sum(ranks)))
    assert alpha(exported, qkv) == sum(ranks)
    assert np.array_equal(change((down, up)), np.concatenate([*map(change, block.values())]))


@pytest.mark.parametrize("name", FUSED)
def test_the_other_layers_are_renamed_alone(name: str) -> None:
    names = find_family(name).comfyui.layer_names
    pairs = {
        f"noise_refiner.1.{end}": make_pair(IN, 2, seed=seed) for seed, end in enumerate(names)
    }

    exported = to_comfyui(as_lora(pairs), find_family(name))

    for pair, own in zip(pairs.values(), names.values(), strict=True):
        renamed = f"diffusion_model.noise_refiner.1.{own}"
        assert find_pair(exported, renamed) == pair
        assert alpha(exported, renamed) == 2.0


@pytest.mark.parametrize("name", FUSED)
def test_blocks_keep_apart(name: str) -> None:
    first, where = make_block(name), ("layers.0.", "layers.10.")
    both = first | {key.replace(*where): make_pair(WIDTHS[key[-4:]], 1, seed=5) for key in first}

    exported = to_comfyui(as_lora(both), find_family(name))

    ranks = {key: alpha(exported, key[:-6]) for key in exported.tensors if key.endswith("alpha")}
    assert ranks == {
        "diffusion_model.layers.0.attention.qkv.alpha": 6.0,
        "diffusion_model.layers.10.attention.qkv.alpha": 3.0,
    }


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("parts", [("to_q",), ("to_k", "to_v"), ("to_q", "to_v")])
def test_all_that_has_no_place_is_named_at_once(name: str, parts: tuple[str, ...]) -> None:
    """q, k and v only go together."""
    block = {key: pair for key, pair in make_block(name).items() if key.endswith(parts)}
    block["layers.3.feed_forward.w9"] = make_pair(6, 2, seed=4)

    with pytest.raises(LoraError, match="has no layer to put these in: ") as caught:
        to_comfyui(as_lora(block), find_family(name))

    (problem,) = caught.value.problems
    assert "layers.3.feed_forward.w9" in problem.message
    assert "layers.0" in problem.message
    assert find_family(name).title in problem.message


@pytest.mark.parametrize("name", FUSED)
def test_q_k_and_v_of_two_formats_still_change_what_they_did(name: str) -> None:
    """As pairs from elsewhere may be, which `glance import` takes."""
    block = make_block(name, dtype="BF16")
    last = f"layers.0.{FUSED[name]}.to_v"
    block[last] = make_pair(WIDTHS["to_v"], 2, seed=2, dtype="F16")

    exported = to_comfyui(as_lora(block), find_family(name))

    fused = change(find_pair(exported, "diffusion_model.layers.0.attention.qkv"))
    assert np.array_equal(fused, np.concatenate([*map(change, block.values())]))


@pytest.mark.parametrize("name", FUSED)
def test_the_header_says_what_the_fused_file_is(name: str) -> None:
    metadata = {
        "modelspec.implementation": "diffusers",
        "modelspec.title": "cat (slow)",
        "ss_network_dim": "2",
        "ss_network_alpha": "2",
    }

    exported = to_comfyui(as_lora(make_block(name), metadata), find_family(name))

    assert exported.metadata == {
        "modelspec.implementation": "https://github.com/comfyanonymous/ComfyUI",
        "modelspec.title": "cat (slow)",
        "ss_network_dim": "6",
        "ss_network_alpha": "6",
    }


RECORDED = json.loads(RECORDING.read_text())["loras"]
NEWER = {"flux2", "flux2_klein", "krea2"}
"""Families that the recorded ComfyUI has not got; `python -m scripts.comfyui` finds that."""
UNRECORDED = {"z_image": {"N.adaLN_modulation.0"}}
"""Its Z-Image is a Lumina 2, which has the modulation otherwise."""


def test_the_recording_has_every_family_that_comfyui_had_then() -> None:
    assert set(FAMILIES) - set(RECORDED) == NEWER


@pytest.mark.parametrize("name", RECORDED)
def test_comfyui_maps_every_name_of_an_exported_lora(name: str) -> None:
    """The names of ComfyUI's own full-size model, and diffusers' layers, as they were recorded."""
    modules = [module.replace(".N.", ".7.") for module in RECORDED[name]["modules"]]
    lora = as_lora({module: make_pair(8, 2, seed=0) for module in modules})

    exported = to_comfyui(lora, find_family(name))

    stems = {key.removesuffix(DOWN).removesuffix(UP) for key in exported.tensors}
    stems = {stem.removesuffix(".alpha").replace(".7.", ".N.") for stem in stems}
    assert stems <= set(RECORDED[name]["names"])


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_trained_is_what_was_recorded(name: str) -> None:
    """A layer that SimpleTuner is newly told to train has to be proven anew."""
    row, modules = find_family(name), RECORDED[name]["modules"]
    targets = {re.sub(r"(^|\.)\d+\.", r"\1N.", end) for end in row.block_layers}

    trained = {end for end in targets if any(f".{m}".endswith(f".{end}") for m in modules)}

    assert targets - trained == UNRECORDED.get(name, set())
    assert all(f".{m}".endswith(tuple(f".{end}" for end in targets)) for m in modules)
