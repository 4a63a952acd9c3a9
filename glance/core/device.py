"""Where a model runs, and which accelerator this machine has: torch is not asked."""

import ctypes
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final
from uuid import UUID

from glance.core.errors import DeviceUnavailable, Problem, SetupError, UsageError
from glance.core.install import how_to_install

AUTO = "auto"
_OPERATIONS_A_CYCLE: Final = MappingProxyType(
    {(8, 0): 2048, (8, 6): 512, (8, 9): 512, (9, 0): 4096, (10, 0): 8192, (12, 0): 512}
)
# Compute capabilities: the oldest that CUDA 13 and so the torch wheel have code for (Turing), and
# the oldest that computes in bf16 (Ampere). torch.cuda.is_bf16_supported() is True of Turing too:
# it can hold the numbers, computes in float32, and cuDNN has no convolutions for them.
_OLDEST: Final = (7, 5)
_OLDEST_WITH_BF16: Final = (8, 0)
_CLOCK, _MULTIPROCESSORS, _MAJOR, _MINOR = 13, 16, 75, 76  # CUdevice_attribute in cuda.h
# Measured by Hugging Face for FLUX.1-dev at 1024x1024 in bf16 on an H100: the peak is 4.719 GiB
# above what the weights take, 4832 bytes a pixel (huggingface.co/blog/diffusers-quantization).
# It is the VAE's decoding. A quarter more, for VAEs that are not FLUX's.
_BYTES_A_PIXEL: Final = 6144
_DENOISING: Final = 4  # the transformer's own activations are at most this part of the decoding's


class Device(StrEnum):
    """Where the model runs. It decides precision: bf16 on cuda, float32 elsewhere; to sample, see
    `default_precision`.
    """

    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"


class DeviceChoice(StrEnum):
    """What --device takes."""

    AUTO = AUTO
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"


