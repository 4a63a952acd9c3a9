"""The run folder: where everything lies, and glance.json, its manifest.

A run is what people keep, move and share: no path in it leaves it, but for a base model that
lies beside it. Only this module reads or writes glance.json.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from glance import __version__
from glance.errors import RunError, ScheduleError
from glance.files import write_text
from glance.schedule import Phase, Schedule
from glance.settings import TrainSettings

RUNS = Path("runs")
SCHEMA_VERSION = 1
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The layout of one run. Making the object touches nothing."""

    path: Path

    @property
    def manifest(self) -> Path:
        """glance.json."""
        return self.path / "glance.json"

    @property
    def data(self) -> Path:
        """The staged pair."""
        return self.path / "data"

    @property
    def references(self) -> Path:
        """The staged reference, for a family that edits."""
        return self.path / "reference"

    @property
    def images(self) -> Path:
        """Sampled pictures."""
        return self.path / "images"

    @property
    def model(self) -> Path:
        """A base model that travels with the run; most runs have none."""
        return self.path / "model"

    @property
    def unfinished_model(self) -> Path:
        """Where that model is copied to until it is whole."""
        return self.path / "model.part"

    @property
    def transformer(self) -> Path:
        """The transformer of a single file, made ready for the trainer; gone when it is done."""
        return self.path / "transformer"

    @property
    def lock(self) -> Path:
        """Held while somebody trains here."""
        return self.path / "glance.lock"

    def output(self, phase: Phase) -> Path:
        """What SimpleTuner writes for one phase."""
        return self.path / "output" / environment(phase)

    def lora(self, phase: Phase) -> Path:
        """The finished LoRA of one phase."""
        return self.output(phase) / LORA_FILE

    def log(self, phase: Phase) -> Path:
        """Everything the trainer said in one phase."""
        return self.path / "logs" / f"{environment(phase)}.log"

    def losses(self, phase: Phase) -> Path:
        """The loss of each step of one phase."""
        return self.path / "logs" / f"{environment(phase)}-losses.csv"


def environment(phase: Phase) -> str:
    """SimpleTuner's name for one phase: its config folder, its output folder, its log."""
    return f"glance-{phase}"


class PhaseState(StrEnum):
    """How far a phase is. A crash leaves `training` behind: it counts as unfinished."""

    PENDING = "pending"
    TRAINING = "training"
    FAILED = "failed"
    STOPPED = "stopped"
    DONE = "done"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraRecord(_Record):
    """The finished file of a phase."""

    path: str = Field(description="Relative to the run folder.")
    sha256: str
    bytes: int
    rank: int


class Measured(_Record):
    """What one start of a phase's trainer took."""

    steps: int = Field(default=0, description="Steps done by this start.")
    seconds_a_step: float | None = Field(default=None, description="From its first to its last.")
    first_loss: float | None = Field(default=None, description="Mean of its first ten, or half.")
    last_loss: float | None = Field(default=None, description="Mean of its last ten, or half.")
    peak_bytes: int | None = Field(default=None, description="Resident, of the whole tree.")
    peak_gpu_bytes: int | None = Field(default=None, description="Of the card, where NVML tells.")


class Attempt(_Record):
    """One start of a phase's trainer."""

    started: AwareDatetime
    ended: AwareDatetime | None = None
    resumed: int = Field(default=0, description="The step of the checkpoint it went on from.")
    returncode: int | None = Field(default=None, description="Of SimpleTuner; None: it was ended.")
    measured: Measured = Measured()


class PhaseRecord(_Record):
    """One phase of a run."""

    state: PhaseState = PhaseState.PENDING
    attempts: tuple[Attempt, ...] = ()
    lora: LoraRecord | None = None

    @property
    def measured(self) -> Measured:
        """What the last start took that did any steps."""
        done = (attempt.measured for attempt in reversed(self.attempts) if attempt.measured.steps)
        return next(done, Measured())


class SampleRecord(_Record):
    """The pair that the run holds."""

    image: str = Field(description="Staged copy, relative to the run folder.")
    caption: str = Field(description="Staged copy, relative to the run folder.")
    width: int
    height: int
    sha256: str = Field(description="Of the upright RGB pixels and the caption.")
    reference: str | None = Field(
        default=None, description="Staged copy of what is edited, relative to the run folder."
    )


