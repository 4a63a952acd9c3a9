"""`glance import`: two LoRAs that another trainer finished become a finished run.

The user's own files are only read.
"""

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from glance import __version__
from glance.core.device import Device
from glance.core.errors import Checks, LoraError, Problem, RunError, SettingsError, UsageError
from glance.core.files import beside, is_folder, state_folder
from glance.core.phase import Phase
from glance.interop.foreign import ForeignLora, layer_names, open_lora, respell
from glance.interop.request import ImportRequest
from glance.models.base import BaseModel, detect_family, is_hub_id
from glance.models.families import FAMILIES, Family, find_family
from glance.models.lora.file import read_lora, write_lora
from glance.runs.checkpoints import Sealer
from glance.runs.folder import LORA_FILE, RUNS, RunFolder, writing
from glance.runs.lora import finalise_lora, find_origin, name_pair, record_lora
from glance.runs.manifest import (
    ImportRecord,
    Manifest,
    PhaseState,
    SampleRecord,
    now,
    record_schedule,
)
from glance.runs.sample import (
    Examination,
    Sample,
    Stage,
    examine_sample,
    name_safely,
    stage_sample,
)
from glance.runs.settings import TrainSettings, resolve_train_settings
from glance.schedule.lists import DEFAULT_SCHEDULE, PRESETS, Schedule
from glance.schedule.options import ScheduleOptions

_RECORDED: Final = (
    ("max_train_steps", "steps"),
    ("learning_rate", "learning_rate"),
    ("resolution", "resolution"),
    ("seed", "seed"),
)
"""What SimpleTuner records of a training, and glance's word for it."""
_MODEL: Final = "pretrained_model_name_or_path"
_NEVER_RECORDED: Final = ("device", "preset", "weights", "crops", "also_resolutions")
_ASK_LISTS: Final = (
    "say which: --schedule guide (the guide's lists, and those of the official code for "
    "Qwen-Image), --schedule paper (the official code's for FLUX.1), or --slow-timesteps and "
    "--fast-timesteps"
)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The finished run that two LoRAs become."""

    run: RunFolder
    loras: Mapping[Phase, ForeignLora]
    base: BaseModel
    settings: TrainSettings
    unknown: tuple[str, ...]
    """Settings that nobody recorded."""
    schedule: Schedule
    sample: Sample | None
    warnings: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `glance import --json` prints."""
        return {
            "run": str(self.run.path),
            "finished": True,
            "family": self.settings.family,
            "model": self.settings.model,
            "schedule": self.schedule.to_json(),
            "loras": {phase.value: lora.to_json() for phase, lora in self.loras.items()},
            "unknown": list(self.unknown),
            "warnings": [warning.message for warning in self.warnings],
        }


def plan_import(request: ImportRequest) -> ImportPlan:
    """Decide the finished run that two LoRAs become. Reads the user's files, writes nothing.

    Raises UsageError for flags that do not go together, InputError with all problems of both files,
    ModelNotFound, and RunError when the run folder is there already.
    """
    _check_flags(request)
    loras = _open_both(request)
    checks = Checks()
    family = checks.make(lambda: _find_family(request, loras))
    trained = checks.make(lambda: _find_lists(request, loras))
    found = checks.make(lambda: _examine(request, family)) if family is not None else None
    checks.require()
    assert family is not None
    assert trained is not None
    run = RunFolder(request.run or RUNS / _name_run(request))
    with writing(run.path):  # SetupError for a path that no file system takes
        is_empty = run.path.is_dir() and not any(run.path.iterdir())
        if run.path.exists() and not is_empty:
            what = "is a run already" if run.manifest.exists() else "is there already"
            raise RunError(f"{run.path} {what}: nothing is overwritten", hint="give another --run")
    named = _find_model(request, loras)
    base = BaseModel.resolve(named, base=request.base, family=family.name)
    if isinstance(trained, ScheduleOptions):
        side = family.resolution
        trained = base.resolve_schedule(trained, (side, side)).schedule
    settings, unknown = _recall_settings(loras, base, run)
    doubts = _check_fit(loras, base)
    if named is None:
        taken = f"the files name no base model of the Hub: {base.location} is taken"
        doubts.insert(0, Problem(taken, "say another with --model"))
    if request.drops_text and not any(one.dropped for one in loras.values()):
        doubts.append(Problem("--drop-text-encoder: the LoRAs have no keys of one"))
    return ImportPlan(
        run=run,
        loras=loras,
        base=base,
        settings=settings,
        unknown=unknown,
        schedule=trained,
        sample=None if found is None else found.sample,
        warnings=(*(() if found is None else found.warnings), *doubts),
    )


