"""Where a model's weights stay while it samples, and how small they are kept: pure decisions.

`glance.sampling.pipeline.placement` and `glance.sampling.pipeline.quantize` carry them out.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.util import find_spec
from typing import Final

from glance.core.device import Device
from glance.core.errors import DeviceUnavailable, GlanceError, Problem, SetupError, UsageError


class Memory(StrEnum):
    """Where the weights wait until they are needed."""

    AUTO = "auto"  # the first of full, offload and group that fits
    FULL = "full"  # all on the device
    OFFLOAD = "offload"  # on the device, one part after another
    GROUP = "group"  # the transformer block by block, the next one on its way
    SEQUENTIAL = "sequential"  # layer by layer


class Quantize(StrEnum):
    """How the weights of the transformer and of large text encoders are kept."""

    NONE = "none"
    BIT8 = "8bit"  # torchao, int8
    BIT4 = "4bit"  # bitsandbytes, nf4
    FP8 = "fp8"  # diffusers' layerwise casting, of the transformer only


CUDA_EXTRA: Final = "in glance's clone: uv sync --extra cuda"
"""How to get what only NVIDIA's GPUs need; glance itself is on no index."""
_PACKAGES: Final[Mapping[Quantize, tuple[str, str]]] = {
    Quantize.BIT8: ("torchao", "in glance's clone: uv sync"),
    Quantize.BIT4: ("bitsandbytes", CUDA_EXTRA),
}
_OFFLOADS: Final = (Memory.OFFLOAD, Memory.GROUP, Memory.SEQUENTIAL)
# Measured by Hugging Face for FLUX.1-dev at 1024x1024 in bf16 on an H100: the peak is 4.719 GiB
# above what the weights take, 4832 bytes a pixel (huggingface.co/blog/diffusers-quantization).
# It is the VAE's decoding. A quarter more, for VAEs that are not FLUX's.
_BYTES_A_PIXEL: Final = 6144
_DENOISING: Final = 4  # the transformer's own activations are at most this part of the decoding's


def check_memory(
    memory: Memory,
    quantize: Quantize,
    device: Device,
    *,
    is_single_file: bool = False,
    is_compiled: bool = False,
) -> None:
    """Raise unless the two can work together on `device`; all that is wrong is listed.

    `is_single_file` says that the transformer is a single file in place of the model's own,
    `is_compiled` that torch.compile builds it. Any precision will do: all three were tried with
    each. Raises DeviceUnavailable (the device cannot do it), SetupError (a package is missing) or
    UsageError (the two do not go together): the class is that of the first problem.
    """
    found = [
        *_device_problems(memory, quantize, device),
        *_package_problems(quantize, device),
        *_4bit_problems(memory, quantize, is_single_file=is_single_file),
        *(_compiled_problems(memory) if is_compiled else ()),
    ]
    if found:
        raise found[0][0](problem for _, problem in found)


type _Found = tuple[type[GlanceError], Problem]


def _device_problems(memory: Memory, quantize: Quantize, device: Device) -> Iterator[_Found]:
    if device is not Device.CUDA and memory in _OFFLOADS:
        yield (
            DeviceUnavailable,
            Problem(
                f"--memory {memory}: on {device} everything is in system memory already",
                "drop --memory",
            ),
        )
    if device is not Device.CUDA and quantize is Quantize.BIT4:
        yield (
            DeviceUnavailable,
            Problem("--quantize 4bit: it takes a CUDA device", "use --quantize 8bit"),
        )
    if device is Device.MPS and quantize is Quantize.FP8:
        yield (
            DeviceUnavailable,
            Problem("--quantize fp8: mps has no fp8", "use --quantize 8bit"),
        )


def _package_problems(quantize: Quantize, device: Device) -> Iterator[_Found]:
    package, command = _PACKAGES.get(quantize, ("", ""))
    would_help = quantize is not Quantize.BIT4 or device is Device.CUDA
    if package and would_help and find_spec(package) is None:
        yield (
            SetupError,
            Problem(f"--quantize {quantize}: {package} is not installed", command),
        )


def _4bit_problems(memory: Memory, quantize: Quantize, *, is_single_file: bool) -> Iterator[_Found]:
    if quantize is not Quantize.BIT4:
        return
    if memory in (Memory.GROUP, Memory.SEQUENTIAL):
        # bitsandbytes keeps the scales beside the weight, where neither way of moving it sees
        # them (huggingface/diffusers#10800; hooks/group_offloading.py moves the weight alone).
        yield (
            UsageError,
            Problem(
                f"--memory {memory} does not go with --quantize 4bit",
                "use --memory offload, or --quantize 8bit",
            ),
        )
    if is_single_file:
        yield (
            UsageError,
            Problem(
                "--quantize 4bit does not go with a transformer of a single file",
                "use --quantize 8bit",
            ),
        )


def _compiled_problems(memory: Memory) -> Iterator[_Found]:
    if memory in (Memory.GROUP, Memory.SEQUENTIAL):
        # A compiled model's LoRAs are swapped in place, and both bring back copies made before.
        yield (
            UsageError,
            Problem(f"--memory {memory} does not go with --compile", "use --memory offload"),
        )


def activation_bytes(pixels: int, *, number_bytes: int = 2) -> int:
    """Return the bytes that sampling takes beside the weights, at its peak.

    `pixels` is width times height. Attention's memory is linear in it, and so are the VAE's
    feature maps, which are most of it. `number_bytes` is the size of one number: 2 in bf16.
    """
    return pixels * _BYTES_A_PIXEL * number_bytes // 2


def choose_memory(sizes: Mapping[str, int], *, free: int, activations: int) -> Memory:
    """Return how parts of `sizes` bytes fit into `free` bytes, beside `activations` bytes.

    The first that holds:

    1. all parts and the activations fit: FULL.
    2. each part fits alone, with what it computes: OFFLOAD. Text encoders leave before denoising
       begins, and the transformer before decoding, whose activations are the larger ones.
    3. GROUP: a block or two of the transformer are there at a time.

    SEQUENTIAL is never chosen: it needs hardly less than GROUP and waits for every layer. The order
    is that of diffusers' guides (docs/source/en/optimization: memory.md, speed-memory-optims.md):
    for pictures model offloading is faster than group offloading, and that than single layers.
    """
    largest = max(sizes.values(), default=0)
    if sum(sizes.values()) + activations <= free:
        return Memory.FULL
    decoding = sizes.get("vae", 0) + activations
    if max(largest + activations // _DENOISING, decoding) <= free:
        return Memory.OFFLOAD
    return Memory.GROUP
