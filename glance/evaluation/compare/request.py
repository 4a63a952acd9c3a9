"""What is asked of a comparison, and what was decided: plain objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from glance.core.device import AUTO
from glance.core.memory import Memory, Quantize
from glance.core.phase import Phase
from glance.sampling.request import GenerationPlan, PlannedPicture
from glance.sampling.settings import SampleSettings

TEACHER_STEPS: Final = 50  # what the method distils from
FEWEST: Final = 8  # pictures: of fewer, no interval, no verdict, and no worth in steps
SHEET: Final = "sheet.png"


class Variant(StrEnum):
    """One way to paint the same noise; in the order that they are shown."""

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
        return _LORAS[self]

    def label(self, steps: int) -> str:
        """Return what people read above a picture: `base, 50 steps`, `slow only, 10 steps`."""
        return f"{_TITLES[self]}, {steps} steps"


JUDGED: Final = (Variant.TEACHER, Variant.BASE, Variant.BOTH)
"""What a verdict is made of."""
_LORAS: Final[Mapping[Variant, tuple[Phase, ...]]] = MappingProxyType(
    {
        Variant.TEACHER: (),
        Variant.BASE: (),
        Variant.SLOW_ONLY: (Phase.SLOW,),
        Variant.FAST_ONLY: (Phase.FAST,),
        Variant.BOTH: (Phase.SLOW, Phase.FAST),
    }
)
_TITLES: Final[Mapping[Variant, str]] = MappingProxyType(
    {
        Variant.TEACHER: "base",
        Variant.BASE: "base",
        Variant.SLOW_ONLY: "slow only",
        Variant.FAST_ONLY: "fast only",
        Variant.BOTH: "both",
    }
)


class Metric(StrEnum):
    """A figure that is made only if asked for: its network must be fetched first."""

    LPIPS = "lpips"
    CLIP = "clip"


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What the user typed, unchecked. None or empty: the newest run, its sample's caption."""

    run: Path | None = None
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    variants: tuple[Variant, ...] = tuple(Variant)
    teacher_steps: int = TEACHER_STEPS
    device: str = AUTO
    memory: Memory = Memory.AUTO
    quantize: Quantize | None = None
    prompt_file: Path | None = None
    count: int | None = None
    """Pictures a prompt and seed: with the seed, the next one, and so on."""
    metrics: tuple[Metric, ...] = ()
    output: Path | None = None
    """Folder of the sheet, the page and the figures; None: images/compare of the run."""
    base_guidance: tuple[float, float] | None = None
    """Of BASE, in the slow and in the fast phase: a pair that learnt to do without classifier-free
    guidance is compared with a base that has it. None: that of the pair's own teacher where the
    run is a distilled one, else the pair's."""
    teacher_guidance: float | None = None
    """Of TEACHER. None: likewise, else the slow phase's."""
    finds_worth: bool = True
    """Look for the number of the base's own steps that the pair is worth, from FEWEST pictures on:
    see Comparer.find_worth."""
    batch_size: int = 1
    """Pictures of one variant that are painted at once."""
    reference: Path | None = None
    """What a family that edits begins with. None: the run's own."""
    base_loras: tuple[Path, ...] = ()
    """LoRAs of the base model, in TEACHER and BASE: those that the pair's teacher painted with."""


@dataclass(frozen=True, slots=True)
class Painting:
    """One picture of some noise: how it is painted, and its name in the cache."""

    variant: Variant
    steps: int
    """Forward passes; of TEACHER they follow the model's own schedule of as many steps."""
    settings: SampleSettings
    key: str

    @property
    def label(self) -> str:
        """How it is made, in words."""
        return self.variant.label(self.steps)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One prompt and seed, and the pictures of it."""

    picture: PlannedPicture
    """The pair's."""
    paintings: Mapping[Variant, Painting]

    @property
    def settings(self) -> SampleSettings:
        """The pair's."""
        return self.picture.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPlan:
    """Everything decided: which pictures, how they are painted, where the result goes."""

    generation: GenerationPlan
    """The model with both LoRAs, and a picture a row."""
    rows: tuple[PlannedRow, ...]
    variants: tuple[Variant, ...]
    teacher_steps: int
    metrics: tuple[Metric, ...]
    is_cacheable: bool
    """Whether the keys say which base model it is: not while it has yet to be fetched."""
    sample: Path | None
    """The picture that the pair was trained on, where the run holds it."""
    folder: Path
    teacher_guidance: float | None
    finds_worth: bool
    weights: str
    """See keys.sample_weights."""

    @property
    def paintings(self) -> tuple[Painting, ...]:
        """Every picture, row by row."""
        return tuple(one for row in self.rows for one in row.paintings.values())