class ScheduleRecord(_Record):
    """The schedule that the pair is trained for; the sigmas are there for the reader."""

    name: str
    slow: Mapping[str, tuple[float, ...]]
    fast: Mapping[str, tuple[float, ...]]


class Manifest(_Record):
    """glance.json."""

    schema_version: int = SCHEMA_VERSION
    glance: str = __version__
    created: AwareDatetime = Field(default_factory=lambda: now())
    sample: SampleRecord
    settings: TrainSettings
    base_model: str = Field(description="Hub id, or a folder's fingerprint: it may be moved.")
    schedule: ScheduleRecord
    versions: Mapping[str, str] = Field(description="Of the packages that trained it.")
    origin: str = Field(default="", description="The mark of the machine that it was begun on.")
    phases: Mapping[Phase, PhaseRecord] = Field(
        default_factory=lambda: {phase: PhaseRecord() for phase in Phase},
        min_length=len(Phase),
    )

    @property
    def is_finished(self) -> bool:
        """Whether both LoRAs are done."""
        return all(self.phases[phase].state is PhaseState.DONE for phase in Phase)

    @property
    def pair_id(self) -> str:
        """What both LoRAs of the run have in common and no other pair has: 16 hex digits.

        Over the sample, the base model, the schedule and the settings, and not over where any of
        them lies: it is known before either LoRA is, and a moved run keeps it.
        """
        decisive = {
            "sample": self.sample.sha256,
            "base_model": self.base_model,
            "schedule": self.schedule.model_dump(mode="json", exclude={"name"}),
            "settings": self.settings.model_dump(mode="json", exclude={"model", "transformer"}),
        }
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def resolve_schedule(self) -> Schedule:
        """Return the schedule as the object that checks its rules."""
        return Schedule(
            self.schedule.name,
            self.schedule.slow["timesteps"],
            self.schedule.fast["timesteps"],
        )

    def with_phase(self, phase: Phase, **changes: Any) -> Self:
        """Return a copy in which one phase's record has changed."""
        record = self.phases[phase].model_copy(update=changes)
        return self.model_copy(update={"phases": {**self.phases, phase: record}})

    def save(self, run: RunFolder) -> None:
        """Write glance.json atomically."""
        write_text(run.manifest, self.model_dump_json(indent=2) + "\n")


def record_schedule(schedule: Schedule) -> ScheduleRecord:
    """Return the manifest's form of a schedule."""
    return ScheduleRecord.model_validate({"name": schedule.name, **schedule.to_json()})


def load_manifest(run: RunFolder) -> Manifest:
    """Read glance.json; raise RunError if it is missing, damaged or from a newer glance."""
    try:
        document = json.loads(run.manifest.read_text(encoding="utf-8"))
    except OSError as exc:
        raise RunError(
            f"not a run folder: {run.path} ({exc.strerror or exc} at {run.manifest.name})",
            hint="give --run the folder that `glance train` named",
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise RunError(f"{run.manifest}: it is damaged ({exc})", hint=_ANOTHER) from exc
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{run.manifest}: schema version {version!r}, this glance reads {SCHEMA_VERSION}",
            hint="use the glance that wrote it, or train again in another --run folder",
        )
    try:
        manifest = Manifest.model_validate(document)
        manifest.resolve_schedule()
    except (ValidationError, KeyError, ScheduleError) as exc:
        raise RunError(
            f"{run.manifest}: it is damaged ({_first_line(exc)})", hint=_ANOTHER
        ) from exc
    return manifest


def iterate_runs(runs: Path) -> Iterator[tuple[RunFolder, Manifest]]:
    """Yield the sound runs directly below `runs`."""
    for path in sorted(runs.glob("*/glance.json")):
        with suppress(RunError):  # a damaged neighbour must not hide a sound run
            run = RunFolder(path.parent)
            yield run, load_manifest(run)


def find_newest_run(runs: Path = RUNS) -> RunFolder | None:
    """Return the finished run under `runs` whose training ended last."""
    finished = [
        (_ended(manifest), run) for run, manifest in iterate_runs(runs) if manifest.is_finished
    ]
    return max(finished, key=lambda item: item[0])[1] if finished else None


def now() -> datetime:
    """Return this second, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


_ANOTHER = "train again in another --run folder, or remove this one"


def _ended(manifest: Manifest) -> datetime:
    ends = [attempt.ended for record in manifest.phases.values() for attempt in record.attempts]
    return max((end for end in ends if end is not None), default=manifest.created)


def _first_line(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        first = exc.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
