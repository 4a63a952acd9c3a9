"""What a training takes of a machine: estimated, made to fit the card, checked before it starts.

Memory: SimpleTuner's documentation's figures, as a line through them: gigabytes (1e9 bytes) are
`bytes_a_parameter` times the billions of parameters, plus what does not depend on them. FLUX.1
(11.9 B): 30, 18 and 9 GB (FLUX.md); Krea 2 (12.8 B) at 1024: 35.7 and 21.8 measured on an H100, at
512: 33.4 and 19.4 (KREA2.md); Chroma1 (8.9 B): 28, 16 and 8 (CHROMA.md). Nothing here was run on a
card by glance: every preset is unproven.

Time: a step multiplies each token with each parameter: 2 operations forward, 2 backward to the
activations (the parameters themselves are frozen), and with gradient checkpointing 2 to go forward
again. Devices reach a part of their speed. On a GPU it is that of SimpleTuner's figures for Krea 2
on an H100 (KREA2.md: 0.353 and 0.990 s a step in bf16 at 512 and 1024, 0.535 and 1.330 s in int8),
on the CPU that of benchmarks/memory.py.
"""

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any, Final, NamedTuple

import psutil
from packaging.requirements import Requirement

from glance.core.device import (
    Device,
    computes_in_bf16,
    cuda_device_count,
    cuda_memory,
    gpu_users,
    require_device,
)
from glance.core.errors import (
    DeviceUnavailable,
    ModelNotFound,
    Problem,
    SetupError,
    SimpleTunerNotFound,
)
from glance.core.events import format_duration
from glance.core.files import find_place, is_there, state_folder
from glance.core.hub import cache_folder, check_access, is_offline
from glance.core.install import how_to_install
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.settings import Preset, TrainSettings
from glance.training.request import Launcher

_GIGA: Final = 1e9
_SMALL_ENCODER: Final = 1.0  # billions of parameters: not worth quantising
_TOKEN: Final = 16  # pixels of its side: 8 a latent, two latents a token
_TIGHT: Final = (Preset.GB8, Preset.GB12, Preset.GB16)


class _Method(NamedTuple):
    """How the weights are held."""

    precision: str
    bytes_a_parameter: float
    fixed: float
    """Gigabytes that are there whatever the model: CUDA, LoRA, optimizer, buffers."""
    room: float
    """How much of the card it may fill to be chosen: the first has smaller means behind it."""


_BITSANDBYTES: Final = "nf4-bnb"
_AS_IT_IS: Final = _Method("no_change", 2.0, 6.0, 0.85)
_INT8: Final = _Method("int8-quanto", 1.0, 6.0, 1.0)
_NF4: Final = _Method(_BITSANDBYTES, 0.53, 2.0, 1.0)  # 4 bits, and a scale for each 64
_METHODS: Final = (_AS_IT_IS, _INT8, _NF4)
_SHARD: Final = 10.0  # gigabytes of a file of weights, at most, as the Hub's are