def run_import(plan: ImportPlan) -> None:
    """Make the run folder.

    It appears when all of it is written; a failure leaves nothing behind. Raises RunError when
    something is there by now, SetupError where it cannot be written, SampleError or LoraError when
    one of the user's files has changed since it was read.
    """
    folder = plan.run.path
    # beside it: just as deep, so that paths which are relative to it stay right
    with writing(folder), beside(folder) as made:
        run, manifest = RunFolder(made), _make_manifest(plan)
        if plan.sample is not None:
            stage_sample(plan.sample, Stage(run.data, run.references))
        known = layer_names(plan.base.location)
        for phase, lora in plan.loras.items():
            path = run.lora(phase)
            path.parent.mkdir(parents=True)
            if lora.is_final:
                shutil.copyfile(lora.path, path)
            else:
                _write_final(lora, path, known=known, manifest=manifest, phase=phase)
            record = record_lora(run, phase, rank=read_lora(path).rank)
            manifest = manifest.with_phase(phase, state=PhaseState.DONE, lora=record)
        ours = [phase for phase, lora in plan.loras.items() if not lora.is_final]
        name_pair(run, manifest, headers_of=ours).save(run)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists():
            raise RunError(f"{folder} is there by now", hint="give another --run")
        made.rename(folder)


def _check_flags(request: ImportRequest) -> None:
    if request.slow_lora is None and request.fast_lora is None:
        raise UsageError("nothing to import", hint="give --slow-lora and --fast-lora")
    for phase, lora in ((Phase.SLOW, request.slow_lora), (Phase.FAST, request.fast_lora)):
        if lora is None:
            raise UsageError(f"--{phase}-lora is missing", hint="a pair is both")
    if request.alpha is not None and not 0 < request.alpha < math.inf:
        raise SettingsError(
            f"--alpha {request.alpha:g}: it must be above 0", hint="--alpha 128, for example"
        )
    if request.caption is not None and request.image is None:
        raise UsageError(
            "--caption goes with --image", hint="name the image that the pair was trained on"
        )


def _open_both(request: ImportRequest) -> Mapping[Phase, ForeignLora]:
    """Read both files; raise InputError with the problems of both, LoraError when swapped."""
    checks, read = Checks(), partial(open_lora, alpha=request.alpha, drops_text=request.drops_text)
    slow, fast = (
        checks.make(partial(read, str(name), phase))
        for phase, name in ((Phase.SLOW, request.slow_lora), (Phase.FAST, request.fast_lora))
    )
    checks.require()
    assert slow is not None
    assert fast is not None
    loras = {Phase.SLOW: slow, Phase.FAST: fast}
    swapped = [
        f"{one.path} is the {one.facts.phase} LoRA of its pair"
        for phase, one in loras.items()
        if one.facts.phase not in (None, phase)
    ]
    if slow.timesteps and fast.timesteps and max(slow.timesteps) < min(fast.timesteps):
        swapped.append(f"{slow.path} was trained on less noise than {fast.path}")
    if swapped:
        raise LoraError(swapped[0], hint="swap --slow-lora and --fast-lora")
    if slow.facts.sha256 == fast.facts.sha256:
        raise LoraError(
            f"{slow.path} and {fast.path} are the same file", hint="give the pair's two LoRAs"
        )
    return loras


def _find_family(request: ImportRequest, loras: Mapping[Phase, ForeignLora]) -> Family:
    """Return the family that is named, or what the model or the files say; raise InputError."""
    if request.family is not None:
        return find_family(request.family)
    headers = {one.facts.family for one in loras.values() if one.facts.family is not None}
    if len(headers) > 1:
        raise LoraError(
            f"the LoRAs are of two families: {', '.join(sorted(headers))}",
            hint="are they one pair? --family says which is right",
        )
    model = _find_model(request, loras)
    found = detect_family(model) if model is not None else None
    if found is not None:
        return found
    if headers:
        return find_family(headers.pop())
    named = next((one.config.get("model_family") for one in loras.values() if one.config), None)
    row = next((row for row in FAMILIES.values() if row.simpletuner_name == named), None)
    if row is None:
        raise SettingsError(
            "neither file says which model its LoRA is for",
            hint="say it with --model, a Hub id or a folder; or --family for the family's own",
        )
    return row


def _find_model(request: ImportRequest, loras: Mapping[Phase, ForeignLora]) -> str | None:
    """Return the base model that is named, or that the files record if it can still be found.

    That is a folder which lies where SimpleTuner was started, somewhere above the LoRA, or a name
    on the Hub.
    """
    if request.model is not None:
        return request.model
    recorded = {
        str(one.lora.metadata.get("glance.base_model", one.config.get(_MODEL)))
        for one in loras.values()
    }
    name = recorded.pop()
    if recorded or name in ("None", ""):
        return None
    above = next(iter(loras.values())).path.absolute().parents
    folder = next((one / name for one in above if is_folder(one / name)), None)
    if folder is not None:
        return os.path.relpath(folder)
    return name if is_hub_id(name) else None


