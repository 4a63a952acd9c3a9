"""Which device is taken, on a machine whose driver, torch and system are made up."""

import ctypes
import importlib
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from glance.core.device import (
    Device,
    Memory,
    Precision,
    Quantize,
    activation_bytes,
    check_memory,
    choose_memory,
    computes_in_bf16,
    default_precision,
    require_device,
    resolve_device,
)
from glance.core.errors import DeviceUnavailable, GlanceError, SetupError, UsageError

type Machine = Callable[..., None]


@dataclass(frozen=True)
class Driver:
    """libcuda, as far as counting its devices and asking what they can goes."""

    devices: int
    error: int = 0  # of cuInit
    version: int = 13000
    capability: tuple[int, int] = (9, 0)

    def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's own name
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - CUDA's own name
        count._obj.value = self.devices
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - CUDA's own name
        version._obj.value = self.version
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802 - CUDA's own name
        return 0 if number < self.devices else 101

    def cuDeviceGetAttribute(self, value: Any, which: int, _: Any) -> int:  # noqa: N802
        value._obj.value = self.capability[which - 75]
        return 0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Set what the machine has: a driver, torch built for CUDA, an Apple system."""

    def build(*, driver: Any = None, torch: bool = True, apple: bool = False) -> None:
        libraries = tmp_path / "site" / "torch" / "lib"
        libraries.mkdir(parents=True)
        (libraries.parent / "__init__.py").write_text("raise AssertionError('imported')")
        (libraries.parent / "version.py").write_text("cuda: Optional[str] = '13.0'\n")
        (libraries / ("libtorch_cuda.so" if torch else "libtorch_cpu.so")).touch()
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
        importlib.invalidate_caches()
        library = (lambda _: driver) if driver else Mock(side_effect=OSError("no libcuda.so.1"))
        monkeypatch.setattr(ctypes, "CDLL", library)
        monkeypatch.setattr(sys, "platform", "darwin" if apple else "linux")
        monkeypatch.setattr(platform, "machine", lambda: "arm64" if apple else "x86_64")

    return build


@pytest.mark.parametrize(
    ("parts", "device"),
    [
        ({}, Device.CPU),
        ({"driver": Driver(1)}, Device.CUDA),
        ({"driver": Driver(8)}, Device.CUDA),
        ({"driver": Driver(0)}, Device.CPU),
        ({"driver": Driver(1, error=100)}, Device.CPU),
        ({"driver": Driver(1), "torch": False}, Device.CPU),
        ({"apple": True}, Device.MPS),
        ({"driver": Driver(1), "apple": True}, Device.CUDA),
    ],
)
def test_auto_takes_the_best_that_torch_can_use(
    parts: dict[str, Any], device: Device, machine: Machine
) -> None:
    machine(**parts)
    assert resolve_device("auto") is device
    assert [resolve_device(name.value) for name in Device] == list(Device), "here or not"


def test_absent_device_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=Driver(1))
    monkeypatch.setattr(sys, "path", [])  # there is no torch
    importlib.invalidate_caches()
    require_device(Device.CPU)
    for device in (Device.CUDA, Device.MPS):
        with pytest.raises(DeviceUnavailable, match=f"^device {device}: there is none that torch"):
            require_device(device)


@pytest.mark.parametrize(
    ("driver", "fault"),
    [
        (Driver(1, version=13020), None),
        (Driver(1, version=14000, capability=(7, 5)), None),
        (Driver(1, version=12080), "the driver knows CUDA up to 12.8, torch is built for 13.0$"),
        (Driver(2, capability=(7, 0)), "cuda:1: its compute capability is 7.0, and torch is built"),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_refused(
    driver: Driver, fault: str | None, machine: Machine
) -> None:
    machine(driver=driver)

    if fault is None:
        require_device(Device.CUDA)
    else:
        with pytest.raises(DeviceUnavailable, match=fault):
            require_device(Device.CUDA, [1])


@pytest.mark.parametrize(
    ("capability", "emulates", "precision"),
    [((7, 5), True, Precision.FP16), ((8, 6), False, Precision.BF16)],
)
def test_a_gpu_without_bf16_samples_in_fp16(
    capability: tuple[int, int], emulates: bool, precision: Precision, machine: Machine
) -> None:
    machine(driver=Driver(1, capability=capability))

    assert computes_in_bf16() is not emulates
    assert computes_in_bf16(7), "one that is not here"
    assert default_precision(Device.CUDA, stays_in_fp16=True) is precision
    assert default_precision(Device.CUDA, stays_in_fp16=False) is Precision.BF16
    assert default_precision(Device.CPU, stays_in_fp16=True) is Precision.FP32
    assert default_precision(Device.MPS, stays_in_fp16=True) is Precision.BF16


GIB = 2**30
# FLUX.1-dev, by huggingface.co/blog/diffusers-quantization
MB = 10**6
FLUX = {"transformer": 23_800 * MB, "text_encoder": 246 * MB, "text_encoder_2": 9_520 * MB}
FLUX |= {"vae": 168 * MB}
FLUX_8BIT = FLUX | {"transformer": 11_900 * MB, "text_encoder_2": 4_900 * MB}


@pytest.mark.parametrize(
    ("gib", "sizes", "expected"),
    [
        (79, FLUX, Memory.FULL),
        (47, FLUX, Memory.FULL),
        (31, FLUX, Memory.OFFLOAD),
        (23.5, FLUX, Memory.GROUP),
        (23.5, FLUX_8BIT, Memory.FULL),
        (15.5, FLUX_8BIT, Memory.OFFLOAD),
        (11.5, FLUX_8BIT, Memory.GROUP),
    ],
)
def test_the_quickest_fit_is_taken(gib: float, sizes: dict[str, int], expected: Memory) -> None:
    activations = activation_bytes(1024 * 1024)

    assert choose_memory(sizes, free=int(gib * GIB), activations=activations) is expected


def test_the_estimate_covers_the_measured_peaks() -> None:
    activations = activation_bytes(1024 * 1024)

    bf16, int8 = (sum(sizes.values()) + activations for sizes in (FLUX, FLUX_8BIT))

    assert 36.166 * GIB <= bf16 <= 1.1 * 36.166 * GIB
    assert 21.482 * GIB <= int8 <= 1.1 * 21.482 * GIB


@pytest.mark.parametrize(
    ("sizes", "free", "expected"),
    [
        ({"transformer": 80, "text_encoder": 40}, 160, Memory.FULL),
        ({"transformer": 80, "text_encoder": 40}, 159, Memory.OFFLOAD),
        ({"transformer": 30, "text_encoder": 30, "vae": 10}, 50, Memory.OFFLOAD),
        ({"transformer": 30, "text_encoder": 30, "vae": 10}, 49, Memory.GROUP),  # for decoding
    ],
)
def test_what_just_fits_fits(sizes: dict[str, int], free: int, expected: Memory) -> None:
    assert choose_memory(sizes, free=free, activations=40) is expected


def test_activations_grow_with_the_picture_and_with_the_precision() -> None:
    small = activation_bytes(512 * 512)

    assert activation_bytes(1024 * 1024) == 4 * small
    assert activation_bytes(512 * 512, number_bytes=4) == 2 * small


@pytest.fixture
def has_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bitsandbytes.py").touch()
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("has_bitsandbytes")
@pytest.mark.parametrize(
    ("memory", "quantize", "device", "more", "kind", "said"),
    [
        *(
            (memory, "none", device, "", DeviceUnavailable, f"{device} everything is in system")
            for memory in ("offload", "group", "sequential")
            for device in ("cpu", "mps")
        ),
        ("auto", "4bit", "cpu", "", DeviceUnavailable, "4bit: it takes a CUDA"),
        ("auto", "4bit", "mps", "", DeviceUnavailable, "4bit: it takes a CUDA"),
        ("auto", "fp8", "mps", "", DeviceUnavailable, "fp8: mps has no fp8"),
        ("group", "4bit", "cuda", "", UsageError, "group does not go with --quantize"),
        ("sequential", "4bit", "cuda", "", UsageError, "sequential does not go with --quantize"),
        ("auto", "4bit", "cuda", "is_single_file", UsageError, "4bit does not go with a transf"),
        ("group", "none", "cuda", "is_compiled", UsageError, "group does not go with --compile"),
        ("sequential", "none", "cuda", "is_compiled", UsageError, "not go with --compile"),
    ],
)
def test_what_does_not_go_together_is_refused(
    memory: str, quantize: str, device: str, more: str, kind: type[GlanceError], said: str
) -> None:
    flags = {more: True} if more else {}
    with pytest.raises(kind, match=said) as refused:
        check_memory(Memory(memory), Quantize(quantize), Device(device), **flags)

    (problem,) = refused.value.problems
    assert (problem.hint or "").startswith(("drop --offload", "use --"))


@pytest.mark.usefixtures("has_bitsandbytes")
def test_the_rest_goes_together() -> None:
    for quantize in (Quantize.NONE, Quantize.BIT8, Quantize.FP8):
        for memory in Memory:
            check_memory(memory, quantize, Device.CUDA)
        for memory in (Memory.AUTO, Memory.FULL):
            check_memory(memory, quantize, Device.CPU)
    for memory in (Memory.AUTO, Memory.FULL, Memory.OFFLOAD):
        check_memory(memory, Quantize.BIT4, Device.CUDA)
    check_memory(Memory.AUTO, Quantize.BIT8, Device.CUDA, is_single_file=True)
    check_memory(Memory.OFFLOAD, Quantize.NONE, Device.CUDA, is_compiled=True)


@pytest.mark.parametrize(
    ("quantize", "package", "command"),
    [
        (Quantize.BIT4, "bitsandbytes", "in glance's clone: uv sync --extra cuda"),
        (Quantize.BIT8, "torchao", "in glance's clone: uv sync"),
    ],
)
def test_a_missing_package_is_named(
    quantize: Quantize, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SetupError, match=f"{package} is not installed") as refused:
        check_memory(Memory.AUTO, quantize, Device.CUDA)

    assert refused.value.problems[0].hint == command


def test_all_that_is_wrong_is_listed() -> None:
    with pytest.raises(DeviceUnavailable) as refused:
        check_memory(Memory.GROUP, Quantize.BIT4, Device.CPU, is_single_file=True)

    assert [problem.message for problem in refused.value.problems] == [
        "--offload group: on cpu everything is in system memory already",
        "--quantize 4bit: it takes a CUDA device",
        "--offload group does not go with --quantize 4bit",
        "--quantize 4bit does not go with a transformer of a single file",
    ]
