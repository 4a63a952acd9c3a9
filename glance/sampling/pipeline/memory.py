"""How a model fits the device: its weights quantised, its parts placed, and lack of memory said.

What is quantised and what goes where is decided in `glance.core.device`; here diffusers' and
torchao's own means carry it out. The order is: `quantization_config` for loading, then the LoRAs,
then `apply_fp8`, then `place`.
"""

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers.hooks import apply_group_offloading
from diffusers.quantizers import PipelineQuantizationConfig
from psutil import virtual_memory

from glance.core.device import Device, Memory, Quantize, activation_bytes, choose_memory
from glance.core.errors import InferenceFailed
from glance.models.families import Family

# --- quantising ----------------------------------------------------------------------------------
#
# 8 bits are torchao's int8, which SimpleTuner brings along: it runs on every device, and PEFT puts
# LoRAs beside such a layer without merging them. Its int4 PEFT refuses (its
# tuners/lora/torchao.py), so 4 bits are bitsandbytes' nf4, which needs CUDA. Quanto is deprecated
# in diffusers and loses its layers' device under group offload (huggingface/diffusers#12610).

_LARGE: Final = 1.0  # billions of parameters: T5-XXL has 4.76, the CLIPs 0.12 and 0.69


def large_parts(family: Family) -> tuple[str, ...]:
    """Return the parts worth quantising, by the pipeline's names.

    They are the transformer and large text encoders. Small ones and the VAE would save nothing.
    """
    sizes = enumerate(family.size.text_encoders, start=1)
    large = (number for number, size in sizes if size >= _LARGE)
    return ("transformer", *(f"text_encoder_{one}".removesuffix("_1") for one in large))


def part_config(part: str, quantize: Quantize, dtype: torch.dtype) -> Any | None:
    """Return what one part's `from_pretrained` takes, None if nothing.

    `dtype` is what the part computes in. Fp8 is no such config: see `apply_fp8`. Nor is there one
    for a single file: see `quantize_loaded`.
    """
    library = diffusers if part == "transformer" else transformers
    match quantize:
        case Quantize.BIT8:
            return library.TorchAoConfig(_int8())
        case Quantize.BIT4:
            return library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        case Quantize.NONE | Quantize.FP8:
            return None


def quantization_config(
    quantize: Quantize, dtype: torch.dtype, parts: Collection[str]
) -> PipelineQuantizationConfig | None:
    """Return what the pipeline's `from_pretrained` takes to quantize `parts`, None if nothing.

    A part that is handed to it ready made is left as it is: load it with `part_config`, or see
    `quantize_loaded`.
    """
    configs = {part: part_config(part, quantize, dtype) for part in parts}
    found = {part: config for part, config in configs.items() if config is not None}
    return PipelineQuantizationConfig(quant_mapping=found) if found else None


def quantize_loaded(transformer: torch.nn.Module, quantize: Quantize) -> None:
    """Quantize a transformer that was read from a single file, in place; fp8 comes later.

    diffusers' `from_single_file` takes a config, but believes the file quantized already: with
    torchao it quantizes nothing and says nothing, and with bitsandbytes it fails. So 8 bits are
    made here, before the LoRAs are loaded; 4 bits are refused by `glance.core.device.check_memory`.
    """
    if quantize is Quantize.BIT4:
        raise ValueError("4 bits of a single file: check_memory was not asked")
    if quantize is Quantize.BIT8:
        from torchao.quantization import quantize_  # type: ignore[import-untyped]

        quantize_(transformer, _int8())


def apply_fp8(pipeline: Any, dtype: torch.dtype) -> None:
    """Keep the transformer's weights in fp8 and compute with them in `dtype`.

    Call it once the LoRAs are loaded: diffusers then leaves them as they are. PEFT would make a
    LoRA that comes later fp8 as its base layer is, and nothing computes in that. Norms and
    modulation keep their precision: diffusers' own choice.
    """
    pipeline.transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype
    )


def _int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    # Version 1 is deprecated, and cannot be pinned for group offload (huggingface/diffusers#14112).
    # Inductor's settings are for torch.compile.
    return Int8WeightOnlyConfig(version=2, set_inductor_config=False)


# --- placing -------------------------------------------------------------------------------------


