"""What is asked of a training and of a distillation, as it is typed: plain objects.

Nothing heavy is imported here: a command's help is made without it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from glance.core.device import AUTO, DeviceChoice, Memory, Quantize
from glance.core.errors import InputError
from glance.core.options import (
    KEY_VALUE,
    Caption,
    FamilyName,
    Flag,
    Group,
    ModelName,
    PipelineName,
    SourceImage,
)
from glance.core.phase import Phase
from glance.schedule.options import ScheduleOptions


class Launcher(StrEnum):
    """How the trainer is started."""

    SIMPLETUNER = "simpletuner"
    """The public command, which starts accelerate, which starts the trainer."""
    DIRECT = "direct"
    """The trainer's own script: it saves the imports of two processes."""


class Vram(StrEnum):
    """The GPU memory that a training must fit, in GB."""

    AUTO = AUTO
    """That of the card here; 24 where there is none."""
    GB8 = "8"
    GB12 = "12"
    GB16 = "16"
    GB24 = "24"
    GB48 = "48"


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Return the LoRAs that are meant, in the order of training; raise InputError."""
    if text == "both":
        return tuple(Phase)
    if text in tuple(Phase):
        return (Phase(text),)
    raise InputError(
        f"--phase {text}: it must be one of both, slow, fast", hint="--phase both, for example"
    )


def show_phases(phases: tuple[Phase, ...]) -> str:
    """Return the LoRAs that are meant as `parse_phases` reads them."""
    return phases[0].value if len(phases) == 1 else "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user typed of any training, unchecked. None: the model's, or the family's."""

    family: FamilyName = None
    model: ModelName = None
    base: PipelineName = None
    run: Annotated[
        Path | None, Flag("Run folder. Default: runs/ and the image's name.", Group.OUTPUT)
    ] = None
    resume: Annotated[
        Path | None,
        Flag(
            "Continue this run with all that it was trained with. --steps may be more than it had.",
            Group.RUN,
        ),
    ] = None
    steps: Annotated[
        int | None, Flag("Training steps of each LoRA. Default: 60.", Group.TRAINING)
    ] = None
    rank: Annotated[
        int | None, Flag("LoRA rank; alpha is 4 times it. Default: 32.", Group.TRAINING)
    ] = None
    learning_rate: Annotated[
        float | None,
        Flag(
            "Learning rate. Default: the method's for the family.",
            Group.TRAINING,
            ("--learning-rate", "--lr"),
        ),
    ] = None
    seed: Annotated[int | None, Flag("Training seed, at least 1. Default: 1.", Group.TRAINING)] = (
        None
    )
    phases: Annotated[
        tuple[Phase, ...],
        Flag(
            "Which LoRA to train. Default: both.",
            Group.TRAINING,
            ("--phase",),
            kind="both|slow|fast",
            parse=parse_phases,
            show=show_phases,
        ),
    ] = tuple(Phase)
    overrides: Annotated[
        tuple[str, ...],
        Flag(
            "Further option of SimpleTuner; repeatable.",
            Group.TRAINING,
            ("--set",),
            kind=KEY_VALUE,
        ),
    ] = ()
    preview_every: Annotated[
        int | None,
        Flag(
            "Sample the pair so far every N steps of the second LoRA, beside its training.",
            Group.PREVIEW,
            kind="N",
            least=1,
        ),
    ] = None
    preview_prompts: Annotated[
        tuple[str, ...],
        Flag(
            "What the previews show; repeatable. Default: what is learnt, and one other.",
            Group.PREVIEW,
            ("--preview-prompt",),
        ),
    ] = ()
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    """A plain name is taken too."""
    device: Annotated[
        str, Flag("Where to train; decides precision.", Group.HARDWARE, choices=DeviceChoice)
    ] = AUTO
    gpu_ids: Annotated[
        str,
        Flag(
            "Which GPU, by number; two, such as 0,1, train both LoRAs at once.",
            Group.HARDWARE,
            commas=True,
        ),
    ] = "0"
    vram: Annotated[
        str,
        Flag(
            "GPU memory to fit, in GB; auto: that of the card here.", Group.HARDWARE, choices=Vram
        ),
    ] = Vram.AUTO
    restart: Annotated[
        bool,
        Flag("Discard what the run has trained and train it from the start.", Group.RUN, once=True),
    ] = False
    trust: Annotated[
        bool,
        Flag(
            "Continue a run that was started on another machine: unpickles it.",
            Group.RUN,
            once=True,
        ),
    ] = False
    """Whether checkpoints that were made elsewhere may be unpickled."""
    stop_within: Annotated[
        float,
        Flag("Seconds that a first Ctrl-C waits for a checkpoint.", Group.ADVANCED, least=0),
    ] = 60.0
    launcher: Annotated[
        str,
        Flag(
            "Start through `simpletuner train`, or call the trainer directly.",
            Group.ADVANCED,
            choices=Launcher,
        ),
    ] = Launcher.SIMPLETUNER

    def __post_init__(self) -> None:
        """Take a plain name for the schedule."""
        object.__setattr__(self, "schedule", ScheduleOptions.of(self.schedule))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest(TrainingRequest):
    """What the user typed of a training on images and their captions, unchecked."""

    image: Annotated[
        tuple[Path, ...],
        Flag("The image to train on; repeatable, or a folder of them.", Group.DATA),
    ] = ()
    """A plain path is taken too."""
    caption: Caption = None
    reference: SourceImage = None
    resolution: Annotated[
        str | int | None,
        Flag(
            "Side of the training area in pixels; several: 1024,512. Default: the image's size, at "
            "most the model's native one.",
            Group.DATA,
            commas=True,
        ),
    ] = None
    crop: Annotated[
        str | None,
        Flag(
            "whole, center (a square of it), or both: whole,center. Default: whole.",
            Group.DATA,
            commas=True,
        ),
    ] = None
    compares: Annotated[
        bool,
        Flag(
            "Compare the pair with the base model at the end: did it help?",
            Group.RUN,
            ("--compare",),
        ),
    ] = False

    def __post_init__(self) -> None:
        """Take a plain path for the images."""
        TrainingRequest.__post_init__(self)  # super() knows no class that was made with slots
        if isinstance(self.image, str | Path):
            object.__setattr__(self, "image", (Path(self.image),))


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRequest(TrainingRequest):
    """What the user typed of a distillation, unchecked."""

    prompts: Annotated[
        tuple[str, ...],
        Flag(
            "What an image shows; repeatable. Default: 128 varied ones of the package's.",
            Group.PROMPT,
            ("--prompt", "-p"),
        ),
    ] = ()
    prompt_file: Annotated[
        Path | None, Flag("One prompt a line; or .jsonl, .json.", Group.PROMPT)
    ] = None
    reference: SourceImage = None
    sizes: Annotated[
        tuple[str, ...],
        Flag(
            "Image size; repeatable: one pair for all. Default: the family's.",
            Group.PROMPT,
            ("--size",),
            kind="WxH",
        ),
    ] = ()
    noises: Annotated[
        int | None, Flag("Images of each prompt and size. Default: 1.", Group.PROMPT)
    ] = None
    run: Annotated[
        Path | None, Flag("Run folder. Default: runs/ and the model's name.", Group.OUTPUT)
    ] = None
    guidance: Annotated[
        float | None, Flag("Of the base model. Default: the family's.", Group.SAMPLING)
    ] = None
    teacher_loras: Annotated[
        tuple[str, ...],
        Flag(
            "A LoRA that the base model is sampled with: file, folder, or owner/repo:file; "
            "repeatable.",
            Group.SAMPLING,
            ("--teacher-lora",),
        ),
    ] = ()
    steps: Annotated[
        int | None, Flag("Training steps of each LoRA. Default: 400.", Group.TRAINING)
    ] = None
    batch_size: Annotated[
        int | None, Flag("Samples per training step. Default: 4.", Group.TRAINING)
    ] = None
    rank: Annotated[int | None, Flag("LoRA rank, and alpha. Default: 16.", Group.TRAINING)] = None
    learning_rate: Annotated[
        float | None,
        Flag("Default: 2e-4; 1e-3 for small models.", Group.TRAINING, ("--learning-rate", "--lr")),
    ] = None
    memory: Annotated[
        Memory,
        Flag(
            "What of the base model stays on the GPU while it is recorded.",
            Group.HARDWARE,
            ("--offload",),
        ),
    ] = Memory.AUTO
    quantize: Annotated[
        Quantize, Flag("Quantize the base model while it is recorded.", Group.HARDWARE)
    ] = Quantize.NONE
    keep_recording: Annotated[
        bool, Flag("Leave the recorded states in the run.", Group.ADVANCED)
    ] = False
    compares: Annotated[
        bool,
        Flag(
            "Do not compare the pair with the base model at the end.", Group.RUN, off="--no-compare"
        ),
    ] = True
