"""What is asked of a sampling, as it is typed: a plain object, of which a command is made."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self

from glance.core.device import AUTO, DeviceChoice, Memory, Precision, Quantize
from glance.core.errors import SettingsError, UsageError, as_typed, quoted
from glance.core.options import (
    Flag,
    Group,
    parse_guidance,
    parse_size,
    show_guidance,
    show_size,
)
from glance.core.phase import Phase
from glance.schedule.options import ScheduleOptions

MOST_IMAGES: Final = 10_000
"""Of one command: a plan holds every image, and a day has time for fewer."""

_NUMBER: Final = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)", re.IGNORECASE)
_STRONGEST: Final = 10.0  # as a strength of the pair


@dataclass(frozen=True, slots=True)
class ExtraLora:
    """A LoRA that is none of the pair's: of a style or a character, at work in both phases."""

    file: str | Path
    """A file, a folder that holds one, or owner/repo:file on the Hub."""
    strength: float = 1.0
    with_pair: bool = True
    """Whether it works beside the pair's; else only where none of those does, as what the base
    model had when it taught the pair."""

    @classmethod
    def parse(cls, said: "str | Path | ExtraLora") -> Self:
        """Read FILE[:STRENGTH]: what follows the last colon counts where it is a number.

        Raises SettingsError for a strength that is not finite, or beyond 10.
        """
        if isinstance(said, ExtraLora):
            file, strength, with_pair = said.file, said.strength, said.with_pair
        else:
            head, colon, tail = str(said).rpartition(":")
            has_strength = bool(colon) and _NUMBER.fullmatch(tail) is not None
            file, strength = (head, float(tail)) if has_strength else (said, 1.0)
            with_pair = True
        if not -_STRONGEST <= strength <= _STRONGEST:  # nor is NaN
            raise SettingsError(
                f"--lora {file}:{strength:g}: the strength must be from -10 to 10",
                hint=f"--lora {quoted(Path(file))}:0.8, for example",
            )
        return cls(file, strength, with_pair)

    def __str__(self) -> str:
        """Return what `parse` reads."""
        return f"{self.file}:{as_typed(self.strength)}"


