"""What is asked of a batch of images, as it is typed.

Nothing heavy is imported here: a command's help is made without it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from glance.core.errors import InputError, UsageError
from glance.core.options import Flag, Group, Without
from glance.sampling.request import InferRequest
from glance.training.request import TrainRequest

_ONE_RUNS: Final = (
    *("run", "slow_lora", "fast_lora", "loras", "family", "output", "from_image", "init_latents"),
    *("metadata", "compiled"),
)
"""What of `glance infer` makes no sense for many runs: a batch has runs and folders of its own, it
knows its images by their metadata, and a compiled model would be built anew for each rank."""
_MOST_PARTS: Final = 100_000
_MOST_DEVICES: Final = 64


def parse_part(text: str) -> tuple[int, int]:
    """Return K and N of a text such as 2/8; raise InputError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts <= _MOST_PARTS:
        raise InputError(
            f"--part {text[:40]}: not one of N parts, the first of which is 1",
            hint="--part 1/8 to --part 8/8, for example",
        )
    return number, parts


def show_part(part: Sequence[int]) -> str:
    """Return a part as `parse_part` reads it."""
    return "/".join(map(str, part))


def parse_devices(text: str) -> tuple[int, ...]:
    """Return the numbers of GPUs, of a text such as 0,1; raise InputError."""
    devices = [one.strip() for one in text.split(",")]
    if (
        not all(re.fullmatch(r"\d{1,4}", one) for one in devices)
        or len({*map(int, devices)}) < len(devices)
        or len(devices) > _MOST_DEVICES
    ):
        raise InputError(
            f"--devices {text[:40]}: not the numbers of GPUs, each once",
            hint="--devices 0,1, for example; nvidia-smi -L lists them",
        )
    return tuple(map(int, devices))


def show_devices(devices: Sequence[int]) -> str:
    """Return devices as `parse_devices` reads them."""
    return ",".join(map(str, devices))


def _gpus(help: str, group: Group) -> Flag:
    return Flag(help, group, kind="LIST", parse=parse_devices, show=show_devices, commas=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInferRequest:
    """What the user typed of many images of many runs, unchecked."""

    runs: Annotated[
        tuple[Path, ...],
        Flag("A finished run's folder; repeatable.", Group.LORAS, ("--run",)),
    ] = ()
    folder: Annotated[
        Path | None,
        Flag(
            "All finished runs in this folder; others are named, and left out. Default, without "
            "--run: runs.",
            Group.LORAS,
            ("--runs",),
        ),
    ] = None
    images: Annotated[InferRequest, Without(_ONE_RUNS)] = field(default_factory=InferRequest)
    """What each run generates; what it leaves open is the run's."""
    output: Annotated[
        Path,
        Flag("Folder of the images, a folder a run below it.", Group.OUTPUT, ("--output", "-o")),
    ] = Path("images/batch")
    devices: Annotated[
        tuple[int, ...],
        _gpus(
            "GPUs by their numbers, such as 0,1: the images are divided among them.", Group.MEMORY
        ),
    ] = ()
    part: Annotated[
        tuple[int, int] | None,
        Flag(
            "The K-th of N parts of all images: for N machines, each with another K.",
            Group.RUN,
            kind="K/N",
            parse=parse_part,
            show=show_part,
            once=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raise UsageError for images that say what a batch has of its own."""
        usual = InferRequest()
        for name in _ONE_RUNS:
            if getattr(self.images, name) != getattr(usual, name):
                raise UsageError(f"a batch takes no {name} for its images", hint="leave it out")


_ONE_PAIRS: Final = (
    *("image", "caption", "reference", "run", "resume", "restart", "trust", "gpu_ids"),
    "stop_within",
)
"""What of `glance train` makes no sense for many pairs, or is each job's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTrainRequest:
    """What the user typed of a batch of trainings, unchecked."""

    source: Path = Path()
    """A folder of images and captions, or a file of jobs."""
    common: Annotated[TrainRequest, Without(_ONE_PAIRS)] = field(default_factory=TrainRequest)
    """What is said of all jobs: it stands before what a file says."""
    output: Annotated[
        str | None,
        Flag(
            "Folder of the run folders, or an address such as s3://bucket/folder. "
            "Default: runs/ and the name of the folder or file.",
            Group.OUTPUT,
            kind="DIR",
        ),
    ] = None
    devices: Annotated[
        tuple[int, ...],
        _gpus(
            "GPUs by their numbers, such as 0,1: a job on each at a time. Default: all there are.",
            Group.HARDWARE,
        ),
    ] = ()
    ray: Annotated[
        str | None,
        Flag(
            "Run the jobs on a Ray cluster: that of this machine, or the one whose head is there.",
            Group.HARDWARE,
            kind="auto|HOST:PORT",
        ),
    ] = None
    cleans: Annotated[
        bool,
        Flag(
            "Remove each finished run's checkpoints and caches, as glance runs clean does.",
            Group.RUN,
            ("--clean",),
        ),
    ] = False
    draws_sheet: Annotated[
        bool,
        Flag(
            "Do not sample each pair at the end for a contact sheet.", Group.RUN, off="--no-sheet"
        ),
    ] = True

    def __post_init__(self) -> None:
        """Raise UsageError for devices of this machine where the jobs are run elsewhere."""
        if self.ray is not None and self.devices:
            raise UsageError(
                "--devices and --ray exclude each other: Ray gives each job its GPU",
                hint="drop --devices",
            )
