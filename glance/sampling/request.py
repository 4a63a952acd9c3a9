"""What is asked of a sampling, as it is typed: a plain object, of which a command is made."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from glance.core.device import AUTO, Memory, Precision, Quantize
from glance.core.errors import UsageError
from glance.core.phase import Phase
from glance.schedule.options import ScheduleOptions

MOST_IMAGES: Final = 10_000
"""Of one command: a plan holds every image, and a day has time for fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What the user typed, unchecked. None: the run's, the LoRAs', the image's or the family's.

    What describes an image holds for all of them, but for what a line of `prompt_file` says.
    """

    prompts: tuple[str, ...] = ()
    prompt_file: Path | None = None
    from_image: Path | None = None
    """An image of glance's: what it records stands in for all that is not given."""
    init_latents: Path | None = None
    """Handed-over latents: the fast phase alone, from there."""
    seeds: tuple[int, ...] = ()
    count: int | None = None
    """Images a prompt and seed: with the seed, the next one, and so on."""
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
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    reshift: bool = False
    """Move the schedule as the model's shift moves with the image's size."""
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
    """Generate again what an earlier start of the same command has generated."""

    def __post_init__(self) -> None:
        """Take a schedule's name for the options that say no more."""
        object.__setattr__(self, "schedule", ScheduleOptions.of(self.schedule))

    @property
    def wanted_loras(self) -> tuple[Phase, ...]:
        """The phases that will run with a LoRA."""
        wanted = tuple(Phase) if self.loras is None else self.loras
        return tuple(phase for phase in wanted if phase is Phase.FAST or not self.init_latents)


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
