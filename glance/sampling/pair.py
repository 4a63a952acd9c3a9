"""Find two LoRAs and what belongs to them: in a run folder, or where the user says."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from glance.core.errors import LoraError, Problem, RunError, SettingsError, UsageError
from glance.core.phase import Phase
from glance.models.base import (
    locate_base,
    recorded_folder,
    recorded_model,
    recorded_transformer,
    resolve_family,
)
from glance.models.families import Family, find_family
from glance.models.lora.examine import LoraFacts, examine_lora, trained_schedule
from glance.models.lora.file import hash_file, read_lora
from glance.runs.final import verify_lora
from glance.runs.folder import RunFolder
from glance.runs.locate import find_local, locate_lora
from glance.runs.manifest import Manifest, load_manifest
from glance.runs.reading import choose_run, require_finished
from glance.sampling.request import InferRequest
from glance.schedule.lists import PRESETS, Schedule


@dataclass(frozen=True, slots=True)
class Pair:
    """Two LoRAs and what belongs to them, wherever they come from."""

    model: str
    transformer: Path | None
    family: Family
    loras: Mapping[Phase, Path]
    hashes: Mapping[Phase, str]  # SHA-256 of the files
    schedule: Schedule | None  # None: nobody recorded what they were trained on
    resolution: int | None = None
    trained: Mapping[str, float] = field(default_factory=dict)
    """What it is sampled with unless told otherwise, by SampleSettings' names."""
    run: RunFolder | None = None
    names: Mapping[Phase, str] | None = None  # of those that are on the Hub, what they are there
    notes: tuple[str, ...] = ()


def find_pair(request: InferRequest) -> Pair:
    """Return the pair that is asked for: by hand, of a run, or of the newest finished run.

    Only the LoRAs that will be used need to be there. Raises UsageError, RunError, LoraError or
    ModelNotFound.
    """
    by_hand = request.slow_lora is not None or request.fast_lora is not None
    if by_hand and request.run is not None:
        raise UsageError("--run and --slow-lora/--fast-lora exclude each other", hint="drop one")
    if by_hand:
        return _pair_by_hand(request)
    if request.run is None and request.model is not None and not wanted_loras(request):
        return _no_pair(request)
    return _pair_of_run(request)


def wanted_loras(request: InferRequest) -> tuple[Phase, ...]:
    """Return the phases that will run with a LoRA."""
    wanted = tuple(Phase) if request.loras is None else request.loras
    runs = tuple(Phase) if request.init_latents is None else (Phase.FAST,)
    return tuple(phase for phase in wanted if phase in runs)


def _no_pair(request: InferRequest) -> Pair:
    family = resolve_family(request.family, request.model)
    model, transformer = _given_model(request, family)
    return Pair(model, transformer, family, {}, {}, None)


def _pair_of_run(request: InferRequest) -> Pair:
    run, notes = choose_run(request.run)
    manifest, wanted = load_manifest(run), wanted_loras(request)
    require_finished(run, manifest, wanted)
    if request.family not in (None, manifest.settings.family):
        raise SettingsError(
            f"--family {request.family}: the run {run.path} is {manifest.settings.family}",
            hint="drop --family",
        )
    family = find_family(manifest.settings.family)
    if request.model is None and request.base is None:
        model, transformer = _model_of_run(run, manifest, family)
    else:
        model, transformer = _given_model(request, family)
    loras = {phase: run.lora(phase) for phase in wanted}
    for path in loras.values():
        verify_lora(read_lora(path), path=path)
    return Pair(
        model,
        transformer,
        family,
        loras,
        {phase: hash_file(path) for phase, path in loras.items()},
        manifest.resolve_schedule(),
        resolution=manifest.settings.resolution,
        trained=manifest.sampling,
        run=run,
        notes=notes,
    )


def _pair_by_hand(request: InferRequest) -> Pair:
    given = {Phase.SLOW: request.slow_lora, Phase.FAST: request.fast_lora}
    wanted = {phase: given[phase] for phase in wanted_loras(request)}
    missing = [phase for phase, source in wanted.items() if source is None]
    if missing:
        raise UsageError(
            f"--{missing[0]}-lora is missing",
            hint=f"give both LoRAs, or say --{_other(missing[0])}-only",
        )
    loras = {
        phase: locate_lora(source, phase) for phase, source in wanted.items() if source is not None
    }
    home = _common_run(loras)
    facts = _examine(loras)
    _require_phases(facts)
    says_model = request.model is not None or request.base is not None
    if home is not None and not says_model and request.family in (None, home[1].settings.family):
        family = find_family(home[1].settings.family)
        model, transformer = _model_of_run(*home, family)
        notes = [f"the model is that of the LoRAs' run, {home[0].path}"]
    else:
        known = next((one.family for one in facts.values() if one.family is not None), None)
        family = resolve_family(request.family or known, request.model)
        model, transformer = _given_model(request, family)
        notes = []
    schedule = trained_schedule(facts) or _preset_of_one(facts)
    if schedule is None and home is not None:
        schedule = home[1].resolve_schedule()
    return Pair(
        model,
        transformer,
        family,
        loras,
        {phase: one.sha256 for phase, one in facts.items()},
        schedule,
        resolution=None if home is None else home[1].settings.resolution,
        trained={
            f"{phase}_guidance": one.guidance
            for phase, one in facts.items()
            if one.guidance is not None
        },
        names={
            phase: source
            for phase, source in wanted.items()
            if source is not None and find_local(source, phase) is None
        },
        notes=(*notes, *_notes(facts, family, schedule, request)),
    )


