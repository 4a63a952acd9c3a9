"""Options that several commands share: same flag, same help, everywhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glance.core.device import Memory
from glance.core.options import Group
from glance.core.phase import Phase


class DeviceChoice(StrEnum):
    """--device."""

    AUTO = "auto"
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"


class PresetChoice(StrEnum):
    """--preset."""

    AUTO = "auto"
    GB8 = "8gb"
    GB12 = "12gb"
    GB16 = "16gb"
    GB24 = "24gb"
    GB48 = "48gb"


class LauncherChoice(StrEnum):
    """--launcher."""

    SIMPLETUNER = "simpletuner"
    DIRECT = "direct"


def find_model(text: str) -> str:
    from glance.models.base import find_packaged

    return find_packaged(text)


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON document on stdout, at the end.", rich_help_panel=Group.RUN
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Results and errors only.", rich_help_panel=Group.RUN)
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Everything, the trainer's own output too.",
        rich_help_panel=Group.RUN,
    ),
]
EventsOption = Annotated[
    Path | None,
    typer.Option(
        "--events",
        metavar="PATH",
        help="Append one JSON event a line to this file; - for stdout.",
        rich_help_panel=Group.RUN,
    ),
]
FamilyOfModelOption = Annotated[
    str | None, typer.Option(help="Model family. Default: the model's; flux.")
]
MemoryOption = Annotated[
    Memory, typer.Option(help="What stays on the GPU; docs/sampling-memory.md.")
]
NegativePromptOption = Annotated[str | None, typer.Option(help="What guidance leads away from.")]
SlowGuidanceOption = Annotated[
    float | None, typer.Option(help="Default: the family's; 3.5 for FLUX.")
]
FastGuidanceOption = Annotated[
    float | None, typer.Option(help="Default: the family's; 1.0 for FLUX.")
]
TrueCfgOption = Annotated[
    float | None,
    typer.Option(help="FLUX: classifier-free guidance besides, for a negative prompt."),
]
SideOption = Annotated[int | None, typer.Option(help="Default: as the run was trained.")]
FamilyOption = Annotated[str, typer.Option(help="Model family.")]
BaseOption = Annotated[
    str | None,
    typer.Option(help="The whole model that a file in --model belongs to. Default: family's."),
]
CaptionOption = Annotated[
    str | None,
    typer.Option(help="What the picture shows. Default: the .txt or .caption file beside it."),
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="Families that edit: the picture to begin with."),
]
ResolutionOption = Annotated[
    str | None,
    typer.Option(
        help="Side of the training area; several: 1024,512. Default: what the picture has of "
        "the model's own."
    ),
]
CropOption = Annotated[
    str, typer.Option(help="Show it whole or its center; both: whole,center.")
]
DeviceOption = Annotated[DeviceChoice, typer.Option(help="Where to run; decides precision.")]
DevicesOption = Annotated[
    str,
    typer.Option(help="Which GPU, by number; two, such as 0,1: both phases at once."),
]
ScheduleOption = Annotated[
    str,
    typer.Option(
        help="guide (SimpleTuner's guide), paper (FLUX's), auto (the model's own), own (what diffusers "
        "itself steps at that number), optimal (glance schedule optimize), or a .json file."
    ),
]
SlowStepsOption = Annotated[
    int | None,
    typer.Option(help="Steps of the slow phase, for auto, own and optimal. Default: 5; own: 2."),
]
FastStepsOption = Annotated[
    int | None, typer.Option(help="Steps of the fast phase. Default: 5; own: 2.")
]
TeacherStepsOption = Annotated[
    int | None, typer.Option(help="The base model's own steps that auto chooses from: 50.")
]
SlowTimestepsOption = Annotated[
    str | None,
    typer.Option(help="Own list, comma separated: timesteps to 1000, or sigmas all at most 1."),
]
FastTimestepsOption = Annotated[
    str | None, typer.Option(help="Own list for the late, less noisy steps.")
]
PresetOption = Annotated[
    PresetChoice, typer.Option(help="The GPU memory to fit; auto: that of the card here.")
]
LauncherOption = Annotated[
    LauncherChoice, typer.Option(help="The public command, or quicker its script alone.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Hub id, diffusers folder, .safetensors file, or small-flux, which is in the "
        "package. Default: family's.",
        parser=find_model,
        metavar="<str>",
    ),
]
TrainingSeedOption = Annotated[int, typer.Option(help="Training seed, at least 1.")]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Further SimpleTuner option; repeatable."),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be done; write and load nothing.",
        rich_help_panel=Group.RUN,
    ),
]
RestartOption = Annotated[
    bool,
    typer.Option("--restart", help="Discard what the run has trained, begin anew."),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Continue a run that was begun elsewhere: unpickles it."),
]
StopWithinOption = Annotated[
    float,
    typer.Option(min=0, help="Seconds that a first Ctrl-C waits for a checkpoint."),
]


class PhaseChoice(StrEnum):
    """--phase."""

    BOTH = "both"
    SLOW = "slow"
    FAST = "fast"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases it stands for, in training order."""
        return tuple(Phase) if self is PhaseChoice.BOTH else (Phase(self.value),)


PhaseOption = Annotated[PhaseChoice, typer.Option(help="Which LoRA to train.")]
