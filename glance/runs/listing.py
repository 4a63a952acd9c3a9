"""`glance runs`: what lies under a folder of runs, and what of it can go."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.canvas import UNICODE, Glyphs
from glance.core.errors import RunError
from glance.core.figure import require_ending
from glance.core.files import read_text
from glance.core.phase import Phase
from glance.models.base import shown_model
from glance.models.lora.file import hash_file
from glance.runs.folder import RUNS, TRAINERS_PAGE, RunFolder
from glance.runs.lock import locked
from glance.runs.losses import Course, read_courses
from glance.runs.manifest import (
    Attempt,
    ImportRecord,
    Manifest,
    PhaseRecord,
    PhaseState,
    iterate_runs,
    load_manifest,
)
from glance.runs.plot import chart_course, describe_course, draw_losses
from glance.runs.settings import TrainSettings

_SMALL_CHART: Final = 7
_LARGE_CHART: Final = 16


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run in a list."""

    run: RunFolder
    manifest: Manifest

    @property
    def bytes(self) -> int:
        """What the folder takes on the disk."""
        return _size(self.run.path)

    def to_json(self) -> dict[str, Any]:
        """Return what `glance runs list --json` says of it."""
        settings = self.manifest.settings
        return {
            "run": str(self.run.path),
            "family": settings.family,
            "model": shown_model(settings.model, run=self.run.path),
            "created": self.manifest.created.isoformat(),
            "states": {phase.value: self.manifest.phases[phase].state.value for phase in Phase},
            "bytes": self.bytes,
        }


def list_runs(folder: Path) -> list[RunSummary]:
    """Return the runs directly below `folder`, the newest first; raise RunError for no folder.

    The usual one need not be there yet.
    """
    if not folder.is_dir() and folder != RUNS:
        what = "it is not a folder" if folder.exists() else "there is no such folder"
        raise RunError(f"{folder}: {what}", hint=f"name the folder that holds runs, such as {RUNS}")
    found = [RunSummary(run, manifest) for run, manifest in iterate_runs(folder)]
    return sorted(found, key=lambda item: item.manifest.created, reverse=True)


