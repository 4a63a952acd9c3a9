"""What every export has in common: the finished run that it is made of, and the folder it fills.

The folder appears whole or not at all, and never takes another's files away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import InputError, LoraError, Problem, SetupError, reason_of
from glance.core.files import beside, require_possible
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import Family, find_family
from glance.models.lora.keys import read_file_strength
from glance.runs.folder import RunFolder
from glance.runs.lora import copy_completed, lora_name, pair_name, require_recorded
from glance.runs.manifest import Manifest, choose_run, load_manifest, require_finished
from glance.schedule.lists import Schedule

_README: Final = Path("README.md")


@dataclass(frozen=True, slots=True)
class Source:
    """A finished run whose LoRAs are those that its manifest records."""

    run: RunFolder
    manifest: Manifest
    family: Family
    schedule: Schedule
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the pair is called elsewhere."""
        return pair_name(self.manifest)

    @property
    def base(self) -> BaseModel:
        """The model that the pair was trained on, wherever it is now."""
        settings = self.manifest.settings
        return BaseModel.recorded(
            settings.model, settings.transformer, family=settings.family, start=self.run.path
        )

    def lora_name(self, phase: Phase) -> str:
        """Return the file name of one phase's LoRA elsewhere."""
        return lora_name(self.manifest, phase)

    def copy_lora(self, phase: Phase, path: Path) -> None:
        """Write one phase's LoRA, as diffusers reads it, to `path`; raises OSError.

        With all metadata that glance writes today; the run's own file stays as it is.
        """
        copy_completed(self.manifest, phase, source=self.run.lora(phase), target=path)


def open_source(path: Path | None) -> Source:
    """Return the finished run at `path`, or the newest one in runs/; read both LoRAs whole.

    Raises RunError: no run, not finished, a LoRA that is not the recorded one. Raises LoraError
    with both files' problems.
    """
    run, notes = choose_run(path)
    manifest = load_manifest(run)
    require_finished(run, manifest)
    _require_recorded(run, manifest)
    family = find_family(manifest.settings.family)
    return Source(run, manifest, family, manifest.resolve_schedule(), notes)


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder that was written."""

    folder: Path
    files: tuple[Path, ...]
    """Everything in it, relative to it."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `glance export ... --json` prints."""
        return {
            "folder": str(self.folder),
            "files": [path.as_posix() for path in self.files],
            "notes": list(self.notes),
        }


@contextmanager
def whole_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes its place, else it goes.

    What is there already is replaced with `force` alone, and only when the new folder has a file
    of every name in it, and more than a README.md: then it was an export.

    Raises InputError: it may not be replaced. Raises SetupError: it cannot be written.
    """
    folder = folder.resolve()  # "." has no name; a link stays one, and what it names is made
    require_possible(folder, "--output")
    _require_free(folder, force=force)
    try:
        with beside(folder) as made:
            yield made
            _require_ours(folder, made)
            _swap(made, folder)
    except OSError as exc:
        raise SetupError(
            f"cannot write {folder}: {reason_of(exc)}", hint="give --output another place"
        ) from exc


def list_files(folder: Path) -> set[Path]:
    """Return every file and link below `folder`, relative to it."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _require_recorded(run: RunFolder, manifest: Manifest) -> None:
    problems: list[Problem] = []
    for phase in Phase:
        path = run.lora(phase)
        try:
            require_recorded(run, manifest, phase)
        except LoraError as exc:
            problems += exc.problems
            continue
        if (factor := read_file_strength(path).factor) != 1:
            # other tools do not read our header, as `glance infer` does
            strength = "each layer's own" if factor is None else f"{factor:g}"
            problems.append(
                Problem(
                    f"{path} was not finished by glance: its strength of {strength} is not "
                    "multiplied in",
                    "make a run of the pair with `glance import`, which does that",
                )
            )
    if problems:
        raise LoraError(problems)


def _require_free(folder: Path, *, force: bool) -> None:
    if folder.resolve() == Path.cwd():
        raise InputError(
            f"{folder} is the folder that you are in: it would be replaced",
            hint="give --output a folder of its own",
        )
    hint = "give another --output"
    if folder.is_dir() and not force and any(folder.iterdir()):
        hint += "; --force would replace what it holds"
        raise InputError(f"{folder} holds files already", hint=hint)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", hint=hint)


def _swap(made: Path, folder: Path) -> None:
    if not folder.exists():
        made.rename(folder)
        return
    with beside(folder) as aside:
        old = aside / "old"
        try:
            folder.rename(old)
            made.rename(folder)
        finally:  # after Ctrl-C, too: one of the two is there, whatever happens
            if not folder.exists():
                old.rename(folder)


def _require_ours(folder: Path, made: Path) -> None:
    old = list_files(folder) if folder.is_dir() else set[Path]()
    strangers = sorted(map(str, old - list_files(made)))
    if not strangers and old == {_README}:  # everybody has one
        strangers = [str(_README)]
    if strangers:
        raise InputError(
            f"{folder} holds what this export would not write: {', '.join(strangers[:3])}",
            hint="give another --output",
        )
