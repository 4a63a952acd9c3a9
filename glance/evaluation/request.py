"""What is asked of a comparison and of a search for a schedule, as it is typed: plain objects.

Nothing heavy is imported here: a command's help is made without it.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from glance.core.device import AUTO, Memory, Quantize
from glance.core.options import FamilyName, Flag, Group, ModelName, parse_size, show_size
from glance.core.phase import Phase
from glance.sampling.request import (
    DeviceName,
    ExtraLora,
    FinishedRun,
    ImagesAtOnce,
    Offload,
    Quantization,
    RunsQuantization,
    Seeds,
)


class Variant(StrEnum):
    """One way to sample from the same noise; in the order that they are shown."""

    TEACHER = "teacher"
    """The base model with many steps of its own schedule."""
    BASE = "base"
    """The base model along the pair's own sigmas."""
    SLOW_ONLY = "slow-only"
    FAST_ONLY = "fast-only"
    BOTH = "both"

    @property
    def loras(self) -> tuple[Phase, ...]:
        """The phases that run with their LoRA."""
        return tuple(phase for phase in Phase if self in (f"{phase}-only", "both"))

    def label(self, steps: int) -> str:
        """Return what people read above an image: `base, 50 steps`, `slow only, 10 steps`."""
        return f"{self.replace('-', ' ') if self.loras else 'base'}, {steps} steps"


JUDGED: Final = (Variant.TEACHER, Variant.BASE, Variant.BOTH)
"""What a verdict is made of."""


class Metric(StrEnum):
    """A figure that is measured only if asked for: its network must be fetched first."""

    LPIPS = "lpips"


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What the user typed, unchecked. None or empty: the newest run, its sample's caption."""

    run: FinishedRun = None
    prompts: Annotated[
        tuple[str, ...],
        Flag("Prompt; repeatable. Default: the caption.", Group.PROMPT, ("--prompt", "-p")),
    ] = ()
    prompt_file: Annotated[
        Path | None,
        Flag("One prompt a line; or .jsonl, .json: objects with prompt, seed, ...", Group.PROMPT),
    ] = None
    seeds: Seeds = (0,)
    count: Annotated[
        int | None,
        Flag("Noises per prompt, with consecutive seeds.", Group.PROMPT, least=1),
    ] = None
    variants: tuple[Variant, ...] = tuple(Variant)
    teacher_steps: Annotated[
        int, Flag("Steps of the base model that everything is compared with.", Group.SAMPLING)
    ] = 50
    batch_size: ImagesAtOnce = 1
    metrics: Annotated[
        tuple[Metric, ...],
        Flag(
            "A further figure, whose network is fetched once; repeatable.",
            Group.SAMPLING,
            ("--metric",),
        ),
    ] = ()
    finds_worth: Annotated[
        bool,
        Flag(
            "Do not look for how many of the base's own steps the pair is worth: about 30 further "
            "forward passes an image, once for a model; from 8 images on.",
            Group.SAMPLING,
            off="--no-worth",
        ),
    ] = True
    device: DeviceName = AUTO
    memory: Offload = Memory.AUTO
    quantize: RunsQuantization = None
    output: Annotated[
        Path | None,
        Flag(
            "Folder of the sheet and the figures. Default: images/compare of the run.",
            Group.OUTPUT,
            ("--output", "-o"),
        ),
    ] = None
    base_guidance: tuple[float, float] | None = None
    """Of BASE, in the slow and in the fast phase: a pair that learnt to do without classifier-free
    guidance is compared with a base that has it. None: that of the pair's own teacher where the
    run is a distilled one, else the pair's."""
    teacher_guidance: float | None = None
    """Of TEACHER. None: likewise, else the slow phase's."""
    reference: Path | None = None
    """What a family that edits begins with. None: the run's own."""
    extra_loras: Annotated[
        tuple[str | ExtraLora, ...],
        Flag(
            "A further LoRA, such as a style's, beneath the base model and the pair alike: does "
            "the pair still help? As for infer; repeatable.",
            Group.LORAS,
            ("--lora",),
            kind="FILE[:STRENGTH]",
        ),
    ] = ()
    """In every variant. One that does not work with the pair is in TEACHER and BASE alone, as what
    the pair's teacher was sampled with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeRequest:
    """What the user typed of a search for a schedule, unchecked."""

    model: ModelName = None
    family: FamilyName = None
    size: Annotated[
        tuple[int, int] | None,
        Flag(
            "Image size. Default: the family's resolution.",
            Group.SAMPLING,
            kind="WxH",
            parse=parse_size,
            show=show_size,
        ),
    ] = None
    prompts: Annotated[
        tuple[str, ...],
        Flag(
            "Prompt; repeatable. Default: eight of the package's.",
            Group.PROMPT,
            ("--prompt", "-p", "--prompts"),
        ),
    ] = ()
    prompt_file: Annotated[Path | None, Flag("One prompt a line.", Group.PROMPT)] = None
    seed: Annotated[
        int, Flag("Seed of the first prompt's noise; the next has the next.", Group.PROMPT)
    ] = 0
    steps: Annotated[
        int | None, Flag("Steps of both phases together. Default: 10.", Group.SCHEDULE)
    ] = None
    slow_steps: Annotated[
        int | None, Flag("Steps of the slow phase. Default: searched for.", Group.SCHEDULE)
    ] = None
    fast_steps: Annotated[
        int | None, Flag("Steps of the fast phase. Default: searched for.", Group.SCHEDULE)
    ] = None
    teacher_steps: Annotated[
        int, Flag("Steps of the base model's trajectory, to choose from.", Group.SCHEDULE)
    ] = 50
    slow_guidance: Annotated[
        float | None,
        Flag("Guidance scale of the slow phase and of the trajectory.", Group.SAMPLING),
    ] = None
    fast_guidance: Annotated[
        float | None, Flag("Guidance scale of the fast phase.", Group.SAMPLING)
    ] = None
    batch_size: Annotated[int, Flag("Prompts at once.", Group.SAMPLING, least=1, most=64)] = 4
    device: DeviceName = AUTO
    memory: Offload = Memory.AUTO
    quantize: Quantization = Quantize.NONE
    output: Annotated[
        Path | None,
        Flag(
            "The schedule's file. Default: optimal-WxH-STEPS.json.",
            Group.OUTPUT,
            ("--output", "-o"),
        ),
    ] = None
