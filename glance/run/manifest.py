"""glance.json, the manifest of a run: everything that was asked and done.

Only this module reads or writes it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from glance import __version__
from glance.errors import RunError, ScheduleError, locate_fault
from glance.files import read_text, write_text
from glance.run.folder import RUNS, RunFolder
from glance.schedule import Phase, Schedule
from glance.settings import TrainSettings

SCHEMA_VERSION: Final = 1


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


class ImportRecord(_Record):
    """Where a finished pair came from that glance has not trained: `glance import`."""

    sources: Mapping[Phase, str] = Field(description="The files' own names, without their folders.")
    sha256: Mapping[Phase, str] = Field(description="Of the files as they were.")
    folded: Mapping[Phase, str] = Field(description="What lora_B was multiplied by, and why.")
    unknown: tuple[str, ...] = Field(
        default=(), description="Settings that nobody recorded: those in `settings` stand in."
    )
    guidance: Mapping[Phase, float] = Field(
        default_factory=dict,
        description="What the LoRAs are trained to be sampled with, where their headers say it.",
    )


class Manifest(_Record):
    """glance.json."""

    schema_version: int = SCHEMA_VERSION
    glance: str = __version__
    created: AwareDatetime = Field(default_factory=lambda: now())
    sample: SampleRecord | None = Field(
        default=None,
        description="None: the base model taught itself, or an imported pair's is not known.",
    )
    settings: TrainSettings
    base_model: str = Field(description="Hub id, or a folder's fingerprint: it may be moved.")
    schedule: ScheduleRecord
    versions: Mapping[str, str] = Field(description="Of the packages that trained it.")
    origin: str = Field(default="", description="The mark of the machine that it was begun on.")
    phases: Mapping[Phase, PhaseRecord] = Field(
        default_factory=lambda: {phase: PhaseRecord() for phase in Phase},
        min_length=len(Phase),
    )
    imported: ImportRecord | None = Field(
        default=None, validate_default=True, description="None: glance trained it."
    )
    verdict: Mapping[str, Any] | None = Field(
        default=None, description="What the pair is worth, as `glance compare --json` says it."
    )

    @field_validator("imported")
    @classmethod
    def _require_sample(
        cls, imported: ImportRecord | None, info: ValidationInfo
    ) -> ImportRecord | None:
        settings = info.data.get("settings")
        is_taught = settings is not None and settings.teacher is not None
        if imported is None and not is_taught and info.data.get("sample", 0) is None:
            raise ValueError("there is no sample, and only an imported pair may have none")
        return imported

    @property
    def is_finished(self) -> bool:
        """Whether both LoRAs are done."""
        return all(self.phases[phase].state is PhaseState.DONE for phase in Phase)

    @property
    def is_taught(self) -> bool:
        """Whether the base model taught both LoRAs, here or where they come from."""
        return self.settings.teacher is not None or bool(self.imported and self.imported.guidance)

    @property
    def command(self) -> str:
        """The command that begins such a run, and continues it."""
        return "glance train" if self.settings.teacher is None else "glance distill"

    @property
    def sampling(self) -> Mapping[str, float]:
        """What the pair is sampled with unless told otherwise, by SampleSettings' names."""
        if self.imported is None and self.settings.teacher is None and self.sample is not None:
            view, *_ = self.settings.views((self.sample.width, self.sample.height))
            return {"width": view.width, "height": view.height}
        if self.imported is None:
            return self.settings.sampling
        return {f"{phase}_guidance": value for phase, value in self.imported.guidance.items()}

    @property
    def pair_id(self) -> str:
        """What both LoRAs of the run have in common and no other pair has: 16 hex digits.

        Over the sample, the base model, the schedule and the settings, and not over where any of
        them lies: it is known before either LoRA is, and a moved run keeps it.
        """
        decisive: dict[str, Any] = {
            "sample": None if self.sample is None else self.sample.sha256,
            "base_model": self.base_model,
            "schedule": self.schedule.model_dump(mode="json", exclude={"name"}),
            "settings": _decisive_settings(self.settings),
        }
        if self.imported is not None:  # of its training little is known, of its files all
            decisive["files"] = dict(self.imported.sha256)
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
        document = json.loads(read_text(run.manifest))
    except OSError as exc:
        raise RunError(
            f"not a run folder: {run.path} ({exc.strerror or exc} at {run.manifest.name})",
            hint="give the folder that `glance train` named",
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


_YOUNGER: Final = frozenset(
    {"batch_size", "alpha_per_rank", "layers", "learning_rate_schedule", "teacher"}
)
"""Settings that runs did not have once: at their defaults they leave a pair's id as it was."""


def _decisive_settings(settings: TrainSettings) -> dict[str, Any]:
    found = settings.model_dump(mode="json", exclude={"model", "transformer", "weights"})
    usual = {name: TrainSettings.model_fields[name].get_default() for name in _YOUNGER}
    return {
        name: value for name, value in found.items() if name not in usual or value != usual[name]
    }


_ANOTHER = "train again in another --run folder, or remove this one"


def _ended(manifest: Manifest) -> datetime:
    ends = [attempt.ended for record in manifest.phases.values() for attempt in record.attempts]
    return max((end for end in ends if end is not None), default=manifest.created)


def _first_line(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return locate_fault(exc.errors()[0])
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