def memory_options(settings: TrainSettings) -> Mapping[str, Any]:
    """Return SimpleTuner's options that make the training fit the preset's card."""
    if settings.device is not Device.CUDA:
        return {"base_model_precision": "no_change"}
    preset, method = settings.preset, _choose_method(settings)
    text_precision = _choose_text_method(settings).precision
    options: dict[str, Any] = {"base_model_precision": method.precision}
    if method is _INT8:  # bitsandbytes quantises on the card as it loads, whatever is said here
        # On the card only where the unquantised model fits there, as in SimpleTuner's FLUX example:
        # in bf16 FLUX (23.8 GB) does not fit on 24. On the CPU it takes about 50 GB of memory.
        fits_whole = 2 * settings.weights.transformer + 2 <= _budget(preset)
        options["quantize_via"] = "accelerator" if fits_whole else "cpu"
    if text_precision != _AS_IT_IS.precision:
        options |= {
            f"text_encoder_{number}_precision": text_precision
            for number, billions in enumerate(settings.weights.text_encoders, 1)
            if billions > _SMALL_ENCODER
        }
    if preset in _TIGHT or text_precision != _AS_IT_IS.precision:
        options["offload_during_startup"] = True  # text encoders and VAE are there in turn
    if preset in _TIGHT:
        options["vae_enable_tiling"] = True  # the image is encoded piece by piece
    return options


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training takes, in gigabytes (1e9 bytes)."""

    gpu: float | None
    """At most at any time; None without a GPU."""
    system: float
    """At most at any time."""
    disk: float
    """Of the run folder, the cached model not counted."""

    def to_json(self) -> dict[str, float | None]:
        """Return what `--dry-run --json` says."""
        return {"gpu_gb": self.gpu, "system_gb": self.system, "disk_gb": self.disk}


def estimate(settings: TrainSettings) -> Estimate:
    """Return the memory that the training takes."""
    weights, options = settings.weights, {**memory_options(settings), **settings.overrides}
    disk = 1.5 * settings.rank / 32 * max(weights.transformer, 0.1) / 12
    if settings.device is not Device.CUDA:
        return Estimate(None, round(_on_the_cpu(settings), 1), round(disk, 1))
    method = _overridden(settings) or _choose_method(settings)
    gpu = max(_training(settings, method), _encoding(settings, _choose_text_method(settings)))
    transformer = 2.0 * weights.transformer
    if method.precision == _BITSANDBYTES:
        transformer = min(transformer, _SHARD)  # each layer goes to the card as it is quantised
    elif options.get("quantize_via") == "cpu":
        transformer = 4.2 * weights.transformer  # about 50 GB for FLUX, says SimpleTuner's FLUX.md
    largest = max(transformer, 2 * max(weights.text_encoders, default=0))
    return Estimate(round(gpu, 1), round(largest + 4, 1), round(disk, 1))


def describe_estimate(settings: TrainSettings) -> str:
    """Say in a line what the training takes."""
    found, preset = estimate(settings), settings.preset
    card = (
        "" if found.gpu is None else f"{found.gpu:g} GB of the card (preset {preset}, unproven), "
    )
    rest = f"{found.system:g} GB of system memory, {found.disk:g} GB on the disk for the run"
    return f"estimate: {card}{rest}"


def seconds_a_step(settings: TrainSettings, speed: float) -> float:
    """Return what one step takes on a device of `speed` operations a second."""
    parameters = settings.weights.transformer * 1e9
    operations = 4 if settings.device is Device.CPU else 6  # there activations are kept
    family = find_family(settings.family)
    areas = (settings.resolution, *settings.also_resolutions)
    image = sum((side / _TOKEN) ** 2 for side in areas) / len(areas)  # in tokens
    tokens = settings.batch_size * (image * (2 if family.edits else 1) + family.text.tokens)
    return operations * parameters * tokens / (_reached(settings) * speed)


def describe_duration(settings: TrainSettings, phases: int, speed: float | None) -> str:
    """Say in a line how long the steps take."""
    if speed is None or not settings.weights.known:
        return "estimate: how long a step takes is not known for this device and model"
    pace = seconds_a_step(settings, speed)
    whole = format_duration(pace * settings.steps * phases)
    doubt = ", unproven" if settings.device is Device.CUDA else ""
    shown = f"{pace:.2f} s a step{doubt}, {whole} for {phases} x {settings.steps} steps in turn"
    return f"estimate: {shown}; each start of SimpleTuner comes on top"


def _on_the_cpu(settings: TrainSettings) -> float:
    """In float32, activations kept: a line through what benchmarks/memory.py measured.

    Activations grow with width and depth, which is about the parameters to the power of 3/4.
    """
    weights = settings.weights
    a_sample = 15.4 * math.pow(weights.transformer, 0.75) * (settings.resolution / 1024) ** 2
    activations = settings.samples_at_once * a_sample
    return 4 * (weights.transformer + sum(weights.text_encoders)) + 1.5 + activations


def _choose_method(settings: TrainSettings) -> _Method:
    """Return the one that changes the model least and fits; the smallest when none does."""
    for method in _METHODS:
        if _training(settings, method) <= method.room * _budget(settings.preset):
            return method
    return _METHODS[-1]


def _overridden(settings: TrainSettings) -> _Method | None:
    """Return what an own precision amounts to, by the bits in its name: int4-quanto, nf4-bnb."""
    precision = settings.overrides.get("base_model_precision")
    if precision is None:
        return None
    bits = re.search(r"\d+", str(precision))
    known = (method for method in _METHODS if method.precision == precision)
    size = int(bits[0]) / 8 if bits else 2.0
    return next(known, _Method(str(precision), size, 6.0, 1.0))


def _choose_text_method(settings: TrainSettings) -> _Method:
    """Return the first that fits, of those that SimpleTuner 4.10 heeds beside the base model's.

    Beside a base model in nf4 it quantises no text encoder by quanto (Trainer.init_precision
    returns), only by bitsandbytes while loading; FLUX.2's own loader does not do that either
    (helpers/models/flux2/model.py). Quanto and torchao at once are an error.
    """
    base = (_overridden(settings) or _choose_method(settings)).precision
    methods = [_AS_IT_IS]
    if base == _BITSANDBYTES and find_family(settings.family).text.trains_in_nf4:
        methods.append(_NF4)
    elif base == _AS_IT_IS.precision or "quanto" in base:
        methods.append(_INT8)
    fitting = (one for one in methods if _encoding(settings, one) <= _budget(settings.preset))
    return next(fitting, methods[-1])


def _training(settings: TrainSettings, method: _Method) -> float:
    weights = method.bytes_a_parameter * settings.weights.transformer
    pictures = 2 if find_family(settings.family).edits else 1  # the reference is seen as well
    # gigabytes a sample at 1024 x 1024 with gradient checkpointing
    activations = 3.0 * settings.samples_at_once * pictures * (settings.resolution / 1024) ** 2
    return weights + method.fixed + activations


def _encoding(settings: TrainSettings, method: _Method) -> float:
    """While the caption is encoded: all text encoders, small ones never quantised."""
    size, encoders = method.bytes_a_parameter, settings.weights.text_encoders
    return sum(one * (size if one > _SMALL_ENCODER else 2.0) for one in encoders) + 1.0


def _budget(preset: Preset) -> float:
    return preset.gibibytes * 2**30 / _GIGA - 1.0  # what a desktop takes of a card


def _reached(settings: TrainSettings) -> float:
    """Which part of the device's speed: see above."""
    if settings.device is Device.CPU:
        return 1.1  # of what numpy does: torch multiplies a little faster
    options = {**memory_options(settings), **settings.overrides}
    is_quantised = options["base_model_precision"] != "no_change"
    return 0.25 if is_quantised else 0.35  # 221 and 266, 334 and 357 of the H100's 989 teraflops


