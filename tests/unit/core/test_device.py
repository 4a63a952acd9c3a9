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

from glance.core.device import Device, is_present, require_device, resolve_device
from glance.core.errors import DeviceUnavailable

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
