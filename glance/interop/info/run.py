"""A run: what was asked, how far it is, whether its LoRAs are one pair, and what can be done."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glance.core.errors import LoraError, Problem
from glance.core.findings import quoted, shown
from glance.core.phase import Phase
from glance.interop.info.description import (
    Description,
    join_numbers,
    list_problems,
    list_values,
    to_json,
)
from glance.interop.info.lora import LoraFile, lora_document, read_lora_file, summarise
from glance.models.base import shown_model
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, PhaseState, load_manifest

_NAMES: Final = {"learning_rate": "learning rate", "device": "trained on"}


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """One phase, and its LoRA as it is on the disk."""

    phase: Phase
    state: PhaseState
    file: LoraFile | None
    """None: it is not there, or cannot be read."""
    is_recorded: bool | None
    """Whether it is the one that the run recorded; None: there is none to compare."""
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of it."""
        return {
            "state": self.state.value,
            "lora": None if self.file is None else lora_document(self.file),
            "is_recorded": self.is_recorded,
            "problems": to_json(self.problems),
        }


def describe_run(path: Path) -> Description:
    """Return the description of a run; raises RunError when `path` is none."""
    run = RunFolder(path)
    manifest = load_manifest(run)
    reports = {phase: _report(run, manifest, phase) for phase in Phase}
    commands = _commands(run, manifest)
    document = {
        "kind": "run",
        "path": str(path),
        "pair_id": manifest.pair_id,
        "is_pair": _is_pair(manifest, reports),
        "manifest": manifest.model_dump(mode="json"),
        "phases": {phase.value: report.to_json() for phase, report in reports.items()},
        "next": commands,
    }
    return Description(document, tuple(_lines(run, manifest, reports)))


def _report(run: RunFolder, manifest: Manifest, phase: Phase) -> PhaseReport:
    record = manifest.phases[phase]
    file: LoraFile | None = None
    problems: tuple[Problem, ...] = ()
    try:
        file = read_lora_file(run.lora(phase))
    except LoraError as exc:
        problems = exc.problems if record.state is PhaseState.DONE else ()
    known = None if file is None or record.lora is None else file.sha256 == record.lora.sha256
    if known is False:
        problems = (
            Problem(
                f"{run.lora(phase)} is not the file that the run recorded when it was trained",
                "put the right one back, or train in another --run",
            ),
        )
    return PhaseReport(phase, record.state, file, known, problems)


def _is_pair(manifest: Manifest, reports: Mapping[Phase, PhaseReport]) -> bool | None:
    """Whether both LoRAs carry the run's pair id; None when one is not there or carries none."""
    said = [None if own.file is None else own.file.said("pair_id") for own in reports.values()]
    if None in said:
        return None
    return set(said) == {manifest.pair_id}


def _commands(run: RunFolder, manifest: Manifest) -> list[str]:
    """Return the commands to type next."""
    name = quoted(run.path)
    show = f"glance runs show {name}"
    if not manifest.is_finished:
        return [show]
    return [
        f'glance infer --run {name} --prompt "..."',
        f"glance export comfyui {name}",
        show,
    ]


def _lines(
    run: RunFolder, manifest: Manifest, reports: Mapping[Phase, PhaseReport]
) -> Iterator[str]:
    states = ", ".join(f"{phase} {report.state}" for phase, report in reports.items())
    yield f"{shown(run.path)}: run, {states}"
    yield from list_values(_values(run, manifest))
    for report in reports.values():
        yield from _phase_lines(run, manifest, report)
    match _is_pair(manifest, reports):
        case _ if manifest.pair_id is None:
            yield "pair: named when both LoRAs are done"
        case True:
            yield f"pair: {manifest.pair_id}, in the headers of both LoRAs"
        case False:
            yield f"pair: {manifest.pair_id}, but its LoRAs are of another pair"
        case None:
            yield f"pair: {manifest.pair_id}, not in the headers of both LoRAs"
    if not manifest.is_finished:
        yield f"next: run its `{manifest.command}` command again: it continues"
    for command in _commands(run, manifest):
        yield f"next: {command}"


def _values(run: RunFolder, manifest: Manifest) -> dict[str, object]:
    settings, sample, imported = manifest.settings, manifest.sample, manifest.imported
    unknown = () if imported is None else imported.unknown
    asked = {
        name: getattr(settings, name)
        for name in ("steps", "rank", "learning_rate", "resolution", "seed", "device")
        if name not in unknown
    }
    return {
        "family": settings.family,
        "model": shown_model(settings.model, run=run.path),
        "transformer": settings.transformer and shown_model(settings.transformer, run=run.path),
        "base model": manifest.base_model,
        "sample": None if sample is None else f"{sample.image}, {sample.width}x{sample.height}",
        "taught by": None if settings.teacher is None else settings.teacher.describe(),
        "imported from": None if imported is None else ", ".join(imported.sources.values()),
        **{_NAMES.get(name, name): value for name, value in asked.items()},
        "overrides": dict(settings.overrides) or None,
        "begun" if imported is None else "imported": manifest.created.isoformat(),
        "glance": manifest.glance,
        "schedule": manifest.schedule.name,
    }


def _phase_lines(run: RunFolder, manifest: Manifest, report: PhaseReport) -> Iterator[str]:
    part = manifest.resolve_schedule().phase(report.phase)
    timesteps = join_numbers(part.timesteps)
    yield f"{report.phase}: {report.state}, timesteps {timesteps}, to {part.end_timestep:g}"
    if report.file is not None:
        known = {True: "as recorded", False: "not the recorded one", None: "not recorded"}
        name = run.lora(report.phase).relative_to(run.path).as_posix()
        yield f"  {name}: {known[report.is_recorded]}"
        yield f"  {summarise(report.file)}"
        yield f"  SHA-256 {report.file.sha256}, AutoV2 {report.file.sha256[:10]}"
        yield from list_problems(report.file.problems)
    yield from list_problems(report.problems)