class Precision(StrEnum):
    """The data type that a model is sampled in."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


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


_PACKAGES: Final = MappingProxyType({Quantize.BIT8: "torchao", Quantize.BIT4: "bitsandbytes"})
_OFFLOADS: Final = (Memory.OFFLOAD, Memory.GROUP, Memory.SEQUENTIAL)


def resolve_device(name: str) -> Device:
    """Return the device of `name` ("auto": cuda, then mps, then cpu); it need not be here."""
    if name != AUTO:
        return Device(name)
    return next((device for device in (Device.CUDA, Device.MPS) if is_present(device)), Device.CPU)


def is_present(device: Device) -> bool:
    """Whether this machine has the device and the installed torch was built for it."""
    match device:
        case Device.CUDA:
            return _torch_has("libtorch_cuda.so", "torch_cuda.dll") and cuda_device_count() > 0
        case Device.MPS:
            return sys.platform == "darwin" and platform.machine() == "arm64"
        case Device.CPU:
            return True


def require_device(device: Device, numbers: Sequence[int] = (0,)) -> None:
    """Raise DeviceUnavailable unless the device is here, and torch has code for it.

    `numbers` are those of the CUDA devices to use.
    """
    if not is_present(device):
        raise DeviceUnavailable(
            f"device {device}: there is none that torch could use here",
            hint="drop --device to use what is there, or check the driver with nvidia-smi",
        )
    if device is not Device.CUDA:
        return
    driver, wheel = _driver_version(), _torch_cuda_version()
    if driver and wheel and driver[0] < wheel[0]:
        raise DeviceUnavailable(
            f"device cuda: the driver knows CUDA up to {_dotted(driver)}, torch is built for "
            f"{_dotted(wheel)}",
            hint="update NVIDIA's driver (CUDA 13 takes 580 or newer); of a rented GPU it is the "
            "host's: choose one that says CUDA 13",
        )
    for number in numbers:
        capability = _capability(number)
        if capability and capability < _OLDEST:
            raise DeviceUnavailable(
                f"device cuda:{number}: its compute capability is {_dotted(capability)}, and torch "
                f"is built for {_dotted(_OLDEST)} and newer",
                hint="use a GPU of the RTX 20 series, a T4, or a newer one; or --device cpu",
            )


def computes_in_bf16(number: int = 0) -> bool:
    """Whether a CUDA device does, rather than emulate it; a device that is not here is taken to."""
    capability = _capability(number)
    return capability is None or capability >= _OLDEST_WITH_BF16


def default_precision(device: Device, *, stays_in_fp16: bool) -> Precision:
    """Return what a model is sampled in unless told.

    float32 on the CPU, else bf16; fp16 on a CUDA device that emulates bf16, slowly, if the model's
    numbers stay within its range.
    """
    if device is Device.CPU:
        return Precision.FP32
    is_emulated = device is Device.CUDA and not computes_in_bf16()
    return Precision.FP16 if is_emulated and stays_in_fp16 else Precision.BF16


def require_compiler(device: Device) -> None:
    """Raise SetupError unless torch.compile can build for the device.

    Inductor writes C++ for the CPU, and Triton, which it uses on CUDA, builds a launcher in C.
    """
    compilers = filter(None, (os.environ.get("CXX"), os.environ.get("CC"), "g++", "gcc", "clang"))
    if not any(map(shutil.which, compilers)):
        raise SetupError(
            "--compile: there is no C++ compiler, which torch.compile needs",
            hint="install one (Debian: apt install g++), or drop --compile",
        )
    if device is Device.CUDA and find_spec("triton") is None:
        raise SetupError(
            "--compile: Triton is not installed, which torch.compile needs on CUDA",
            hint="install triton, or drop --compile",
        )


def cuda_device_count() -> int:
    """Return how many CUDA devices there are, CUDA_VISIBLE_DEVICES considered."""
    driver, count = _cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def cuda_memory(number: int = 0) -> int | None:
    """Return the bytes of memory of one CUDA device; None where there is none."""
    driver = _cuda_driver()
    device, size = ctypes.c_int(0), ctypes.c_size_t(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), number):
        return None
    return None if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value


def speed(device: Device, number: int = 0) -> float | None:
    """Return the bf16 operations a second that a CUDA device can do; of the CPU, what it does.

    A GPU's is what its multiprocessors do in a cycle, by NVIDIA's architecture papers (dense, sums
    in float32), times their number and their clock. The CPU multiplies two matrices for it, in
    float32, which takes some hundredths of a second. None where it is not known.
    """
    if device is Device.CPU:
        return _measure_cpu()
    return _reckon_cuda(number) if device is Device.CUDA else None


def pin_device(environment: Mapping[str, str], number: int | None) -> dict[str, str]:
    """Return the environment of a process that sees one of the GPUs seen here; None: as it is."""
    if number is None:
        return dict(environment)
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    one = seen.split(",")[number].strip() if seen else str(number)
    return {**environment, "CUDA_VISIBLE_DEVICES": one}


def gpu_users(number: int = 0) -> list[tuple[int, int]]:
    """Return the processes that use one CUDA device, and how many bytes each.

    NVML knows, through nvidia-ml-py of the extra `cuda`; without it the list is empty.
    """
    driver, name = _cuda_driver(), (ctypes.c_char * 16)()
    device = ctypes.c_int(0)
    if driver is None or find_spec("pynvml") is None:
        return []
    if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetUuid_v2(name, device):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{UUID(bytes=name.raw)}")
        users = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return []
    return [(int(user.pid), user.usedGpuMemory or 0) for user in users]


def cpu_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    is_cuda, moves_layers = device is Device.CUDA, memory in (Memory.GROUP, Memory.SEQUENTIAL)
    is_4bit = quantize is Quantize.BIT4
    package = _PACKAGES.get(quantize)
    lacks_package = (is_cuda or not is_4bit) and package and find_spec(package) is None
    cases = (
        (
            not is_cuda and memory in _OFFLOADS,
            DeviceUnavailable,
            f"--offload {memory}: on {device} everything is in system memory already",
            "drop --offload",
        ),
        (
            not is_cuda and is_4bit,
            DeviceUnavailable,
            "--quantize 4bit: it takes a CUDA device",
            "use --quantize 8bit",
        ),
        (
            device is Device.MPS and quantize is Quantize.FP8,
            DeviceUnavailable,
            "--quantize fp8: mps has no fp8",
            "use --quantize 8bit",
        ),
        (
            lacks_package,
            SetupError,
            f"--quantize {quantize}: {package} is not installed",
            how_to_install(package) if package else "",
        ),
        (
            # bitsandbytes keeps the scales beside the weight, where neither way of moving it sees
            # them (huggingface/diffusers#10800; hooks/group_offloading.py moves the weight alone).
            is_4bit and moves_layers,
            UsageError,
            f"--offload {memory} does not go with --quantize 4bit",
            "use --offload offload, or --quantize 8bit",
        ),
        (
            is_4bit and is_single_file,
            UsageError,
            "--quantize 4bit does not go with a transformer of a single file",
            "use --quantize 8bit",
        ),
        (
            # A compiled model's LoRAs are swapped in place, and both bring back copies made before.
            is_compiled and moves_layers,
            UsageError,
            f"--offload {memory} does not go with --compile",
            "use --offload offload",
        ),
    )
    found = [(kind, Problem(message, hint)) for is_so, kind, message, hint in cases if is_so]
    if found:
        raise found[0][0](problem for _, problem in found)


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


def _torch_has(*libraries: str) -> bool:
    spec = find_spec("torch")  # finds the package's folder, runs none of its code
    folders = (
        [Path(place) / "lib" for place in (spec.submodule_search_locations or ())] if spec else []
    )
    return any((folder / library).exists() for folder in folders for library in libraries)


def _measure_cpu() -> float:
    import numpy as np

    side = 1024
    matrix = np.ones((side, side), dtype=np.float32)
    times = []
    for _ in range(8):  # the best: the first starts threads, others are interrupted
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def _reckon_cuda(number: int) -> float | None:
    found = _attributes(number, _MAJOR, _MINOR, _MULTIPROCESSORS, _CLOCK)
    if found is None:
        return None
    major, minor, multiprocessors, kilohertz = found
    operations = _OPERATIONS_A_CYCLE.get((major, minor))
    return None if operations is None else operations * multiprocessors * kilohertz * 1e3


def _capability(number: int) -> tuple[int, ...] | None:
    return _attributes(number, _MAJOR, _MINOR)


def _attributes(number: int, *attributes: int) -> tuple[int, ...] | None:
    driver, device, value = _cuda_driver(), ctypes.c_int(0), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), number):
        return None
    found = []
    for attribute in attributes:
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        found.append(value.value)
    return tuple(found)


def _driver_version() -> tuple[int, ...] | None:
    driver, value = _cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(value)):
        return None
    return value.value // 1000, value.value % 1000 // 10


def _torch_cuda_version() -> tuple[int, ...] | None:
    spec = find_spec("torch")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place) / "version.py"
        found = (
            re.search(r"^cuda\b.*'(\d+)\.(\d+)'", file.read_text(), re.M) if file.exists() else None
        )
        if found:
            return int(found[1]), int(found[2])
    return None


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _cuda_driver() -> ctypes.CDLL | None:
    """Return the CUDA driver, ready; it honours CUDA_VISIBLE_DEVICES, as torch will."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        if driver.cuInit(0) == 0:
            return driver
    return None