def _examine(loras: Mapping[Phase, Path]) -> Mapping[Phase, LoraFacts]:
    """Return what the files are; raise LoraError with the problems of both."""
    facts: dict[Phase, LoraFacts] = {}
    problems: list[Problem] = []
    for phase, path in loras.items():
        try:
            facts[phase] = examine_lora(path)
        except LoraError as exc:
            problems += exc.problems
    if problems:
        raise LoraError(dict.fromkeys(problems))
    return facts


def _other(phase: Phase) -> Phase:
    return Phase.FAST if phase is Phase.SLOW else Phase.SLOW


def _notes(
    facts: Mapping[Phase, LoraFacts],
    family: Family,
    schedule: Schedule | None,
    request: InferRequest,
) -> list[str]:
    """Say what the files leave open, and what was taken instead."""
    notes = [
        f"{one.path} says nothing of alpha: it is taken at scale 1; if it was trained with "
        f"another alpha than its rank, {one.rank}, give --{phase}-scale alpha/rank"
        for phase, one in facts.items()
        if not one.scale_is_known
    ]
    notes += [
        f"{one.path} is taken at scale {one.strength.describe()}"
        for one in facts.values()
        if not one.strength.is_own
    ]
    notes += [
        f"{one.path} was trained for {one.family}, the model is {family.name}"
        for one in facts.values()
        if one.family not in (None, family.name)
    ]
    says = (
        *(request.schedule, request.slow_timesteps, request.fast_timesteps),
        *(request.from_image, request.init_latents),  # they record a schedule
    )
    if facts and schedule is None and not any(says):
        notes.append(
            "the LoRAs do not say which timesteps both phases were trained on: the guide's are "
            "used; say others with --schedule, or --slow-timesteps and --fast-timesteps"
        )
    return notes


def _require_phases(facts: Mapping[Phase, LoraFacts]) -> None:
    swapped = [one for phase, one in facts.items() if one.phase not in (None, phase)]
    if swapped:
        raise LoraError(
            Problem(
                f"{one.path} is the {one.phase} LoRA of its pair",
                "swap --slow-lora and --fast-lora",
            )
            for one in swapped
        )


def _given_model(request: InferRequest, family: Family) -> tuple[str, Path | None]:
    """Return the user's --model and --base; a folder stays relative to where the user is."""
    here = Path.cwd()
    model, transformer = locate_base(request.model, request.base, family=family, run=here)
    if (folder := recorded_folder(model, here)).is_dir():
        model = os.path.relpath(folder)
    return model, recorded_transformer(transformer, run=here)


def _preset_of_one(facts: Mapping[Phase, LoraFacts]) -> Schedule | None:
    """Return the preset that the only LoRA was trained on: its header says one phase's list."""
    if len(facts) != 1:
        return None
    ((phase, one),) = facts.items()
    schedules = (preset.schedule for preset in PRESETS.values())
    return next((it for it in schedules if it.phase(phase).timesteps == one.timesteps), None)


def _model_of_run(run: RunFolder, manifest: Manifest, family: Family) -> tuple[str, Path | None]:
    settings = manifest.settings
    model = recorded_model(settings.model, family=family, run=run.path)
    return model, recorded_transformer(settings.transformer, run=run.path)


def _common_run(loras: Mapping[Phase, Path]) -> tuple[RunFolder, Manifest] | None:
    """Return the run that all the files lie in, as checkpoints do."""
    above = [
        {parent for parent in path.resolve().parents if RunFolder(parent).manifest.is_file()}
        for path in loras.values()
    ]
    runs = set.intersection(*above) if above else set()
    if len(runs) == 1:
        run = RunFolder(Path(os.path.relpath(runs.pop())))
        with suppress(RunError):  # damaged: what the files say themselves is enough
            return run, load_manifest(run)
    return None