def place(
    pipeline: Any, device: Device, memory: Memory, *, pixels: int, swaps_loras: bool = False
) -> Memory:
    """Make `pipeline` compute on `device`, its weights kept as `memory` says; return how.

    `pixels` is what the images to come have at a time; AUTO leaves room for them. With
    `swaps_loras` their weights are exchanged in place, which AUTO leaves possible.
    """
    used = memory
    if device is Device.CUDA and not _decodes_whole(pipeline, pixels):
        pipeline.vae.enable_tiling()
    if memory is Memory.AUTO:
        used = _choose(pipeline, device, pixels, swaps_loras=swaps_loras)
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
    pipeline.maybe_free_model_hooks = lambda: None
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


def _choose(pipeline: Any, device: Device, pixels: int, *, swaps_loras: bool) -> Memory:
    if device is not Device.CUDA:
        return Memory.FULL
    parts, sizes = _parts(pipeline), part_sizes(pipeline)
    chosen = choose_memory(
        sizes, free=_free_bytes(pipeline), activations=_activations(pipeline, pixels)
    )
    has_4bit = any(getattr(part, "is_loaded_in_4bit", False) for part in parts.values())
    return Memory.OFFLOAD if chosen is Memory.GROUP and (has_4bit or swaps_loras) else chosen


def _decodes_whole(pipeline: Any, pixels: int) -> bool:
    """Whether the card holds the VAE with what it computes of images of so many pixels at a time.

    Nothing that is offloaded helps there: an image that is too large is decoded in tiles.
    """
    needed = part_sizes(pipeline).get("vae", 0) + _activations(pipeline, pixels)
    return needed <= _free_bytes(pipeline)


def _activations(pipeline: Any, pixels: int) -> int:
    return activation_bytes(pixels, number_bytes=pipeline.vae.dtype.itemsize)


def _free_bytes(pipeline: Any) -> int:
    """Return what is free on the card, its own parts that are there already left out.

    bitsandbytes quantizes on the GPU.
    """
    free, _ = torch.cuda.mem_get_info()
    sizes = part_sizes(pipeline)
    there = (
        sizes[name]
        for name, part in _parts(pipeline).items()
        if next(part.parameters()).device.type == "cuda"
    )
    return int(free + sum(there))


_LEFT_FREE: Final = 4e9  # bytes of the system's memory that a pinned copy leaves


def _offload_groups(pipeline: Any, device: torch.device) -> None:
    """Move the transformer block by block, text encoders layer by layer; the VAE stays.

    Blocks, because each holds both LoRAs' layers. Single layers are fetched ahead in the order of
    the first forward pass, and the fast phase has another order: with 9 of FLUX's blocks, 81 of 166
    layers then came late, and of the 9 blocks none. Text encoders run too seldom for pinned copies
    to pay. The VAE is small and decodes whole.

    A pinned copy of the transformer is kept where the system's memory has room for it; else a block
    is pinned each time that it is fetched, which is slower.
    """
    has_room = part_sizes(pipeline)["transformer"] + _LEFT_FREE <= virtual_memory().available
    for name, part in _parts(pipeline).items():
        match name:
            case "transformer":
                part.enable_group_offload(
                    onload_device=device,
                    offload_type="block_level",
                    num_blocks_per_group=1,
                    use_stream=torch.cuda.is_available(),
                    low_cpu_mem_usage=not has_room,
                )
            case "vae":
                part.to(device)
            case _:
                apply_group_offloading(part, onload_device=device, offload_type="leaf_level")


# --- lack of memory ------------------------------------------------------------------------------

# CUDA's error has a class of its own; the CPU's allocator and MPS say it in a RuntimeError.
_WORDS: Final = ("not enough memory", "can't allocate memory", "out of memory")


@contextmanager
def explaining_lack_of_memory(doing: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into InferenceFailed that says what was being done."""
    try:
        yield
    except RuntimeError as exc:
        if not is_lack_of_memory(exc):
            raise
        raise InferenceFailed(
            f"memory does not suffice for {doing}",
            hint="use --quantize 8bit, --offload group (on a GPU), or a smaller --width and "
            "--height, and close other programs that use the device",
        ) from exc


def is_lack_of_memory(exc: RuntimeError) -> bool:
    """Whether torch ran out of memory, on whichever device."""
    return isinstance(exc, torch.OutOfMemoryError) or any(word in str(exc) for word in _WORDS)


def free_memory() -> None:
    """Give back what nobody holds any more, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
