"""What a training needs of this machine, checked before it starts: all at once, with remedies."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Final

import psutil
from packaging.requirements import Requirement

from glance.core.device import (
    CUDA_EXTRA,
    Device,
    cuda_device_count,
    cuda_memory,
    gpu_users,
    require_device,
)
from glance.core.errors import DeviceUnavailable, ModelNotFound, Problem, SetupError
from glance.core.files import state_folder
from glance.core.hub import cache_folder, check_access, is_offline
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.settings import TrainSettings
from glance.training.request import Launcher
from glance.training.simpletuner.command import find_program
from glance.training.simpletuner.estimates import BITSANDBYTES, estimate, memory_options

_DISTRIBUTION: Final = "glance-lora"
_PYTHON: Final = ((3, 12), (3, 14))
_SYNC: Final = "in glance's clone: uv sync"
_GIGA: Final = 1e9
_MUCH_OF_THE_CARD: Final = 0.5  # gigabytes: more than a desktop's programs take each


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    outcome: Outcome
    message: str
    hint: str | None = None
    name: str = ""
    error: type[SetupError] = SetupError
    """What a failure is raised as."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training to come."""

    settings: TrainSettings
    run: RunFolder
    launcher: Launcher
    hub_models: tuple[str, ...]
    devices: tuple[int, ...] = (0,)
    """One of them for each phase that is trained at the same time."""
    recorded_bytes: int = 0
    """What is recorded of the base model before the trainer starts."""


def examine(job: Job) -> tuple[Check, ...]:
    """Look at everything; raise nothing."""
    looks: dict[str, Callable[[Job], Iterator[Check]]] = {
        "python": _look_at_python,
        "packages": _look_at_packages,
        "simpletuner": _look_at_simpletuner,
        "device": _look_at_the_device,
        "memory": _look_at_memory,
        "disk": _look_at_the_disk,
        "model": _look_at_the_model,
    }
    found: list[Check] = []
    for name, look in looks.items():
        try:
            found.extend(replace(check, name=name) for check in look(job))
        except SetupError as exc:
            found.extend(
                Check(Outcome.FAILURE, problem.message, problem.hint, name, type(exc))
                for problem in exc.problems
            )
    return tuple(found)


def require(job: Job) -> tuple[Problem, ...]:
    """Return the warnings; raise SetupError, or what it is in particular, for the failures."""
    checks = examine(job)
    failures = [check for check in checks if check.outcome is Outcome.FAILURE]
    if failures:
        kinds = {check.error for check in failures}
        kind = kinds.pop() if len(kinds) == 1 else SetupError
        raise kind([Problem(check.message, check.hint) for check in failures])
    warnings = [check for check in checks if check.outcome is Outcome.WARNING]
    return tuple(Problem(check.message, check.hint) for check in warnings)


def _ok(message: str) -> Check:
    return Check(Outcome.OK, message)


def _warning(message: str, hint: str) -> Check:
    return Check(Outcome.WARNING, message, hint)


def _failure(message: str, hint: str) -> Check:
    return Check(Outcome.FAILURE, message, hint)


def _look_at_python(_: Job) -> Iterator[Check]:
    first, end = _PYTHON
    if os.name != "posix":
        yield _failure("training needs POSIX processes", "on Windows run glance inside WSL 2")
    if not first <= sys.version_info[:2] < end:
        yield _failure(
            f"Python {python_version()}: SimpleTuner with a list of timesteps needs 3.12 or 3.13",
            "make an environment with Python 3.12",
        )
    else:
        yield _ok(f"Python {python_version()}")


def _look_at_packages(_: Job) -> Iterator[Check]:
    """Compare what is installed with what fits together: our own pins."""
    wanted = [Requirement(text) for text in requires(_DISTRIBUTION) or ()]
    pinned = [one for one in wanted if "==" in str(one.specifier) and one.marker is None]
    is_sound = True
    for one in pinned:
        try:
            there = version(one.name)
        except PackageNotFoundError:
            is_sound = False
            yield _failure(f"{one.name} is not installed", _SYNC)
            continue
        if not one.specifier.contains(there, prereleases=True):
            is_sound = False
            yield _warning(
                f"{one.name} {there} is installed, glance was proven with {one.specifier}",
                _SYNC,
            )
    if is_sound:
        yield _ok(", ".join(f"{one.name} {version(one.name)}" for one in pinned))