# What sampling, comparing and searching have in common.
Seeds = Annotated[
    tuple[int, ...],
    Flag("Seed of the initial noise; repeatable. Default: 0.", Group.PROMPT, ("--seed",)),
]
FinishedRun = Annotated[
    Path | None, Flag("Run folder. Default: the newest finished run in runs/.", Group.LORAS)
]
ImagesAtOnce = Annotated[
    int, Flag("Images at once; fewer where memory is short.", Group.SAMPLING, least=1, most=64)
]
DeviceName = Annotated[str, Flag("Where to run.", Group.MEMORY, choices=DeviceChoice)]
Offload = Annotated[
    Memory, Flag("What stays on the GPU (docs/sampling-memory.md).", Group.MEMORY, ("--offload",))
]
_QUANTIZE: Final = Flag("Quantize the base model's weights.", Group.MEMORY)
Quantization = Annotated[Quantize, _QUANTIZE]
RunsQuantization = Annotated[Quantize | None, _QUANTIZE]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What the user typed, unchecked. None: the run's, the LoRAs', the image's or the family's.

    What describes an image holds for all of them, but for what a line of `prompt_file` says.
    """

    prompts: Annotated[
        tuple[str, ...], Flag("What the image shows; repeatable.", Group.PROMPT, ("--prompt", "-p"))
    ] = ()
    prompt_file: Annotated[
        Path | None,
        Flag(
            "One prompt a line; or .jsonl, .json: objects with prompt, seed, width, height, ...",
            Group.PROMPT,
        ),
    ] = None
    negative_prompt: Annotated[
        str | None, Flag("What the image should not show.", Group.PROMPT)
    ] = None
    seeds: Seeds = ()
    count: Annotated[
        int | None, Flag("Images per prompt, with consecutive seeds.", Group.PROMPT, least=1)
    ] = None
    reference: Annotated[
        Path | None, Flag("Edit models: the source image.", Group.PROMPT, ("--source-image",))
    ] = None
    from_image: Annotated[
        Path | None,
        Flag(
            "Generate an image of glance's again, by the settings recorded in it; other options "
            "change them.",
            Group.PROMPT,
        ),
    ] = None
    """What it records stands in for all that is not given."""
    run: FinishedRun = None
    slow_lora: Annotated[
        str | None,
        Flag(
            "Slow LoRA instead of a run: a file, a folder, or owner/repo:file on the Hub.",
            Group.LORAS,
        ),
    ] = None
    fast_lora: Annotated[str | None, Flag("Fast LoRA, likewise.", Group.LORAS)] = None
    slow_scale: Annotated[
        float | None, Flag("Strength of the slow LoRA. Default: 1.", Group.LORAS)
    ] = None
    fast_scale: Annotated[
        float | None, Flag("Strength of the fast LoRA. Default: 1.", Group.LORAS)
    ] = None
    extra_loras: Annotated[
        tuple[str | ExtraLora, ...],
        Flag(
            "A further LoRA at work in both phases, such as a style's: a file, a folder, or "
            "owner/repo:file, and its strength (default 1); repeatable.",
            Group.LORAS,
            ("--lora",),
            kind="FILE[:STRENGTH]",
        ),
    ] = ()
    loras: tuple[Phase, ...] | None = None
    """The phases that run with their LoRA; None: both."""
    model: Annotated[
        str | None,
        Flag(
            "Base model: Hub id, diffusers folder, or .safetensors file. Default: the run's.",
            Group.MODEL,
        ),
    ] = None
    base: Annotated[
        str | None,
        Flag(
            "The whole model that a .safetensors file in --model belongs to. Default: the "
            "family's.",
            Group.MODEL,
            ("--pipeline",),
        ),
    ] = None
    family: Annotated[str | None, Flag("Model family. Default: the run's.", Group.MODEL)] = None
    output: Annotated[
        Path | None,
        Flag(
            "Image file, or folder. Default: the run's images/.", Group.OUTPUT, ("--output", "-o")
        ),
    ] = None
    size: Annotated[
        tuple[int, int] | None,
        Flag(
            "Width and height in pixels. Default: as the run was trained.",
            Group.OUTPUT,
            kind="WxH",
            parse=parse_size,
            show=show_size,
        ),
    ] = None
    """In place of width and height."""
    width: Annotated[int | None, Flag("Width alone.", Group.OUTPUT)] = None
    height: Annotated[int | None, Flag("Height alone.", Group.OUTPUT)] = None
    metadata: Annotated[bool, Flag("Do not embed metadata.", Group.OUTPUT, off="--no-metadata")] = (
        True
    )
    save_phases: Annotated[
        bool, Flag("Also save the image at the end of the slow phase.", Group.OUTPUT)
    ] = False
    guidance: Annotated[
        tuple[float, float] | None,
        Flag(
            "Guidance scale of both phases, or SLOW,FAST. Default: what the pair was trained for, "
            "else the family's.",
            Group.SAMPLING,
            kind="A[,B]",
            parse=parse_guidance,
            show=show_guidance,
            commas=True,
        ),
    ] = None
    """In place of slow_guidance and fast_guidance."""
    slow_guidance: Annotated[
        float | None, Flag("Guidance scale of the slow phase alone.", Group.SAMPLING)
    ] = None
    fast_guidance: Annotated[
        float | None, Flag("Guidance scale of the fast phase alone.", Group.SAMPLING)
    ] = None
    true_cfg: Annotated[
        float | None,
        Flag(
            "FLUX: classifier-free guidance besides, needed by a negative prompt.", Group.SAMPLING
        ),
    ] = None
    batch_size: ImagesAtOnce = 1
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    device: DeviceName = AUTO
    dtype: Annotated[
        Precision | None,
        Flag(
            "Data type of the weights. Default: fp32 on the CPU, else bf16; on a GPU that lacks "
            "it fp16, if the model allows.",
            Group.MEMORY,
        ),
    ] = None
    memory: Offload = Memory.AUTO
    quantize: RunsQuantization = None
    compiled: Annotated[
        bool, Flag("torch.compile: a slow first image, then faster.", Group.MEMORY, ("--compile",))
    ] = False
    restart: Annotated[
        bool,
        Flag(
            "Generate every image again, also those that are there already.", Group.RUN, once=True
        ),
    ] = False
    init_latents: Annotated[
        Path | None, Flag("Run the fast phase alone, from saved latents.", Group.ADVANCED)
    ] = None
    save_latents: Annotated[
        bool, Flag("Save the latents between the phases beside the image.", Group.ADVANCED)
    ] = False
    reshift: Annotated[
        bool, Flag("Move the timesteps as the model's shift moves with the size.", Group.ADVANCED)
    ] = False

    def __post_init__(self) -> None:
        """Take a schedule's name for the options, `size` for two fields and `guidance` for two.

        Raises UsageError where one of those two is given as well.
        """
        object.__setattr__(self, "schedule", ScheduleOptions.of(self.schedule))
        for short, names in (
            ("size", ("width", "height")),
            ("guidance", ("slow_guidance", "fast_guidance")),
        ):
            values = getattr(self, short)
            if values is None:
                continue
            for name, value in zip(names, values, strict=True):
                if getattr(self, name) not in (None, value):
                    flag = f"--{name.replace('_', '-')}"
                    raise UsageError(f"--{short} and {flag} exclude each other", hint="drop one")
                object.__setattr__(self, name, value)

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
