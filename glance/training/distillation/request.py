"""What is asked of a distillation, and what was decided: plain objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.device import Memory, Quantize
from glance.core.phase import Phase
from glance.models.families import Family
from glance.runs.folder import RunFolder
from glance.runs.settings import Teacher
from glance.sampling.request import GenerationPlan
from glance.sampling.settings import SampleSettings
from glance.training.request import TrainingPlan, TrainingRequest

PROMPTS: Final = 64
"""Of the list that ships with the package, where none are given."""
NOISES: Final = 2
STEPS: Final = 400
BATCH_SIZE: Final = 4
RANK: Final = 16
OWN: Final = "own"
LEARNING_RATE: Final = 2e-4
"""Others train LoRAs of few steps for FLUX.1 and Qwen-Image at 2e-5 to 5e-4 (docs/distill.md)."""
SMALL_RATE: Final = 1e-3
"""Measured on the package's small model (docs/evidence.md); a narrow model bears more."""
SMALL: Final = 0.1
"""Billions of parameters of a transformer, below which it is small."""
MOST_PATHS: Final = 100_000
"""Of one training: a plan holds each of them."""
_FIRST_NOISE: Final = 1_000_000  # far from the seeds that people paint and judge with


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRequest(TrainingRequest):
    """What the user typed, unchecked. None: the model's, or the family's."""

    prompts: tuple[str, ...] = ()
    prompt_file: Path | None = None
    reference: Path | None = None
    sizes: tuple[str, ...] = ()
    noises: int = NOISES
    guidance: float | None = None
    teacher_loras: tuple[str | Path, ...] = ()
    steps: int = STEPS
    batch_size: int = BATCH_SIZE
    rank: int = RANK
    schedule: str = OWN
    memory: Memory = Memory.AUTO
    quantize: Quantize = Quantize.NONE
    keep_recording: bool = False
    compares: bool = True
    """Whether the pair is compared with its base model at the end."""


@dataclass(frozen=True, slots=True)
class PlannedPath:
    """One path of the base model, and the name of its files."""

    name: str
    settings: SampleSettings
    folder: str
    """Of its picture, within the run."""

    def recording(self, run: RunFolder) -> Path:
        """Return where its states lie."""
        return run.recordings / f"{self.name}.safetensors"

    def picture(self, run: RunFolder) -> Path:
        """Return where the picture at its end lies, its caption beside it."""
        return run.path / self.folder / f"{self.name}.png"


def lay_out_paths(teacher: Teacher, settings: SampleSettings) -> Iterator[PlannedPath]:
    """Yield every path, size by size: neighbours can share a batch. Each has a noise of its own.

    `settings` are those that all have in common.
    """
    several = len(teacher.sizes) > 1
    seed = _FIRST_NOISE
    for width, height in teacher.sizes:
        size = f"{width}x{height}"
        for number, prompt in enumerate(teacher.prompts, 1):
            for noise in range(1, teacher.noises + 1):
                seed += 1
                own = {"prompt": prompt, "seed": seed, "width": width, "height": height}
                yield PlannedPath(
                    name=f"{number:04d}-{noise}" + (f"-{size}" if several else ""),
                    settings=settings.model_copy(update=own),
                    folder=f"data/{size}" if several else "data",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationPlan:
    """Everything decided: what is recorded, and the training on it."""

    training: TrainingPlan
    teacher: Teacher
    generation: GenerationPlan
    """The base model alone, as it paints for the recordings."""
    paths: tuple[PlannedPath, ...]
    sigmas: Mapping[tuple[int, int], tuple[float, ...]]
    """The base model's own many, for each size."""
    reference: Path | None
    keep_recording: bool
    compares: bool
    """Whether the pair is judged at the end."""
    judging: tuple[str, ...]
    """Prompts that are not learnt from."""

    @property
    def run(self) -> RunFolder:
        """Where everything goes."""
        return self.training.run

    @property
    def family(self) -> Family:
        """The base model's."""
        return self.generation.family

    @property
    def kept_sigmas(self) -> tuple[float, ...]:
        """Where states are kept: at each step of both phases, and at the end."""
        return (*self.training.schedule.sigmas, 0.0)

    @property
    def is_guided_twice(self) -> bool:
        """Whether each of the teacher's steps takes a second forward pass."""
        scale = self.teacher.guidance
        return not self.family.embeds_guidance and scale > self.family.guidance.off

    @property
    def forwards(self) -> int:
        """How many forward passes of the transformer the recording takes, a picture each."""
        return len(self.paths) * self.teacher.steps * (2 if self.is_guided_twice else 1)

    @property
    def recorded_bytes(self) -> int:
        """How much room the states take until both phases are done."""
        pixels = sum(one.settings.width * one.settings.height for one in self.paths)
        return round(pixels * self.family.latent_numbers_a_pixel * 4 * len(self.kept_sigmas))

    def to_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        guidance = {phase.value: self.teacher.guidance_of(phase) for phase in Phase}
        return {
            **self.training.to_json(),
            "recording": {
                "prompts": len(self.teacher.prompts),
                "noises": self.teacher.noises,
                "sizes": [f"{width}x{height}" for width, height in self.teacher.sizes],
                "paths": len(self.paths),
                "forwards": self.forwards,
                "disk_bytes": self.recorded_bytes,
                "teacher": {
                    "steps": self.teacher.steps,
                    "guidance": self.teacher.guidance,
                    "loras": list(self.teacher.loras),
                },
            },
            "guidance": guidance,
        }