def _look_at_simpletuner(job: Job) -> Iterator[Check]:
    yield _ok(f"started as {find_program(job.launcher)}")
    options = {**memory_options(job.settings), **job.settings.overrides}
    if BITSANDBYTES in options.values() and find_spec("bitsandbytes") is None:
        yield _failure(
            f"{BITSANDBYTES} needs the package bitsandbytes",
            f"{CUDA_EXTRA}; or --set base_model_precision=int4-quanto",
        )


def _look_at_the_device(job: Job) -> Iterator[Check]:
    settings = job.settings
    require_device(settings.device)
    if settings.device is Device.MPS and not find_family(settings.family).trains_on_mps:
        raise DeviceUnavailable(
            f"SimpleTuner does not train {settings.family} on Apple GPUs",
            hint="use --device cpu (slow), or a machine with an NVIDIA GPU",
        )
    if settings.device is not Device.CUDA:
        yield _ok(str(settings.device))
        return
    for number in sorted(set(job.devices)):
        yield from _look_at_card(job, number)


def _look_at_card(job: Job, number: int) -> Iterator[Check]:
    memory, settings = cuda_memory(number), job.settings
    if memory is None:
        raise DeviceUnavailable(
            f"--gpu-ids: there is no accelerator {number}",
            hint=f"there are {cuda_device_count()}, counted from 0",
        )
    yield _ok(f"{settings.device}:{number}, {memory / _GIGA:.1f} GB")
    needed = (estimate(settings).gpu or 0) * job.devices.count(number)
    if settings.weights.known and needed * _GIGA > memory:
        yield _warning(
            f"the training takes about {needed:g} GB of the card, which has {memory / _GIGA:.1f}",
            "use --vram auto, a smaller --resolution, or a smaller model (docs/memory.md)",
        )
    for pid, taken in gpu_users(number):
        if taken / _GIGA > _MUCH_OF_THE_CARD:
            yield _warning(
                f"process {pid} uses {taken / _GIGA:.1f} GB of the card",
                "end it if you can do without",
            )


def _look_at_memory(job: Job) -> Iterator[Check]:
    settings, needed = job.settings, estimate(job.settings).system * len(job.devices)
    there = system_memory()
    alone = 4 * settings.weights.transformer * len(job.devices)
    with_swap = (there + psutil.swap_memory().total) / _GIGA
    if not settings.weights.known:
        yield _ok(f"{there / _GIGA:.1f} GB of system memory; the model's size is not known")
    elif settings.device is Device.CPU and alone > with_swap:
        yield _failure(
            f"the transformer alone takes {alone:.0f} GB in float32, "
            f"and the system has {with_swap:.0f} with its swap",
            "train a smaller model, or on a GPU",
        )
    elif needed * _GIGA > there:
        yield _warning(
            f"the training takes about {needed:g} GB of system memory, and there are "
            f"{there / _GIGA:.1f}",
            "close other programs, add swap; with a larger card --vram 48 needs less",
        )
    else:
        yield _ok(f"{there / _GIGA:.1f} GB of system memory")


def _look_at_the_disk(job: Job) -> Iterator[Check]:
    needed = estimate(job.settings).disk + job.recorded_bytes / _GIGA
    if job.settings.transformer is not None:
        needed += 2 * job.settings.weights.transformer  # in SimpleTuner's layout, until it is done
    for what, folder in (("the run", job.run.path), ("glance's key", state_folder())):
        there = _existing(folder)
        if not (there.is_dir() and os.access(there, os.W_OK)):
            yield _failure(
                f"cannot write {folder}, where {what} goes",
                "choose a place for --run that you may write to"
                if folder == job.run.path
                else "set XDG_STATE_HOME to a folder that you may write to",
            )
    free = shutil.disk_usage(_existing(job.run.path)).free / _GIGA
    if needed > free:
        yield _failure(
            f"the run takes about {needed:.1f} GB, and there are {free:.1f} free",
            "free some space, or give --run a place on another disk",
        )
    else:
        yield _ok(f"{free:.1f} GB free for the run")


def _look_at_the_model(job: Job) -> Iterator[Check]:
    if not job.hub_models:
        yield _ok(f"on the disk: {job.settings.model}")
    for model in job.hub_models:
        doubt = check_access(model)
        if doubt is None:
            yield _ok(f"{model} can be had; the cache is {cache_folder()}")
        elif is_offline():
            raise ModelNotFound(doubt, hint="unset HF_HUB_OFFLINE, or give --model a folder")
        else:
            yield _warning(doubt, "SimpleTuner will try again")


def system_memory() -> int:
    """Return the bytes of memory that this process may use: a container's limit counts."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit: the file says "max"
        return total
    return min(total, limit)


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
