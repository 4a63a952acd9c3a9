"""What is asked of a sampling, what was decided, and what came of it: plain objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.device import AUTO, Device, Precision
from glance.core.errors import UsageError
from glance.core.memory import Memory, Quantize
from glance.core.phase import Phase
from glance.models.families import Family
from glance.sampling.provenance.record import Record
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule

MOST_PICTURES: Final = 10_000
"""Of one command: a plan holds every picture, and a day has time for fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What the user typed, unchecked. None: the run's, the LoRAs', the picture's or the family's.

    What describes a picture holds for all of them, but for what a line of `prompt_file` says.
    """

    prompts: tuple[str, ...] = ()
    prompt_file: Path | None = None
    from_image: Path | None = None
    """A picture of glance's: what it records stands in for all that is not given."""
    init_latents: Path | None = None
    """Handed-over latents: the fast phase alone, from there."""
    seeds: tuple[int, ...] = ()
    count: int | None = None
    """Pictures a prompt and seed: with the seed, the next one, and so on."""
    negative_prompt: str | None = None
    slow_guidance: float | None = None
    fast_guidance: float | None = None
    true_cfg: float | None = None
    slow_scale: float | None = None
    fast_scale: float | None = None
    loras: tuple[Phase, ...] | None = None
    """The phases that run with their LoRA; None: both."""
    width: int | None = None
    height: int | None = None
    reference: Path | None = None
    run: Path | None = None
    slow_lora: str | None = None
    fast_lora: str | None = None
    model: str | None = None
    base: str | None = None
    base_loras: tuple[Path, ...] = ()
    """LoRAs that belong to the base model: they work wherever none of the pair's does."""
    family: str | None = None
    schedule: str | None = None
    slow_timesteps: str | None = None
    fast_timesteps: str | None = None
    slow_steps: int | None = None
    fast_steps: int | None = None
    teacher_steps: int | None = None
    reshift: bool = False
    """Move the schedule as the model's shift moves with the picture's size."""
    device: str = AUTO
    dtype: Precision | None = None
    memory: Memory = Memory.AUTO
    quantize: Quantize | None = None
    compiled: bool = False
    batch_size: int = 1
    output: Path | None = None
    save_latents: bool = False
    save_phases: bool = False
    metadata: bool = True
    restart: bool = False
    """Paint anew what an earlier start of the same command has painted."""


def choose_loras(*, slow_only: bool, fast_only: bool, no_lora: bool) -> tuple[Phase, ...] | None:
    """Return the phases that three flags leave with their LoRA; None: nothing was said.

    Raises UsageError for more than one of them.
    """
    chosen = [
        (flag, phases)
        for flag, phases, is_given in (
            ("--slow-only", (Phase.SLOW,), slow_only),
            ("--fast-only", (Phase.FAST,), fast_only),
            ("--no-lora", (), no_lora),
        )
        if is_given
    ]
    if len(chosen) > 1:
        flags = " and ".join(flag for flag, _ in chosen)
        raise UsageError(f"{flags} exclude each other", hint="give one of them")
    return chosen[0][1] if chosen else None


@dataclass(frozen=True, slots=True)
class PlannedPicture:
    """One picture: what it will show, where it goes, what it will say of its making."""

    settings: SampleSettings
    output: Path
    record: Record
    is_done: bool
    """It is there already, painted by an earlier start of the same command."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings with the place."""
        settings = self.settings.model_dump(mode="json")
        return {"image": str(self.output), "is_done": self.is_done, **settings}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """Everything decided: which files, along which schedule, to where."""

    model: str
    transformer: Path | None
    family: Family
    loras: Mapping[Phase, Path]
    base_loras: tuple[Path, ...]
    schedule: Schedule
    pictures: tuple[PlannedPicture, ...]
    device: Device
    dtype: Precision
    memory: Memory
    quantize: Quantize
    compiled: bool
    batch_size: int
    init_latents: Path | None
    save_latents: bool
    save_phases: bool
    metadata: bool
    names: Mapping[Phase, str]
    """What the LoRAs' files are called in other tools."""
    notes: tuple[str, ...]

    @property
    def settings(self) -> SampleSettings:
        """The first picture's."""
        return self.pictures[0].settings

    def to_json(self) -> dict[str, Any]:
        """Return what `glance infer --dry-run` prints."""
        return {
            "model": self.model,
            "transformer": None if self.transformer is None else str(self.transformer),
            "family": self.family.name,
            "loras": {phase.value: str(path) for phase, path in self.loras.items()},
            "schedule": self.schedule.to_json(),
            "device": self.device.value,
            "dtype": self.dtype.value,
            "memory": self.memory.value,
            "quantize": self.quantize.value,
            "pictures": [picture.to_json() for picture in self.pictures],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The pictures in the order they were asked for, and what their making took, in seconds."""

    pictures: tuple[PlannedPicture, ...]
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]

    @property
    def images(self) -> tuple[Path, ...]:
        """Where they are."""
        return tuple(picture.output for picture in self.pictures)

    def to_json(self) -> dict[str, Any]:
        """Return what `glance infer --json` prints."""
        return {
            "images": [str(path) for path in self.images],
            "seed": self.pictures[0].settings.seed,
            "seeds": [picture.settings.seed for picture in self.pictures],
            "sigmas": {phase.value: list(values) for phase, values in self.sigmas.items()},
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