def _find_lists(
    request: ImportRequest, loras: Mapping[Phase, ForeignLora]
) -> Schedule | ScheduleOptions:
    """Return what the user says of the lists, else what the files say; raise LoraError."""
    asked = request.schedule
    if asked == ScheduleOptions():
        slow, fast = (loras[phase].timesteps for phase in Phase)
        if slow is not None and fast is not None:
            found = Schedule("trained", slow, fast)
            presets = (preset.schedule for preset in PRESETS.values())
            return next((one for one in presets if one.to_json() == found.to_json()), found)
    if asked.name is None and not (asked.slow_timesteps and asked.fast_timesteps):
        raise LoraError(
            "the files do not say which timesteps they were trained on", hint=_ASK_LISTS
        )
    return replace(asked, name=asked.name or DEFAULT_SCHEDULE)


def _examine(request: ImportRequest, family: Family) -> Examination | None:
    """Return what is to say of the pair's image; None when it is not known."""
    if request.image is None:
        return None
    found = examine_sample(
        request.image,
        caption=request.caption,
        text_tokens=family.text.tokens,
        reference=request.reference,
        edits=family.edits,
    )
    found.require()
    return found


def _name_run(request: ImportRequest) -> str:
    """Return the image's name, else that of the slow LoRA's file."""
    if request.image is not None:
        return name_safely(request.image.stem)
    path = Path(str(request.slow_lora).replace(":", "/"))
    named = path.parent / path.parent.name if path.name == LORA_FILE else path
    name = re.sub(r"[-_. ]*slow", "", name_safely(named.stem), flags=re.IGNORECASE).strip("-_. ")
    return name or "imported"


def _recall_settings(
    loras: Mapping[Phase, ForeignLora], base: BaseModel, run: RunFolder
) -> tuple[TrainSettings, tuple[str, ...]]:
    """Return what the pair was trained with, and the names of what nobody recorded.

    A setting counts as recorded when both files' configs say the same of it.
    """
    known: dict[str, Any] = {}
    unknown = list(_NEVER_RECORDED)
    for option, name in _RECORDED:
        values = [one.config.get(option) for one in loras.values()]
        if _is_usable(name, values[0]) and values[0] == values[1]:
            known[name] = values[0]
        else:
            unknown.append(name)
    slow, fast = (
        None if one.factor is None or one.is_final else one.factor * one.facts.rank
        for one in loras.values()
    )
    model, transformer = base.record(run.path)
    settings = resolve_train_settings(
        device=Device.CPU,
        family=base.family.name,
        model=model,
        rank=max(one.facts.rank for one in loras.values()),
        overrides={} if slow is None or slow != fast else {"lora_alpha": slow},
        **known,
    )
    return settings.model_copy(update={"transformer": transformer}), tuple(sorted(unknown))


def _is_usable(name: str, value: Any) -> bool:
    """Whether a recorded value is one that glance could have trained with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return False
    if name == "learning_rate":
        return value <= 1
    if name == "resolution":
        return isinstance(value, int) and value % 64 == 0 and value <= 8192
    return isinstance(value, int) and value < 2**32


def _check_fit(loras: Mapping[Phase, ForeignLora], base: BaseModel) -> list[Problem]:
    """Return what is doubtful; raise InputError with all layers that cannot be placed."""
    known, checks = layer_names(base.location), Checks()
    for one in loras.values():
        if not one.is_final:
            checks.make(partial(respell, one.lora, one.factors, path=one.path, known=known))
    checks.require()
    doubts = [
        Problem(f"{one.path} was trained for {one.facts.family}, the model is {base.family.name}")
        for one in loras.values()
        if one.facts.family not in (None, base.family.name)
    ]
    if known is None:
        doubts.append(
            Problem(f"whether the LoRAs fit {base.location} is not known: the model is not here")
        )
    return doubts


def _write_final(
    lora: ForeignLora,
    path: Path,
    *,
    known: frozenset[str] | None,
    manifest: Manifest,
    phase: Phase,
) -> None:
    """Write it in diffusers' spelling, then finish it as glance finishes its own."""
    factors, uniform, rank = lora.factors, lora.factor, lora.facts.rank
    if uniform is not None:  # finalising multiplies it in, and says so in the header
        factors = dict.fromkeys(factors, 1.0)
    write_lora(respell(lora.lora, factors, path=lora.path, known=known), path)
    finalise_lora(
        path,
        rank=rank,
        alpha=rank * (1.0 if uniform is None else uniform),
        origin=find_origin(manifest, phase, version=__version__),
    )


def _make_manifest(plan: ImportPlan) -> Manifest:
    created, sample = now(), plan.sample
    return Manifest(
        created=created,
        origin=Sealer(state_folder()).mark(created.isoformat()),
        sample=None if sample is None else SampleRecord.of(sample),
        settings=plan.settings,
        base_model=plan.base.fingerprint,
        schedule=record_schedule(plan.schedule),
        versions={},
        imported=ImportRecord(
            sources={phase: lora.path.name for phase, lora in plan.loras.items()},
            sha256={phase: lora.facts.sha256 for phase, lora in plan.loras.items()},
            folded={phase: lora.folded for phase, lora in plan.loras.items()},
            unknown=plan.unknown,
            guidance={
                phase: lora.facts.guidance
                for phase, lora in plan.loras.items()
                if lora.facts.guidance is not None
            },
        ),
    )