# --- what may be missing -------------------------------------------------------------------------

_PROGRAM: Final = "simpletuner"
_WAITING: Final = 1.5  # gigabytes: what a process that has imported SimpleTuner may take
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


def find_program(launcher: Launcher) -> Path:
    """Return what the command line begins with: the `simpletuner` command, or our interpreter.

    The command comes from PATH, else from beside our interpreter. Raises SimpleTunerNotFound.
    """
    if launcher is Launcher.DIRECT:
        if find_spec(_PROGRAM) is None:
            raise SimpleTunerNotFound(
                f"there is no package {_PROGRAM} in glance's own environment, {sys.prefix}",
                hint="leave out --launcher direct, or install it there",
            )
        return Path(sys.executable)
    scripts = Path(sys.executable).parent
    found = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=str(scripts))
    if found is None:
        raise SimpleTunerNotFound(
            f"there is no `{_PROGRAM}` command on PATH or in {scripts}",
            hint=how_to_install(_PROGRAM),
        )
    return Path(found).absolute()  # it is started in another folder


def _ok(message: str) -> Check:
    return Check(Outcome.OK, message)


def _warning(message: str, hint: str) -> Check:
    return Check(Outcome.WARNING, message, hint)


def _failure(message: str, hint: str) -> Check:
    return Check(Outcome.FAILURE, message, hint)


def _look_at_python(_: Job) -> Iterator[Check]:
    if os.name != "posix":
        yield _failure("training needs POSIX processes", "on Windows run glance inside WSL 2")
    if not (3, 12) <= sys.version_info[:2] < (3, 14):
        yield _failure(
            f"Python {python_version()}: SimpleTuner with a list of timesteps needs 3.12 or 3.13",
            "make an environment with Python 3.12",
        )
    else:
        yield _ok(f"Python {python_version()}")


