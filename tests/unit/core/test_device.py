"""Which device is taken, on a machine whose driver, torch and system are made up."""

import ctypes
import importlib
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from glance.core.device import (
    Device,
    Memory,
    Quantize,
    activation_bytes,
    check_memory,
    choose_memory,
    is_present,
    require_device,
    resolve_device,
)
from glance.core.errors import DeviceUnavailable, SetupError, UsageError

type Machine = Callable[..., None]


@dataclass(frozen=True)
class Driver:
    """libcuda, as far as counting goes."""

    devices: int
    error: int = 0  # of cuInit

    def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's own name
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - CUDA's own name
        count._obj.value = self.devices
        return 0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Set what the machine has: a driver, torch built for CUDA, an Apple system."""

    def load(driver: Driver | None) -> Driver:
        if driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return driver

    def build(*, driver: Driver | None = None, torch: bool = True, apple: bool = False) -> None:
        libraries = tmp_path / "site" / "torch" / "lib"
        libraries.mkdir(parents=True)
        (libraries.parent / "__init__.py").write_text("raise AssertionError('imported')")
        (libraries / ("libtorch_cuda.so" if torch else "libtorch_cpu.so")).touch()
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
        importlib.invalidate_caches()
        monkeypatch.setattr(ctypes, "CDLL", lambda name: load(driver))
        monkeypatch.setattr(sys, "platform", "darwin" if apple else "linux")
        monkeypatch.setattr(platform, "machine", lambda: "arm64" if apple else "x86_64")

    return build


@pytest.mark.parametrize("device", Device)
def test_named_device_is_taken_whether_it_is_here_or_not(device: Device, machine: Machine) -> None:
    machine()
    assert resolve_device(device.value) is device


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


def test_cuda_is_absent_without_torch(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=Driver(1))
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    assert not is_present(Device.CUDA)


@pytest.mark.parametrize("device", [Device.CUDA, Device.MPS])
def test_device_that_is_not_here_is_refused(device: Device, machine: Machine) -> None:
    machine()
    with pytest.raises(DeviceUnavailable, match=f"^device {device}: there is none that torch"):
        require_device(device)


def test_cpu_is_always_here(machine: Machine) -> None:
    machine()
    require_device(Device.CPU)
    assert is_present(Device.CPU)


GIB = 2**30
# FLUX.1-dev, by huggingface.co/blog/diffusers-quantization
FLUX = {
    "transformer": 23_800_000_000,
    "text_encoder": 246_000_000,
    "text_encoder_2": 9_520_000_000,
    "vae": 168_000_000,
}
FLUX_8BIT = FLUX | {"transformer": 11_900_000_000, "text_encoder_2": 4_900_000_000}


@pytest.fixture
def has_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bitsandbytes.py").touch()
    monkeypatch.syspath_prepend(tmp_path)


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
def test_a_card_gets_the_quickest_that_fits(
    gib: float, sizes: dict[str, int], expected: Memory
) -> None:
    activations = activation_bytes(1024 * 1024)

    assert choose_memory(sizes, free=int(gib * GIB), activations=activations) is expected


def test_the_estimate_covers_the_measured_peaks() -> None:
    activations = activation_bytes(1024 * 1024)

    bf16, int8 = (sum(sizes.values()) + activations for sizes in (FLUX, FLUX_8BIT))

    assert 36.166 * GIB <= bf16 <= 1.1 * 36.166 * GIB
    assert 21.482 * GIB <= int8 <= 1.1 * 21.482 * GIB


@pytest.mark.parametrize(("free", "expected"), [(160, Memory.FULL), (159, Memory.OFFLOAD)])
def test_what_just_fits_fits(free: int, expected: Memory) -> None:
    sizes = {"transformer": 80, "text_encoder": 40}

    assert choose_memory(sizes, free=free, activations=40) is expected


def test_decoding_must_fit_beside_the_vae() -> None:
    sizes = {"transformer": 30, "text_encoder": 30, "vae": 10}

    assert choose_memory(sizes, free=50, activations=40) is Memory.OFFLOAD
    assert choose_memory(sizes, free=49, activations=40) is Memory.GROUP


def test_activations_grow_with_the_picture_and_with_the_precision() -> None:
    small = activation_bytes(512 * 512)

    assert activation_bytes(1024 * 1024) == 4 * small
    assert activation_bytes(512 * 512, number_bytes=4) == 2 * small


@pytest.mark.parametrize("memory", [Memory.OFFLOAD, Memory.GROUP, Memory.SEQUENTIAL])
@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_offloading_is_refused_where_there_is_one_memory(memory: Memory, device: Device) -> None:
    with pytest.raises(DeviceUnavailable, match=f"on {device} everything is in system") as refused:
        check_memory(memory, Quantize.NONE, device)

    assert refused.value.problems[0].hint == "drop --offload"


@pytest.mark.parametrize("memory", [Memory.AUTO, Memory.FULL])
@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.BIT8, Quantize.FP8])
def test_a_cpu_can_quantize_to_eight_bits(memory: Memory, quantize: Quantize) -> None:
    check_memory(memory, quantize, Device.CPU)


@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_four_bits_need_cuda_whatever_is_installed(device: Device) -> None:
    with pytest.raises(DeviceUnavailable, match="4bit: it takes a CUDA device") as refused:
        check_memory(Memory.AUTO, Quantize.BIT4, device)

    assert [problem.hint for problem in refused.value.problems] == ["use --quantize 8bit"]


def test_mps_has_no_fp8() -> None:
    with pytest.raises(DeviceUnavailable, match="fp8: mps has no fp8"):
        check_memory(Memory.AUTO, Quantize.FP8, Device.MPS)


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


@pytest.mark.usefixtures("has_bitsandbytes")
@pytest.mark.parametrize("memory", [Memory.GROUP, Memory.SEQUENTIAL])
def test_four_bits_are_not_moved_in_pieces(memory: Memory) -> None:
    with pytest.raises(UsageError, match=f"{memory} does not go with --quantize 4bit"):
        check_memory(memory, Quantize.BIT4, Device.CUDA)


@pytest.mark.usefixtures("has_bitsandbytes")
@pytest.mark.parametrize("memory", [Memory.AUTO, Memory.FULL, Memory.OFFLOAD])
def test_four_bits_are_moved_whole(memory: Memory) -> None:
    check_memory(memory, Quantize.BIT4, Device.CUDA)


@pytest.mark.usefixtures("has_bitsandbytes")
def test_four_bits_are_not_made_of_a_single_file() -> None:
    check_memory(Memory.AUTO, Quantize.BIT8, Device.CUDA, is_single_file=True)

    with pytest.raises(UsageError, match="4bit does not go with a transformer of a single file"):
        check_memory(Memory.AUTO, Quantize.BIT4, Device.CUDA, is_single_file=True)


@pytest.mark.parametrize("memory", Memory)
@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.BIT8, Quantize.FP8])
def test_the_rest_goes_together_on_cuda(memory: Memory, quantize: Quantize) -> None:
    check_memory(memory, quantize, Device.CUDA)


def test_all_that_is_wrong_is_listed() -> None:
    with pytest.raises(DeviceUnavailable) as refused:
        check_memory(Memory.GROUP, Quantize.BIT4, Device.CPU, is_single_file=True)

    assert [problem.message for problem in refused.value.problems] == [
        "--offload group: on cpu everything is in system memory already",
        "--quantize 4bit: it takes a CUDA device",
        "--offload group does not go with --quantize 4bit",
        "--quantize 4bit does not go with a transformer of a single file",
    ]


@pytest.mark.parametrize("memory", [Memory.GROUP, Memory.SEQUENTIAL])
def test_what_is_compiled_is_not_moved_in_pieces(memory: Memory) -> None:
    check_memory(Memory.OFFLOAD, Quantize.NONE, Device.CUDA, is_compiled=True)

    with pytest.raises(UsageError, match=f"{memory} does not go with --compile"):
        check_memory(memory, Quantize.NONE, Device.CUDA, is_compiled=True)
