"""`glance runs`: what lies under a folder of runs, how runs differ, and what of them can go."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from glance.core.errors import Checks, RunError, quoted, shown
from glance.core.files import is_folder, is_there, read_text
from glance.core.options import show_size
from glance.core.phase import Phase
from glance.core.plot import require_drawable
from glance.models.base import shown_model
from glance.runs.folder import RUNS, TRAINERS_PAGE, RunFolder, writing
from glance.runs.lock import locked
from glance.runs.losses import draw_losses, last_loss, read_courses
from glance.runs.manifest import Manifest, PhaseState, iterate_runs, load_manifest
from glance.runs.sample import name_safely


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return what is to say of the runs directly below `folder`, the newest first.

    The usual one need not be there yet. Raises RunError for no folder.
    """
    if not is_folder(folder) and folder != RUNS:
        what = "it is not a folder" if is_there(folder) else "there is no such folder"
        raise RunError(f"{folder}: {what}", hint=f"name the folder that holds runs, such as {RUNS}")
    found = sorted(iterate_runs(folder), key=lambda item: item[1].created, reverse=True)
    return [
        {
            "run": str(run.path),
            "family": manifest.settings.family,
            "model": shown_model(manifest.settings.model, run=run.path),
            **_describe(run, manifest),
            "created": manifest.created.isoformat(),
            "states": {phase.value: manifest.phases[phase].state.value for phase in Phase},
            "bytes": _size(run.path),
        }
        for run, manifest in found
    ]


def compare_runs(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """Return what differs between runs, a value for each: settings, what was trained on, losses.

    What each came to, `last_loss` and `verdict`, is there whether it differs or not. Raises
    RunError for what is no run.
    """
    runs, checks = [RunFolder(path) for path in paths], Checks()
    manifests = [checks.make(partial(load_manifest, run)) for run in runs]
    checks.require()
    columns = [_spread(run, one) for run, one in zip(runs, manifests, strict=True) if one]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {
        name: values
        for name, values in rows.items()
        if name in _OUTCOME or any(one != values[0] for one in values)
    }


def say_verdict(verdict: Mapping[str, Any] | None) -> str:
    """Say in few words what a pair is worth, of a verdict as a manifest holds it; "" for none."""
    distance = (verdict or {}).get("distance")
    if not distance or not distance.get("interval"):
        return ""
    low, high = distance["interval"]
    if low <= 0 <= high:
        return "no difference shown"
    part = abs(distance["difference"]) / distance["base"]
    return f"{part:.0%} {'nearer' if high < 0 else 'farther'}"


def remove_run(path: Path) -> int:
    """Remove a run folder with all that is in it, and return how many bytes that was.

    Raises RunError when there is no run, somebody is training in it, or this is in it.
    """
    run = require_own(path)
    size = _size(run.path)
    with locked(run, lambda _: None), writing(run.path):
        shutil.rmtree(run.path)
    return size


def rename_run(path: Path, name: str) -> Path:
    """Give a run folder another name beside the other runs, and return where it is then.

    Raises RunError when there is no run, somebody is training in it, or the name is taken or none.
    """
    run = require_own(path)
    target = run.path.with_name(name) if name_safely(name) == name else None
    if target is None:
        raise RunError(
            f"{shown(name)} is no name for a run",
            hint=f"letters, digits, dots, dashes: {name_safely(name)}; to another place, "
            "move the folder",
        )
    if os.path.lexists(target):
        raise RunError(f"{target} is there already", hint="choose another name")
    with locked(run, lambda _: None), writing(run.path):
        run.path.rename(target)
        RunFolder(target).lock.unlink(missing_ok=True)
    return target


def plot_run(path: Path, picture: Path) -> None:
    """Draw the losses of both phases to a .png or .svg file.

    Raises RunError when there is no run or no losses were kept, InputError for another ending,
    SetupError where the file cannot be written.
    """
    require_drawable(picture)
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


_OUTCOME: Final = ("last_loss", "verdict")


def _describe(run: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """Return what tells a run from others, in few words."""
    settings, teacher = manifest.settings, manifest.settings.teacher
    losses = {phase.value: last_loss(run, manifest, phase) for phase in Phase}
    return {
        "method": "import" if manifest.imported else manifest.command.split()[-1],
        "images": [one.image.removeprefix("data/") for one in manifest.samples],
        "prompts": 0 if teacher is None else len(teacher.prompts),
        "steps": settings.steps,
        "rank": settings.rank,
        "resolution": settings.resolution,
        "last_loss": losses,
        "verdict": manifest.verdict and manifest.verdict.get("sentence"),
        "worth": say_verdict(manifest.verdict),
    }


def _spread(run: RunFolder, manifest: Manifest) -> dict[str, Any]:
    described, settings = _describe(run, manifest), manifest.settings.spread()
    del settings["weights"]  # they are the model's
    if "sizes" in settings:
        settings["sizes"] = [show_size(size) for size in settings["sizes"]]
    return {
        "method": described["method"],
        "images": described["images"],
        **{**settings, "model": shown_model(manifest.settings.model, run=run.path)},
        "schedule": manifest.schedule.name,
        **{
            f"{phase}_timesteps": list(manifest.resolve_schedule().phase(phase).timesteps)
            for phase in Phase
        },
        **{name: described[name] for name in _OUTCOME},
    }


def require_own(path: Path) -> RunFolder:
    """Return a run folder that may be moved or removed; raise RunError for any other."""
    run = RunFolder(path)
    load_manifest(run)
    if path.is_symlink():
        raise RunError(f"{path} is a link to a run", hint=f"name the run: {quoted(path.resolve())}")
    if Path.cwd().is_relative_to(path.resolve()):
        raise RunError(f"{path.resolve()} is where you are", hint="go to another folder first")
    return run


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
