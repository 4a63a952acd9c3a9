"""`glance runs`: what lies under a folder of runs, and what of it can go."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glance.core.errors import RunError
from glance.core.files import read_text
from glance.core.phase import Phase
from glance.core.plot import require_ending
from glance.models.base import shown_model
from glance.runs.folder import RUNS, TRAINERS_PAGE, RunFolder
from glance.runs.lock import locked
from glance.runs.losses import draw_losses, read_courses
from glance.runs.manifest import Manifest, PhaseState, iterate_runs, load_manifest


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return what is to say of the runs directly below `folder`, the newest first.

    The usual one need not be there yet. Raises RunError for no folder.
    """
    if not folder.is_dir() and folder != RUNS:
        what = "it is not a folder" if folder.exists() else "there is no such folder"
        raise RunError(f"{folder}: {what}", hint=f"name the folder that holds runs, such as {RUNS}")
    found = sorted(iterate_runs(folder), key=lambda item: item[1].created, reverse=True)
    return [
        {
            "run": str(run.path),
            "family": manifest.settings.family,
            "model": shown_model(manifest.settings.model, run=run.path),
            "created": manifest.created.isoformat(),
            "states": {phase.value: manifest.phases[phase].state.value for phase in Phase},
            "bytes": _size(run.path),
        }
        for run, manifest in found
    ]


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


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
