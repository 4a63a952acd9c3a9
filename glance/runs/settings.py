"""What decides the two LoRAs."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from glance.core.device import AUTO, Device, Quantize, cuda_memory
from glance.core.errors import SettingsError
from glance.core.phase import Phase
from glance.core.settings import Settings
from glance.models.base import Weights
from glance.models.families import DEFAULT_FAMILY, find_family
from glance.runs.view import Crop, View, fit_view

USUAL: Final[Mapping[str, int]] = MappingProxyType({"steps": 60, "rank": 32, "seed": 1})
"""Of a training on images, where nobody says another: the guide's, and the method's."""


class Preset(StrEnum):
    """The card that a training must fit, by its memory."""

    GB8 = "8gb"
    GB12 = "12gb"
    GB16 = "16gb"
    GB24 = "24gb"
    GB48 = "48gb"

    @property
    def gibibytes(self) -> int:
        """The card's memory."""
        return int(self.value.removesuffix("gb"))


class Layers(StrEnum):
    """Which layers of the transformer a LoRA covers."""

    ATTENTION = "attention"
    """The attention projections: what SimpleTuner covers by itself."""
    BLOCKS = "blocks"
    """Every linear layer of the repeated blocks: see Family.block_layers."""


Side = Annotated[int, Field(ge=64, le=8192, multiple_of=64)]
Scale = Annotated[float, Field(ge=0, le=100)]


class Teacher(Settings):
    """The base model as its own teacher: which of its paths are recorded, and what is learnt.

    A path is what the base model passes from one noise to one picture.
    """

    flags: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "prompts": "--prompt",
            "sizes": "--size",
            "steps": "--teacher-steps",
            "slow_guidance": "--guidance",
            "fast_guidance": "--guidance",
            "loras": "--teacher-lora",
        }
    )

    prompts: tuple[str, ...] = Field(
        min_length=1, examples=['"a harbour at dawn"'], description="What the images show."
    )
    noises: int = Field(ge=1, le=1000, examples=[2], description="Paths of each prompt and size.")
    sizes: tuple[tuple[Side, Side], ...] = Field(
        min_length=1,
        examples=["1024x1024"],
        description="Width and height in pixels; each prompt is recorded at all.",
    )
    steps: int = Field(
        ge=2, le=1000, examples=[50], description="Of the base model's own schedule."
    )
    guidance: Scale = Field(examples=[3.5], description="Of the base model, throughout.")
    slow_guidance: Scale = Field(
        examples=[3.5], description="What the slow LoRA is trained and sampled with."
    )
    fast_guidance: Scale = Field(
        examples=[3.5], description="What the fast LoRA is trained and sampled with."
    )
    quantize: Quantize | None = Field(
        default=None, description="How its weights are kept; None: of an older run."
    )
    loras: Mapping[str, str] = Field(
        default_factory=dict, description="The LoRAs that it samples with: name -> SHA-256."
    )
    reference: str | None = Field(
        default=None, description="SHA-256 of what a family that edits begins with."
    )
    places: Mapping[str, str] = Field(
        default_factory=dict,
        description="Where these files were, relative to the run or on the Hub: SHA-256 -> place.",
    )

    def guidance_of(self, phase: Phase) -> float:
        """Return the guidance that a phase's LoRA is trained and sampled with."""
        return self.slow_guidance if phase is Phase.SLOW else self.fast_guidance

    @property
    def paths(self) -> int:
        """How many there are."""
        return len(self.prompts) * self.noises * len(self.sizes)

    def describe(self) -> str:
        """Say in a line what is recorded."""
        sizes = ", ".join(f"{width}x{height}" for width, height in self.sizes)
        own = f" with {', '.join(self.loras)}" if self.loras else ""
        return (
            f"the base model{own}, {self.steps} steps at guidance {self.guidance:g}: "
            f"{len(self.prompts)} prompts x {self.noises} noises at {sizes}"
        )


