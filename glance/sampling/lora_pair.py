"""Find two LoRAs and what belongs to them: in a run folder, or where the user says."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from glance.core.errors import LoraError, Problem, RunError, SettingsError, UsageError
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import Family
from glance.models.lora.examine import LoraFacts, examine_lora, trained_schedule
from glance.runs.folder import LORA_FILE, RunFolder
from glance.runs.locate import find_local, locate_lora
from glance.runs.lora import lora_name, require_recorded
from glance.runs.manifest import Manifest, choose_run, load_manifest, require_finished
from glance.sampling.request import InferRequest
from glance.schedule.lists import PRESETS, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """Two LoRAs and what belongs to them, wherever they come from."""

    base: BaseModel
    loras: Mapping[Phase, Path] = field(default_factory=dict)
    hashes: Mapping[Phase, str] = field(default_factory=dict)
    """SHA-256 of the files."""
    schedule: Schedule | None = None
    """What they were trained on; None: nobody recorded it."""
    side: int | None = None
    """The root of the area that they were trained at, in pixels; None: nobody knows."""
    trained: Mapping[str, float] = field(default_factory=dict)
    """What it is sampled with unless told otherwise, by SampleSettings' names."""
    run: RunFolder | None = None
    names: Mapping[Phase, str] = field(default_factory=dict)
    """Of those that are on the Hub, what they are called there."""
    notes: tuple[str, ...] = ()

    def exported_names(self) -> Mapping[Phase, str]:
        """Return what the LoRAs are called in other tools: as exported, else as their files are."""
        if self.run is not None:
            manifest = load_manifest(self.run)
            return {phase: lora_name(manifest, phase) for phase in self.loras}
        names = {phase: path.name for phase, path in self.loras.items()}
        for phase, path in self.loras.items():
            if path.name == LORA_FILE:  # both of a pair are called so: diffusers' usual name
                names[phase] = f"{path.resolve().parent.name}-{phase}.safetensors"
        return names


def find_pair(request: InferRequest) -> LoraPair:
    """Return the pair that is asked for: by hand, of a run, or of the newest finished run.

    Only the LoRAs that will be used need to be there. Raises UsageError, RunError, LoraError or
    ModelNotFound.
    """
    by_hand = request.slow_lora is not None or request.fast_lora is not None
    if by_hand and request.run is not None:
        raise UsageError("--run and --slow-lora/--fast-lora exclude each other", hint="drop one")
    if by_hand:
        return _pair_by_hand(request)
    if request.run is None and request.model is not None and not request.wanted_loras:
        return LoraPair(base=_given_model(request, request.family))
    return _pair_of_run(request)


def _pair_of_run(request: InferRequest) -> LoraPair:
    run, notes = choose_run(request.run)
    manifest, wanted = load_manifest(run), request.wanted_loras
    require_finished(run, manifest, wanted)
    family = manifest.settings.family
    if request.family not in (None, family):
        raise SettingsError(
            f"--family {request.family}: the run {run.path} is {family}", hint="drop --family"
        )
    if request.model is None and request.base is None:
        base = _model_of_run(run, manifest)
    else:
        base = _given_model(request, family)
    return LoraPair(
        base=base,
        loras={phase: run.lora(phase) for phase in wanted},
        hashes={phase: require_recorded(run, manifest, phase) for phase in wanted},
        schedule=manifest.resolve_schedule(),
        side=manifest.settings.resolution,
        trained=manifest.sampling,
        run=run,
        notes=notes,
    )


def _pair_by_hand(request: InferRequest) -> LoraPair:
    given = {Phase.SLOW: request.slow_lora, Phase.FAST: request.fast_lora}
    wanted = {phase: given[phase] for phase in request.wanted_loras}
    sources = {phase: source for phase, source in wanted.items() if source is not None}
    missing = next((phase for phase in wanted if phase not in sources), None)
    if missing is not None:
        raise UsageError(
            f"--{missing}-lora is missing", hint=f"give both LoRAs, or say --{missing.other}-only"
        )
    loras = {phase: locate_lora(source, phase) for phase, source in sources.items()}
    home = _common_run(loras)
    facts = _examine(loras)
    says_model = request.model is not None or request.base is not None
    if home is not None and not says_model and request.family in (None, home[1].settings.family):
        base = _model_of_run(*home)
        notes = [f"the model is that of the LoRAs' run, {home[0].path}"]
    else:
        known = next((one.family for one in facts.values() if one.family is not None), None)
        base = _given_model(request, request.family or known)
        notes = []
    schedule = trained_schedule(facts) or _preset_of_one(facts)
    if schedule is None and home is not None:
        schedule = home[1].resolve_schedule()
    guidances = {f"{phase}_guidance": one.guidance for phase, one in facts.items()}
    return LoraPair(
        base=base,
        loras=loras,
        hashes={phase: one.sha256 for phase, one in facts.items()},
        schedule=schedule,
        side=None if home is None else home[1].settings.resolution,
        trained={name: value for name, value in guidances.items() if value is not None},
        names={at: source for at, source in sources.items() if find_local(source, at) is None},
        notes=(*notes, *_notes(facts, base.family, schedule, request)),
    )


def _given_model(request: InferRequest, family: str | None) -> BaseModel:
    return BaseModel.resolve(request.model, base=request.base, family=family)


def _model_of_run(run: RunFolder, manifest: Manifest) -> BaseModel:
    settings = manifest.settings
    return BaseModel.recorded(
        settings.model, settings.transformer, family=settings.family, start=run.path
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
    swapped = [one for phase, one in facts.items() if one.phase not in (None, phase)]
    if swapped and len({one.sha256 for one in facts.values()}) < len(facts):
        one = swapped[0].phase
        raise LoraError(
            f"--slow-lora and --fast-lora are the same LoRA, the {one} one of its pair",
            hint="give the other one as well, or say --slow-only or --fast-only",
        )
    if swapped:
        texts = (f"{one.path} is the {one.phase} LoRA of its pair" for one in swapped)
        raise LoraError(Problem(text, "swap --slow-lora and --fast-lora") for text in texts)
    return facts


def _notes(
    facts: Mapping[Phase, LoraFacts],
    family: Family,
    schedule: Schedule | None,
    request: InferRequest,
) -> Iterator[str]:
    """Say what the files leave open, and what was taken instead."""
    for phase, one in facts.items():
        if not one.scale_is_known:
            yield (
                f"{one.path} says nothing of alpha: it is taken at scale 1; if it was trained with "
                f"another alpha than its rank, {one.rank}, give --{phase}-scale alpha/rank"
            )
        if not one.strength.is_own:
            yield f"{one.path} is taken at scale {one.strength.describe()}"
        if one.family not in (None, family.name):
            yield f"{one.path} was trained for {one.family}, the model is {family.name}"
    says = (
        *(request.schedule.name, request.schedule.slow_timesteps, request.schedule.fast_timesteps),
        *(request.from_image, request.init_latents),  # they record a schedule
    )
    if facts and schedule is None and not any(says):
        yield (
            "the LoRAs do not say which timesteps both phases were trained on: the guide's are "
            "used; say others with --schedule, or --slow-timesteps and --fast-timesteps"
        )


def _preset_of_one(facts: Mapping[Phase, LoraFacts]) -> Schedule | None:
    """Return the preset that the only LoRA was trained on: its header says one phase's list."""
    if len(facts) != 1:
        return None
    ((phase, one),) = facts.items()
    schedules = (preset.schedule for preset in PRESETS.values())
    return next((it for it in schedules if it.phase(phase).timesteps == one.timesteps), None)


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
