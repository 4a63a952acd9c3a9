"""glance.json, the manifest of a run: everything that was asked and done.

Only this module reads or writes it.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from glance import __version__
from glance.core.errors import RunError, ScheduleError, locate_fault, quoted, reason_of
from glance.core.files import read_text, write_text
from glance.core.phase import Phase
from glance.runs.folder import RUNS, RunFolder
from glance.runs.settings import TrainSettings
from glance.schedule.lists import Schedule, preset_name

if TYPE_CHECKING:
    from glance.runs.sample import Sample

SCHEMA_VERSION: Final = 1
# The settings that counted, and those that counted only where they were not the usual.
_OLDER: Final = {
    *("family", "device", "preset", "steps", "rank", "learning_rate", "resolution"),
    *("also_resolutions", "crops", "seed", "sample_every", "sample_prompt", "overrides"),
}
_YOUNGER: Final[Mapping[str, Any]] = {
    "batch_size": 1,
    "alpha_per_rank": 4,
    "layers": "attention",
    "learning_rate_schedule": "constant_with_warmup",
    "teacher": None,
}
_ANOTHER = "train again in another --run folder, or remove this one"


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
    data_sha256: str | None = Field(
        default=None, description="Of all that follows the header; None: of an older run."
    )
    bytes: int
    rank: int


class Measured(_Record):
    """What one start of a phase's trainer took."""

    steps: int = Field(default=0, description="Steps done by this start.")
    seconds_a_step: float | None = Field(default=None, description="From its first to its last.")
    first_loss: float | None = Field(
        default=None, description="Mean over the list, at first; of older runs, of ten steps."
    )
    last_loss: float | None = Field(default=None, description="The same, at last.")
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
        return self._last.measured if self._last else Measured()

    @property
    def steps(self) -> int:
        """How many steps led to what there is now: those of the last start, and those before."""
        return self._last.resumed + self._last.measured.steps if self._last else 0

    @property
    def _last(self) -> Attempt | None:
        done = (attempt for attempt in reversed(self.attempts) if attempt.measured.steps)
        return next(done, None)


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

    @classmethod
    def of(cls, sample: "Sample") -> Self:
        """Return how a run records a sample that it stages."""
        return cls(
            image=f"data/{sample.name}.png",
            caption=f"data/{sample.name}.txt",
            width=sample.width,
            height=sample.height,
            sha256=sample.sha256,
            reference=f"reference/{sample.name}.png" if sample.reference else None,
        )


class ScheduleRecord(_Record):
    """The schedule that the pair is trained for; the sigmas are there for the reader."""

    name: Annotated[str, AfterValidator(preset_name)]
    slow: Mapping[str, tuple[float, ...]]
    fast: Mapping[str, tuple[float, ...]]


