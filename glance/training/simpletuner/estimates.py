"""What a training takes in memory and time, and SimpleTuner's means to fit a smaller card.

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
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from glance.core.device import Device
from glance.core.events import format_duration
from glance.models.families import find_family
from glance.runs.settings import Preset, TrainSettings


class _Method(NamedTuple):
    precision: str
    bytes_a_parameter: float
    fixed: float
    """Gigabytes that are there whatever the model: CUDA, LoRA, optimizer, buffers."""
    room: float
    """How much of the card it may fill to be chosen: the first has smaller means behind it."""


_METHODS: Final = (
    _Method("no_change", 2.0, 6.0, 0.85),
    _Method("int8-quanto", 1.0, 6.0, 1.0),
    _Method("nf4-bnb", 0.53, 2.0, 1.0),  # 4 bits, and a scale for each 64
)
_ACTIVATIONS: Final = 3.0  # gigabytes a sample at 1024 x 1024 with gradient checkpointing
_DESKTOP: Final = 1.0  # what a desktop takes of a card
_TEXT_PRECISIONS: Final = (("no_change", 2.0), ("int8-quanto", 1.0), ("nf4-bnb", 0.53))
_SMALL_ENCODER: Final = 1.0  # billions: not worth quantising
_TIGHT: Final = (Preset.GB8, Preset.GB12, Preset.GB16)
BITSANDBYTES: Final = "nf4-bnb"
_REACHED: Final = 0.35  # of a card's speed: 334 and 357 of the H100's 989 teraflops
_REACHED_QUANTISED: Final = 0.25  # 221 and 266
_REACHED_ON_THE_CPU: Final = 1.1  # of what numpy does: torch multiplies a little faster


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


def memory_options(settings: TrainSettings) -> Mapping[str, Any]:
    """Return SimpleTuner's options that make the training fit the preset's card."""
    if settings.device is not Device.CUDA:
        return {"base_model_precision": "no_change"}
    preset = settings.preset
    method, text_precision = _choose_method(settings), _choose_text_precision(settings)
    options: dict[str, Any] = {"base_model_precision": method.precision}
    if method.precision != "no_change":
        # On the card only where the unquantised model fits there, as in SimpleTuner's FLUX example:
        # in bf16 FLUX (23.8 GB) does not fit on 24. On the CPU it takes about 50 GB of memory.
        fits_whole = 2 * settings.weights.transformer + 2 <= _budget(preset)
        options["quantize_via"] = "accelerator" if fits_whole else "cpu"
    if text_precision != "no_change":
        options |= {
            f"text_encoder_{number}_precision": text_precision
            for number, billions in enumerate(settings.weights.text_encoders, 1)
            if billions > _SMALL_ENCODER
        }
    if preset in _TIGHT or text_precision != "no_change":
        options["offload_during_startup"] = True  # text encoders and VAE are there in turn
    if preset in _TIGHT:
        options["vae_enable_tiling"] = True  # the image is encoded piece by piece
    return options


def estimate(settings: TrainSettings) -> Estimate:
    """Return the memory that the training takes."""
    weights, options = settings.weights, memory_options(settings)
    disk = 1.5 * settings.rank / 32 * max(weights.transformer, 0.1) / 12
    if settings.device is not Device.CUDA:
        return Estimate(None, round(_on_the_cpu(settings), 1), round(disk, 1))
    method = _overridden(settings) or _choose_method(settings)
    text_bytes = dict(_TEXT_PRECISIONS)[_choose_text_precision(settings)]
    gpu = max(_training(settings, method), _encoding(settings, text_bytes))
    # about 50 GB for FLUX, says SimpleTuner's FLUX.md
    factor = 4.2 if options.get("quantize_via") == "cpu" else 2.0
    largest = max(factor * weights.transformer, 2 * max(weights.text_encoders, default=0))
    return Estimate(round(gpu, 1), round(largest + 4, 1), round(disk, 1))


def describe_estimate(settings: TrainSettings) -> str:
    """Say in a line what the training takes."""
    found = estimate(settings)
    rest = f"{found.system:g} GB of system memory, {found.disk:g} GB on the disk for the run"
    if found.gpu is None:
        return f"estimate: {rest}"
    return f"estimate: {found.gpu:g} GB of the card (preset {settings.preset}, unproven), {rest}"


def seconds_a_step(settings: TrainSettings, speed: float) -> float:
    """Return what one step takes on a device of `speed` operations a second."""
    parameters = settings.weights.transformer * 1e9
    operations = 4 if settings.device is Device.CPU else 6  # there activations are kept
    family = find_family(settings.family)
    areas = (settings.resolution, *settings.also_resolutions)
    image = sum((side / family.size_multiple) ** 2 for side in areas) / len(areas)  # in tokens
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


def _choose_text_precision(settings: TrainSettings) -> str:
    for precision, size in _TEXT_PRECISIONS:
        if _encoding(settings, size) <= _budget(settings.preset):
            return precision
    return _TEXT_PRECISIONS[-1][0]


def _training(settings: TrainSettings, method: _Method) -> float:
    weights = method.bytes_a_parameter * settings.weights.transformer
    return weights + method.fixed + _activations(settings)


def _encoding(settings: TrainSettings, size: float) -> float:
    """While the caption is encoded: all text encoders, small ones never quantised."""
    encoders = settings.weights.text_encoders
    return sum(one * (size if one > _SMALL_ENCODER else 2.0) for one in encoders) + 1.0


def _activations(settings: TrainSettings) -> float:
    pictures = 2 if find_family(settings.family).edits else 1  # the reference is seen as well
    area = (settings.resolution / 1024) ** 2
    return settings.samples_at_once * pictures * _ACTIVATIONS * area


def _budget(preset: Preset) -> float:
    return preset.gibibytes * 2**30 / 1e9 - _DESKTOP


def _reached(settings: TrainSettings) -> float:
    if settings.device is Device.CPU:
        return _REACHED_ON_THE_CPU
    options = {**memory_options(settings), **settings.overrides}
    is_quantised = options["base_model_precision"] != "no_change"
    return _REACHED_QUANTISED if is_quantised else _REACHED
