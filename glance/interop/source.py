"""What is exported: a finished run, whole and verified, and the names its files get elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from glance.core.errors import LoraError, Problem, RunError
from glance.core.phase import Phase
from glance.models.families import Family, find_family
from glance.models.lora.file import hash_file, read_lora
from glance.models.lora.strength import read_file_strength
from glance.runs.final import verify_lora
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, load_manifest
from glance.runs.modelspec import copy_completed, lora_name, pair_name
from glance.runs.reading import choose_run, require_finished
from glance.schedule.lists import Schedule


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
    def trained_on(self) -> str:
        """What both LoRAs have learnt from: ends a sentence."""
        is_taught = self.manifest.is_taught
        return "on the base model's own many steps" if is_taught else "on one picture"

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


def _require_recorded(run: RunFolder, manifest: Manifest) -> None:
    problems: list[Problem] = []
    for phase in Phase:
        path, record = run.lora(phase), manifest.phases[phase].lora
        try:
            verify_lora(read_lora(path), path=path)
        except LoraError as exc:
            problems += exc.problems
            continue
        if record is not None and hash_file(path) != record.sha256:
            raise RunError(
                f"{path} is not the file that the run recorded when it was trained",
                hint="put the right one back, or train in another --run",
            )
        if (factor := read_file_strength(path).factor) != 1:
            problems.append(_strong(path, factor))
    if problems:
        raise LoraError(problems)


def _strong(path: Path, factor: float | None) -> Problem:
    """Refuse what other tools would apply otherwise than `glance infer`, which reads its header."""
    strength = "each layer's own" if factor is None else f"{factor:g}"
    return Problem(
        f"{path} was not finished by glance: its strength of {strength} is not multiplied in",
        "make a run of the pair with `glance import`, which does that",
    )