class PreviewRecord(_Record):
    """What is sampled while the run is trained: `--preview-every`."""

    every: int = Field(ge=1, description="Steps of the second phase.")
    prompts: tuple[str, ...] = Field(
        default=(), description="None: what is learnt, and one other of the package's."
    )


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
    also_samples: tuple[SampleRecord, ...] = Field(
        default=(), description="The further pairs, of a run that is trained on several."
    )
    settings: TrainSettings
    base_model: str = Field(description="Hub id, or a folder's fingerprint: it may be moved.")
    schedule: ScheduleRecord
    versions: Mapping[str, str] = Field(description="Of the packages that trained it.")
    origin: str = Field(default="", description="The mark of the machine that it was begun on.")
    phases: Mapping[Phase, PhaseRecord] = Field(
        default_factory=lambda: {phase: PhaseRecord() for phase in Phase}, min_length=len(Phase)
    )
    previews: PreviewRecord | None = Field(
        default=None, description="It decides nothing of the pair."
    )
    imported: ImportRecord | None = Field(
        default=None, validate_default=True, description="None: glance trained it."
    )
    pair_id: str | None = Field(
        default=None,
        description="What both LoRAs have in common and no other pair has: 16 hex digits. None: "
        "one of them is not done.",
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
    def samples(self) -> tuple[SampleRecord, ...]:
        """All pairs that it is trained on."""
        return () if self.sample is None else (self.sample, *self.also_samples)

    @property
    def is_finished(self) -> bool:
        """Whether both LoRAs are done."""
        return all(self.phases[phase].state is PhaseState.DONE for phase in Phase)

    @property
    def is_taught(self) -> bool:
        """Whether the base model taught both LoRAs, here or where they come from."""
        return self.settings.teacher is not None or bool(self.imported and self.imported.guidance)

    @property
    def trained_on(self) -> str:
        """What both LoRAs have learnt from: `one image`, for example."""
        if self.is_taught:
            return "the base model's own many steps"
        return f"{len(self.samples)} images" if self.also_samples else "one image"

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

    def resolve_schedule(self) -> Schedule:
        """Return the schedule as the object that checks its rules."""
        return Schedule(
            self.schedule.name, self.schedule.slow["timesteps"], self.schedule.fast["timesteps"]
        )

    def with_phase(self, phase: Phase, **changes: Any) -> Self:
        """Return a copy in which one phase's record has changed: its pair has no id any more."""
        record = self.phases[phase].model_copy(update=changes)
        phases = {**self.phases, phase: record}
        return self.model_copy(update={"phases": phases, "pair_id": None})

    def with_pair_id(self, data_sha256: Mapping[Phase, str]) -> Self:
        """Return a copy whose pair has its id: by the tensors of both LoRAs, and what for.

        Equal trainings give one id, and whatever made a difference, another: settings, another
        version of torch, a GPU that adds in another order.
        """
        decisive = {
            "loras": dict(data_sha256),
            "base_model": self.base_model,
            "schedule": self.schedule.model_dump(mode="json", exclude={"name"}),
        }
        return self.model_copy(update={"pair_id": _digest(decisive)})

    def save(self, run: RunFolder) -> None:
        """Write glance.json atomically."""
        write_text(run.manifest, self.model_dump_json(indent=2) + "\n")


def record_schedule(schedule: Schedule) -> ScheduleRecord:
    """Return the manifest's form of a schedule."""
    return ScheduleRecord.model_validate({"name": schedule.name, **schedule.to_json()})


def load_manifest(run: RunFolder) -> Manifest:
    """Read glance.json; raise RunError if it is missing, damaged or from a newer glance."""
    try:
        content = read_text(run.manifest)
    except OSError as exc:
        raise RunError(
            f"not a run folder: {run.path} ({reason_of(exc)} at {run.manifest.name})",
            hint="give the folder that `glance train` named",
        ) from exc
    except ValueError as exc:
        raise RunError(f"{run.manifest}: it is damaged ({exc})", hint=_ANOTHER) from exc
    return parse_manifest(content, str(run.manifest))


def parse_manifest(content: str | bytes, place: str) -> Manifest:
    """Return what a glance.json holds; raise RunError, as `load_manifest` does, naming `place`."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise RunError(f"{place}: it is damaged ({exc})", hint=_ANOTHER) from exc
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{place}: schema version {version!r}, this glance reads {SCHEMA_VERSION}",
            hint="use the glance that wrote it, or train again in another --run folder",
        )
    try:
        manifest = Manifest.model_validate(document)
        manifest.resolve_schedule()
    except (ValidationError, KeyError, ScheduleError) as exc:
        raise RunError(f"{place}: it is damaged ({_first_line(exc)})", hint=_ANOTHER) from exc
    if manifest.is_finished and manifest.pair_id is None:
        return manifest.model_copy(update={"pair_id": older_pair_id(manifest)})
    return manifest


def older_pair_id(manifest: Manifest) -> str:
    """Return the id that a pair had when glance did not record it: it stands in its headers.

    Over the sample, the base model, the schedule and the settings that there were.
    """
    settings = manifest.settings.model_dump(mode="json", include=_OLDER | _YOUNGER.keys())
    if settings["teacher"]:
        del settings["teacher"]["places"], settings["teacher"]["quantize"]
    decisive: dict[str, Any] = {
        "sample": None if manifest.sample is None else manifest.sample.sha256,
        "base_model": manifest.base_model,
        "schedule": manifest.schedule.model_dump(mode="json", exclude={"name"}),
        "settings": {
            name: value
            for name, value in settings.items()
            if name not in _YOUNGER or value != _YOUNGER[name]
        },
    }
    if manifest.imported is not None:
        decisive["files"] = dict(manifest.imported.sha256)
    return _digest(decisive)


def iterate_runs(runs: Path, *, newest: int | None = None) -> Iterator[tuple[RunFolder, Manifest]]:
    """Yield the sound runs directly below `runs`; with `newest` so many of the last written."""
    found = sorted(runs.glob("*/glance.json"))
    if newest is not None and len(found) > newest:
        with suppress(FileNotFoundError):  # one was removed meanwhile
            found = sorted(found, key=lambda path: path.stat().st_mtime)[-newest:]
    for path in found:
        with suppress(RunError):  # a damaged neighbour must not hide a sound run
            run = RunFolder(path.parent)
            yield run, load_manifest(run)


def find_newest_run() -> RunFolder | None:
    """Return the finished run in runs/ whose training ended last."""
    finished = [
        (_ended(manifest), run) for run, manifest in iterate_runs(RUNS) if manifest.is_finished
    ]
    return max(finished, key=lambda item: item[0])[1] if finished else None


def now() -> datetime:
    """Return this second, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def choose_run(given: Path | None) -> tuple[RunFolder, tuple[str, ...]]:
    """Return the run that is given, else the newest finished one in runs/; and what to say of it.

    Raises RunError when none is given and there is none.
    """
    if given is not None:
        return RunFolder(given), ()
    newest = find_newest_run()
    if newest is None:
        raise RunError(
            f"there is no finished run under ./{RUNS}",
            hint='train one: glance train --image x.png --caption "what it shows"',
        )
    return newest, (f"using the newest finished run, {newest.path}",)


def require_finished(
    run: RunFolder, manifest: Manifest, phases: Collection[Phase] = tuple(Phase)
) -> None:
    """Raise RunError unless these phases are done."""
    states = {phase: manifest.phases[phase].state for phase in phases}
    unfinished = [f"{phase} is {it}" for phase, it in states.items() if it is not PhaseState.DONE]
    if unfinished:
        raise RunError(
            f"run {run.path} is not finished: {', '.join(unfinished)}",
            hint=f"{manifest.command} --resume {quoted(run.path)}",
        )


def read_caption(run: RunFolder, sample: SampleRecord | None) -> str:
    """Return what the run's sample is said to show; raises RunError when it is gone."""
    if sample is None:
        raise RunError(
            f"the pair of {run.path} was imported without its image and caption",
            hint='say what to generate: --prompt "..."',
        )
    path = run.path / sample.caption
    try:
        return read_text(path).strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise RunError(
            f"the run's caption cannot be read: {path}", hint='say what to generate: --prompt "..."'
        ) from exc


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ended(manifest: Manifest) -> datetime:
    ends = [attempt.ended for record in manifest.phases.values() for attempt in record.attempts]
    return max((end for end in ends if end is not None), default=manifest.created)


def _first_line(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return locate_fault(exc.errors()[0])
    return reason_of(exc)
