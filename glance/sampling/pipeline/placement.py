"""Put a loaded pipeline's parts where they wait and where they compute, by diffusers' own hooks.

Call `place` once both LoRAs are loaded. What goes together is decided in `glance.core.memory`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from glance.core.device import Device
from glance.core.memory import Memory, activation_bytes, choose_memory


def place(
    pipeline: Any, device: Device, memory: Memory, *, pixels: int, swaps_loras: bool = False
) -> Memory:
    """Make `pipeline` compute on `device`, its weights kept as `memory` says; return how.

    `pixels` is what the pictures to come have at a time; AUTO leaves room for them. With
    `swaps_loras` their weights are exchanged in place, which AUTO leaves possible.
    """
    used = memory
    if memory is Memory.AUTO:
        used = _choose(pipeline, device, pixels)
        if used is Memory.GROUP and swaps_loras:
            used = Memory.OFFLOAD
    match used:
        case Memory.OFFLOAD:
            pipeline.enable_model_cpu_offload(device=device.value)
        case Memory.GROUP:
            _offload_groups(pipeline, torch.device(device.value))
        case Memory.SEQUENTIAL:
            pipeline.enable_sequential_cpu_offload(device=device.value)
        case Memory.FULL | Memory.AUTO:
            pipeline.to(device.value)
    return used


@contextmanager
def staying_placed(pipeline: Any) -> Iterator[None]:
    """Keep offloaded parts where they are between the calls of `pipeline` made inside.

    Every call ends with `maybe_free_model_hooks`, which sends all parts back to system memory: the
    transformer too, which the next call needs at once. Inside it does nothing, afterwards it is
    done once. The parts still take turns: that is their hooks' work.
    """
    pipeline.maybe_free_model_hooks = _do_nothing
    try:
        yield
    finally:
        del pipeline.maybe_free_model_hooks  # the class's own is seen again
        pipeline.maybe_free_model_hooks()


def part_sizes(pipeline: Any) -> Mapping[str, int]:
    """Return the bytes of each part's weights, LoRAs among them."""
    return {
        name: sum(_weight_bytes(tensor) for tensor in part.parameters())
        for name, part in _parts(pipeline).items()
    }


def _do_nothing() -> None:
    pass


def _parts(pipeline: Any) -> dict[str, Any]:
    components = pipeline.components.items()
    return {name: part for name, part in components if isinstance(part, torch.nn.Module)}


def _weight_bytes(tensor: torch.Tensor) -> int:
    """Return what a tensor takes; a quantized one says what its numbers would take unquantized."""
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.nbytes
    names, _ = flatten()
    return sum(_weight_bytes(getattr(tensor, name)) for name in names)


def _choose(pipeline: Any, device: Device, pixels: int) -> Memory:
    if device is not Device.CUDA:
        return Memory.FULL
    parts, sizes = _parts(pipeline), part_sizes(pipeline)
    free, _ = torch.cuda.mem_get_info()
    # bitsandbytes quantizes on the GPU: its parts are there already
    there = sum(
        size for name, size in sizes.items() if next(parts[name].parameters()).device.type == "cuda"
    )
    chosen = choose_memory(
        sizes,
        free=free + there,
        activations=activation_bytes(pixels, number_bytes=pipeline.vae.dtype.itemsize),
    )
    has_4bit = any(getattr(part, "is_loaded_in_4bit", False) for part in parts.values())
    return Memory.OFFLOAD if has_4bit and chosen is Memory.GROUP else chosen


def _offload_groups(pipeline: Any, device: torch.device) -> None:
    """Move the transformer block by block, text encoders layer by layer; the VAE stays.

    Blocks, because each holds both LoRAs' layers. Single layers are fetched ahead in the order of
    the first forward pass, and the fast phase has another order: with 9 of FLUX's blocks, 81 of 166
    layers then came late, and of the 9 blocks none. Text encoders run too seldom for pinned copies
    to pay. The VAE is small and decodes whole.
    """
    for name, part in _parts(pipeline).items():
        match name:
            case "transformer":
                part.enable_group_offload(
                    onload_device=device,
                    offload_type="block_level",
                    num_blocks_per_group=1,
                    use_stream=torch.cuda.is_available(),
                )
            case "vae":
                part.to(device)
            case _:
                apply_group_offloading(part, onload_device=device, offload_type="leaf_level")