def _look_at_packages(_: Job) -> Iterator[Check]:
    """Compare what is installed with what fits together: our own pins."""
    wanted = [Requirement(text) for text in requires("glance-lora") or ()]
    pinned = [one for one in wanted if "==" in str(one.specifier) and one.marker is None]
    is_sound = True
    for one in pinned:
        try:
            there = version(one.name)
        except PackageNotFoundError:
            is_sound = False
            yield _failure(f"{one.name} is not installed", how_to_install(one.name))
            continue
        if not one.specifier.contains(there, prereleases=True):
            is_sound = False
            yield _warning(
                f"{one.name} {there} is installed, glance was proven with {one.specifier}",
                how_to_install(one.name),
            )
    if is_sound:
        yield _ok(", ".join(f"{one.name} {version(one.name)}" for one in pinned))


def _look_at_simpletuner(job: Job) -> Iterator[Check]:
    yield _ok(f"started as {find_program(job.launcher)}")
    options = {**memory_options(job.settings), **job.settings.overrides}
    if _BITSANDBYTES in options.values() and find_spec("bitsandbytes") is None:
        yield _failure(
            f"{_BITSANDBYTES} needs the package bitsandbytes",
            how_to_install("bitsandbytes"),
        )


def _look_at_the_device(job: Job) -> Iterator[Check]:
    settings = job.settings
    require_device(settings.device, sorted(set(job.devices)))
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
    if not computes_in_bf16(number):
        yield _warning(
            f"{settings.device}:{number} does not compute in bf16, which SimpleTuner trains in: "
            "torch emulates it, slowly, and nobody has tried it with glance",
            "use a GPU of the RTX 30 series, an A10, an L4, or a newer one; or at least "
            "--set vae_dtype=fp32, since cuDNN has no convolutions in bf16 there",
        )
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
                "stop it to free the memory",
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
        spare = next((one for one in reversed(Preset) if _spares_memory(job, one, there)), None)
        yield _warning(
            f"the training takes about {needed:g} GB of system memory, and there are "
            f"{there / _GIGA:.1f}",
            "close other programs, or add swap"
            if spare is None
            else "close other programs, add swap, or "
            f"--vram {spare.gibibytes}: in 4 bits the model is quantised on the card",
        )
    else:
        yield _ok(f"{there / _GIGA:.1f} GB of system memory")


def _spares_memory(job: Job, preset: Preset, there: int) -> bool:
    """Whether a smaller card's settings do with the system's memory, and fit that card."""
    settings = job.settings.model_copy(update={"preset": preset})
    found = estimate(settings)
    return (
        job.settings.device is Device.CUDA
        and preset.gibibytes < job.settings.preset.gibibytes
        and (found.gpu or 0) * _GIGA <= preset.gibibytes * 2**30
        and found.system * len(job.devices) * _GIGA <= there
    )


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
    free = free_gigabytes(job.run.path)
    if needed > free:
        yield _failure(
            f"the run takes about {needed:.1f} GB, and there are {free:.1f} free",
            "free some space, or give --run a place on another disk",
        )
    else:
        yield _ok(f"{free:.1f} GB free for the run")


def _look_at_the_model(job: Job) -> Iterator[Check]:
    if not job.hub_models:
        yield _ok(f"on the disk: {find_place(job.settings.model, job.run.path)}")
    for model in job.hub_models:
        doubt = check_access(model)
        if doubt is None:
            yield _ok(f"{model} is accessible; the cache is {cache_folder()}")
        elif is_offline():
            raise ModelNotFound(doubt, hint="unset HF_HUB_OFFLINE, or give --model a folder")
        else:
            yield _warning(doubt, "SimpleTuner will try again")


def has_room_to_wait(settings: TrainSettings) -> bool:
    """Whether a second process may hold what it imports while the training takes all it will."""
    there = min(system_memory(), int(psutil.virtual_memory().available))
    return there >= (estimate(settings).system + _WAITING) * _GIGA


def system_memory() -> int:
    """Return the bytes of memory that this process may use: a container's limit counts."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit: the file says "max"
        return total
    return min(total, limit)


def free_gigabytes(path: Path) -> float:
    """Return how much is free where a folder is, or will be."""
    return shutil.disk_usage(_existing(path)).free / _GIGA


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above that is there."""
    path = path.absolute()
    while not is_there(path) and path != path.parent:
        path = path.parent
    return path
