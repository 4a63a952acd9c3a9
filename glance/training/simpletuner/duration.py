"""How long the steps of a training take, reckoned from the model's size and the device's speed.

A step multiplies each token with each parameter: 2 operations forward, 2 backward to the
activations (the parameters themselves are frozen), and with gradient checkpointing 2 to go forward
again. Devices reach a part of their speed. On a GPU it is that of SimpleTuner's figures for Krea 2
on an H100 (KREA2.md: 0.353 and 0.990 s a step in bf16 at 512 and 1024, 0.535 and 1.330 s in int8),
on the CPU that of benchmarks/memory.py. glance has measured no GPU.
"""

from typing import Final

from glance.core.device import Device
from glance.core.pace import format_duration
from glance.models.families import find_family
from glance.runs.settings import TrainSettings
from glance.training.simpletuner.memory import memory_options

_REACHED: Final = 0.35  # 334 and 357 of the H100's 989 teraflops
_REACHED_QUANTISED: Final = 0.25  # 221 and 266
_REACHED_ON_THE_CPU: Final = 1.1  # of what numpy does: torch multiplies a little faster


def seconds_a_step(settings: TrainSettings, speed: float) -> float:
    """Return what one step takes on a device of `speed` operations a second."""
    parameters = settings.weights.transformer * 1e9
    operations = 4 if settings.device is Device.CPU else 6  # SimpleTuner's checkpointing, render.py
    return operations * parameters * _tokens(settings) / (_reached(settings) * speed)


def describe_duration(settings: TrainSettings, phases: int, speed: float | None) -> str:
    """Say in a line how long the steps take."""
    if speed is None or not settings.weights.known:
        return "estimate: how long a step takes is not known for this device and model"
    pace = seconds_a_step(settings, speed)
    whole = format_duration(pace * settings.steps * phases)
    doubt = ", unproven" if settings.device is Device.CUDA else ""
    shown = f"{pace:.2f} s a step{doubt}, {whole} for {phases} x {settings.steps} steps in turn"
    return f"estimate: {shown}; each start of SimpleTuner comes on top"


def _tokens(settings: TrainSettings) -> float:
    """Return a step's tokens: of its pictures at the mean of the areas, and of their texts."""
    family = find_family(settings.family)
    areas = (settings.resolution, *settings.also_resolutions)
    picture = sum((side / family.size_multiple) ** 2 for side in areas) / len(areas)
    return settings.batch_size * (picture * (2 if family.edits else 1) + family.text.tokens)


def _reached(settings: TrainSettings) -> float:
    if settings.device is Device.CPU:
        return _REACHED_ON_THE_CPU
    options = {**memory_options(settings), **settings.overrides}
    is_quantised = options["base_model_precision"] != "no_change"
    return _REACHED_QUANTISED if is_quantised else _REACHED