class TrainSettings(Settings):
    """Everything that decides what the two LoRAs will be, besides the pair and the schedule."""

    flags: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "also_resolutions": "--resolution",
            "crops": "--crop",
            "overrides": "--set",
            "preset": "--vram",
        }
    )

    family: str = Field(description="Model family, a row of families.py.")
    model: str = Field(
        min_length=1,
        examples=["black-forest-labs/FLUX.1-dev"],
        description="Base model: a Hub id, or a folder in diffusers layout relative to the run.",
    )
    transformer: str | None = Field(
        default=None,
        description="A single file, relative to the run, in place of the model's transformer.",
    )
    device: Device = Field(description="Where to train; decides precision.")
    preset: Preset = Field(default=Preset.GB24, description="The card to fit, on cuda.")
    weights: Weights = Field(
        default=Weights(transformer=0), description="The base model's: by them a preset chooses."
    )
    steps: int = Field(
        ge=1,
        le=1_000_000,
        examples=[60],
        description="Optimizer steps a phase. The guide's and the method's: 60.",
    )
    batch_size: int = Field(
        default=1, ge=1, le=4096, examples=[4], description="Samples an optimizer step."
    )
    rank: int = Field(ge=1, le=4096, examples=[32], description="LoRA rank. The guide's: 32.")
    alpha_per_rank: Literal[1, 4] = Field(
        default=4, description="LoRA alpha / rank: with 4 the published learning rates go."
    )
    layers: Layers = Field(default=Layers.ATTENTION, description="What the LoRAs cover.")
    learning_rate_schedule: Literal["constant_with_warmup", "linear"] = Field(
        default="constant_with_warmup", description="The method's: constant."
    )
    learning_rate: float = Field(
        gt=0,
        le=1,
        examples=["1e-4"],
        description="The method's published value for the family. SimpleTuner's own default, "
        "4e-7, changes nothing that anyone could see in 60 steps.",
    )
    resolution: Side = Field(
        examples=[1024],
        description="Training area: images are resized to about this many pixels squared.",
    )
    also_resolutions: tuple[Side, ...] = Field(
        default=(),
        examples=["1024,512"],
        description="Smaller areas to train at as well, a data set each.",
    )
    crops: tuple[Crop, ...] = Field(
        default=(Crop.WHOLE,),
        min_length=1,
        examples=["whole,center"],
        description="A data set each, at every area.",
    )
    seed: int = Field(
        ge=1,
        le=2**32 - 1,
        examples=[1],
        description="SimpleTuner takes 0 for 'no seed', so it starts at 1.",
    )
    sample_every: int | None = Field(default=None, description="Of an older run; without effect.")
    sample_prompt: str | None = Field(default=None, description="Likewise.")
    overrides: Mapping[str, bool | int | float | str] = Field(
        default_factory=dict, description="Further SimpleTuner options, from --set."
    )
    teacher: Teacher | None = Field(
        default=None, description="Who is learnt from in place of one image: `glance distill`."
    )

    @property
    def sampling(self) -> Mapping[str, float]:
        """What the pair is trained to be sampled with, by SampleSettings' names: see Teacher."""
        if self.teacher is None:
            return {}
        width, height = self.teacher.sizes[0]
        guidance = {f"{phase}_guidance": self.teacher.guidance_of(phase) for phase in Phase}
        return {**guidance, "width": width, "height": height}

    def spread(self) -> dict[str, Any]:
        """Return every setting by its name, as JSON, those of the teacher among the others."""
        found = self.model_dump(mode="json", exclude={"sample_every", "sample_prompt"})
        teacher = found.pop("teacher") or {}
        if teacher:
            teacher["teacher_steps"] = teacher.pop("steps")
            del teacher["places"]
        return {**found, **teacher}

    def views(self, picture: tuple[int, int]) -> tuple[View, ...]:
        """Return what is trained of a picture of that width and height: a data set each."""
        family = find_family(self.family)
        areas = (self.resolution, *self.also_resolutions)
        views = (
            fit_view(
                picture, area, step=family.training_multiple, most=family.largest_side, crop=crop
            )
            for crop in self.crops
            for area in areas
        )
        return tuple(dict.fromkeys(views))

    @property
    def samples_at_once(self) -> int:
        """How many samples of a step are on the device together; the rest is accumulated.

        On an accelerator one at a time: it is busy with one, and memory is what is short. Of
        families that edit as well: SimpleTuner 4.10 takes all references of a batch for the
        first sample's.
        """
        is_one = self.device is not Device.CPU or find_family(self.family).edits
        return 1 if is_one else self.batch_size

    @property
    def alpha(self) -> int:
        """LoRA alpha."""
        return self.alpha_per_rank * self.rank


def resolve_train_settings(
    *,
    device: Device,
    family: str | None = None,
    model: str | None = None,
    steps: int | None = None,
    rank: int | None = None,
    learning_rate: float | None = None,
    resolution: int | Sequence[int] | None = None,
    crops: Sequence[Crop] = (Crop.WHOLE,),
    seed: int | None = None,
    preset: Preset = Preset.GB24,
    overrides: Mapping[str, bool | int | float | str] | None = None,
) -> TrainSettings:
    """Fill what was not given, much of it from the family's row; raise SettingsError."""
    row = find_family(family or DEFAULT_FAMILY)
    areas = row.resolution if resolution is None else resolution
    areas = [areas] if isinstance(areas, int) else areas
    largest, *smaller = sorted(set(areas), reverse=True)
    if row.edits and (smaller or tuple(crops) != (Crop.WHOLE,)):
        raise SettingsError(
            f"{row.name} is trained on one data set: its images go with their references",
            hint="give one --resolution, and no --crop",
        )
    return TrainSettings.checked(
        family=row.name,
        model=row.default_model if model is None else model,
        device=device,
        steps=USUAL["steps"] if steps is None else steps,
        rank=USUAL["rank"] if rank is None else rank,
        learning_rate=row.learning_rate if learning_rate is None else learning_rate,
        resolution=largest,
        also_resolutions=tuple(smaller),
        crops=tuple(dict.fromkeys(crops)),
        seed=USUAL["seed"] if seed is None else seed,
        preset=preset,
        weights=Weights(transformer=row.size.transformer, text_encoders=row.size.text_encoders),
        overrides=dict(overrides or {}),
    )


def resolve_preset(name: str) -> Preset:
    """Return the preset of so many GB; "auto": that of the card here, else the usual one."""
    if name != AUTO:
        return Preset(f"{name.removesuffix('gb')}gb")
    memory = cuda_memory()
    if memory is None:
        return Preset.GB24
    fitting = [preset for preset in Preset if preset.gibibytes <= memory / 2**30 + 1]
    return fitting[-1] if fitting else Preset.GB8
