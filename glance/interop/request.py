"""What is asked of an import, as it is typed: a plain object, of which a command is made."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from glance.core.options import (
    Caption,
    FamilyName,
    Flag,
    Group,
    ModelName,
    PipelineName,
    SourceImage,
)
from glance.schedule.options import ScheduleOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What the user typed, unchecked. None: what the files say."""

    slow_lora: Annotated[
        str | None, Flag("Trained slow LoRA: file, folder, or owner/repo:file.", Group.LORAS)
    ] = None
    fast_lora: Annotated[str | None, Flag("Trained fast LoRA, likewise.", Group.LORAS)] = None
    alpha: Annotated[
        float | None,
        Flag(
            "Alpha that the LoRAs were trained with, where the files do not record it.",
            Group.LORAS,
        ),
    ] = None
    drops_text: Annotated[
        bool,
        Flag(
            "Leave a text encoder's keys out of the LoRAs.", Group.LORAS, ("--drop-text-encoder",)
        ),
    ] = False
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    """What the LoRAs were trained on."""
    family: FamilyName = None
    model: ModelName = None
    base: PipelineName = None
    image: Annotated[
        Path | None, Flag("The image that the pair was trained on, if it is known.", Group.DATA)
    ] = None
    caption: Caption = None
    reference: SourceImage = None
    run: Annotated[
        Path | None,
        Flag(
            "Run folder to make. Default: runs/ and the image's name, or the LoRAs'.", Group.OUTPUT
        ),
    ] = None

    def __post_init__(self) -> None:
        """Take a plain name for a schedule's options."""
        object.__setattr__(self, "schedule", ScheduleOptions.of(self.schedule))