def show_run(
    path: Path, *, glyphs: Glyphs = UNICODE, is_large: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Return all that a run's manifest says, its losses, and whether its LoRAs are the recorded.

    As JSON and as lines for a person, with charts that are made of `glyphs`. Raises RunError when
    there is no run.
    """
    run = RunFolder(path)
    manifest = load_manifest(run)
    courses, files = read_courses(run, manifest), _files(run, manifest)
    document = {
        **manifest.model_dump(mode="json"),
        "run": str(path),
        "files": files,
        "losses": {
            course.phase.value: [row.to_json() for row in course.losses] for course in courses
        },
    }
    height = _LARGE_CHART if is_large else _SMALL_CHART
    lines = list(_head(run, manifest))
    for course in courses:
        record = manifest.phases[course.phase]
        lines += _describe_phase(record, course, files)
        if record.attempts:
            lines.append(f"  {describe_course(course)}")
            chart = chart_course(course, height=height, glyphs=glyphs)
            lines += (f"  {line}" for line in chart.splitlines())
    return document, lines


def plot_run(path: Path, picture: Path) -> None:
    """Draw the losses of both phases to a .png or .svg file.

    Raises RunError when there is no run or no losses were kept, InputError for another ending,
    SetupError where the file cannot be written.
    """
    require_ending(picture)
    run = RunFolder(path)
    courses = read_courses(run, load_manifest(run))
    if not any(course.losses for course in courses):
        raise RunError(
            f"run {path} has no losses to draw",
            hint="they are kept while a phase is trained; a run from before glance did so has none",
        )
    draw_losses(courses, picture)


def clean_run(path: Path, *, only_look: bool) -> int:
    """Remove what neither sampling nor continuing needs, and return how many bytes that was.

    Of a finished run: the checkpoints and the caches. Of an unfinished one: what was set aside.
    Raises RunError when there is no run, or somebody is training in it.
    """
    run = RunFolder(path)
    manifest = load_manifest(run)
    if only_look:
        return sum(map(_size, _superfluous(run, manifest)))
    with locked(run, lambda _: None):
        found = list(_superfluous(run, load_manifest(run)))
        freed = sum(map(_size, found))
        for one in found:
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    return freed


def read_log(path: Path, phase: Phase) -> str:
    """Return everything the trainer said in one phase; raise RunError when it said nothing."""
    run = RunFolder(path)
    load_manifest(run)
    try:
        return read_text(run.log(phase), errors="replace")
    except FileNotFoundError as exc:
        raise RunError(
            f"run {path} has no log of its {phase} phase",
            hint="it is written when that phase is trained",
        ) from exc


def _superfluous(run: RunFolder, manifest: Manifest) -> Iterator[Path]:
    for phase in Phase:
        output = run.output(phase)
        is_done = manifest.phases[phase].state is PhaseState.DONE
        for pattern in ("set-aside-*", "checkpoint*tmp", *(["checkpoint-*"] if is_done else [])):
            yield from (one for one in output.glob(pattern) if one.exists())
        if is_done and (output / TRAINERS_PAGE).is_file():
            yield output / TRAINERS_PAGE
    if manifest.is_finished:
        caches = (run.path / "cache", run.transformer)
        yield from (folder for folder in caches if folder.is_dir())


def _files(run: RunFolder, manifest: Manifest) -> dict[str, str]:
    """Return of each recorded LoRA whether it is there, and is what was recorded."""
    found = {}
    for record in manifest.phases.values():
        if record.lora is not None:
            path = run.path / record.lora.path
            is_sound = path.is_file() and hash_file(path) == record.lora.sha256
            wrong = "changed" if path.is_file() else "missing"
            found[record.lora.path] = "sound" if is_sound else wrong
    return found


def _head(run: RunFolder, manifest: Manifest) -> Iterator[str]:
    settings = manifest.settings
    begun = "begun" if manifest.imported is None else "imported"
    day = f"{manifest.created:%Y-%m-%d %H:%M}"
    model = shown_model(settings.model, run=run.path)
    yield f"{run.path}: {settings.family}, {model}, {begun} {day}"
    if sample := manifest.sample:
        yield f"sample: {sample.image}, {sample.width}x{sample.height}"
    if teacher := settings.teacher:
        yield f"taught by {teacher.describe()}"
    if manifest.imported is not None:
        yield from _imported(manifest.imported, settings)
        return
    yield (
        f"settings: {settings.steps} steps, rank {settings.rank}, rate {settings.learning_rate:g}, "
        f"resolution {settings.resolution}, seed {settings.seed}, {settings.device}"
    )


def _imported(record: ImportRecord, settings: TrainSettings) -> Iterator[str]:
    """Yield where the pair came from; of its settings only what somebody recorded."""
    for phase in Phase:
        yield f"imported: {phase} from {record.sources[phase]}, {record.folded[phase]}"
    values = {
        "steps": f"{settings.steps} steps",
        "rank": f"rank {settings.rank}",
        "learning_rate": f"rate {settings.learning_rate:g}",
        "resolution": f"resolution {settings.resolution}",
        "seed": f"seed {settings.seed}",
    }
    known = [text for name, text in values.items() if name not in record.unknown]
    yield f"settings: {', '.join(known)}, elsewhere; not known: {', '.join(record.unknown) or '-'}"


def _describe_phase(record: PhaseRecord, course: Course, files: Mapping[str, str]) -> Iterator[str]:
    timesteps = ", ".join(f"{value:g}" for value in course.timesteps)
    yield f"{course.phase}: {record.state}, timesteps {timesteps}"
    for number, attempt in enumerate(record.attempts, 1):
        yield f"  start {number}: {_describe(attempt)}"
    if record.lora is not None:
        size = record.lora.bytes / 1e6
        yield f"  {record.lora.path}: {size:.1f} MB, {files[record.lora.path]}"


def _describe(attempt: Attempt) -> str:
    parts = [f"{attempt.started:%Y-%m-%d %H:%M:%S}"]
    if attempt.ended is not None:
        parts.append(f"took {attempt.ended - attempt.started}")
    if attempt.resumed:
        parts.append(f"from step {attempt.resumed}")
    parts.append(f"{attempt.measured.steps} steps")
    if attempt.measured.last_loss is not None:
        parts.append(f"last loss {attempt.measured.last_loss:.4f}")
    return ", ".join(parts)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
