"""What kind of machine this is, and which versions are installed: nothing that says whose it is."""

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from benchmarks.rounds import call
from glance import __version__
from glance.core.device import Device, cuda_memory

_PACKAGES: Final = ("torch", "diffusers", "simpletuner")
_ASK_TORCH: Final = "import torch; print(torch.cuda.get_device_name(0))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A kind of machine: two of a kind have equal descriptions."""

    system: str
    processor: str
    cores: int
    """That this process may use."""
    memory_gb: int
    gpu: str | None = None
    """None where the model ran on the processor."""
    gpu_memory_gb: int | None = None

    @property
    def kind(self) -> str:
        """`cpu`, or the GPU's name, as part of a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", (self.gpu or "cpu").lower()).strip("-")


def describe_machine(device: Device) -> Machine:
    """Describe this machine as far as a model on `device` has to do with it."""
    memory = cuda_memory() if device is Device.CUDA else None
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=_cores(),
        memory_gb=round(psutil.virtual_memory().total / 1e9),
        # torch is asked in a process of its own: children's memory is measured from ours upwards
        gpu=call([sys.executable, "-c", _ASK_TORCH]).strip() if device is Device.CUDA else None,
        gpu_memory_gb=None if memory is None else round(memory / 1e9),
    )


def installed_versions() -> Mapping[str, str]:
    """Return the versions of what is measured and of what it stands on."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"glance": __version__, "python": platform.python_version(), **packages}


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        facts = ""
    named = re.search(r"^model name\s*: (.+)$", facts, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
