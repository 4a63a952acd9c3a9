"""Two finished LoRAs of another trainer, as a finished run."""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from glance.core.device import Device
from glance.core.errors import Checks, LoraError, Problem, SettingsError, UsageError
from glance.core.phase import Phase
from glance.dataset.examine import Examination, load_sample, safe_name
from glance.interop.importing.checks import require_free
from glance.interop.importing.foreign import ForeignLora, open_lora, swapped
from glance.interop.importing.request import ImportRequest, PairImport
from glance.interop.importing.spelling import layer_names, respell
from glance.models.base import detect_family, is_hub_id, locate_base, recorded_folder
from glance.models.checkpoint import is_checkpoint
from glance.models.families import FAMILIES, Family, find_family
from glance.models.schedules import LevelsRequest, Subject, resolve_levels
from glance.runs.folder import LORA_FILE, RUNS, RunFolder
from glance.runs.settings import TrainSettings, resolve_train_settings
from glance.schedule.lists import DEFAULT_SCHEDULE, PRESETS, Schedule

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
    "say which: --schedule seed (the guide's lists, and those of the official code for "
    "Qwen-Image), --schedule paper (the official code's for FLUX.1), or --slow-timesteps and "
    "--fast-timesteps"
)


def plan_pair_import(
    request: ImportRequest, *, configs: Mapping[Phase, Mapping[str, Any]] | None = None
) -> PairImport:
    """Decide the finished run that two LoRAs become; `configs` are what they were trained with.

    Raises UsageError, InputError with all problems of both files, ModelNotFound.
    """
    if request.caption is not None and request.image is None:
        raise UsageError(
            "--caption goes with --image", hint="name the picture that the pair was trained on"
        )
    loras = _open_both(request, configs or {})
    checks = Checks()
    family = checks.make(lambda: _family(request, loras))
    schedule = checks.make(lambda: _schedule(request, loras, family))
    found = checks.make(lambda: _examine(request, family)) if family is not None else None
    checks.require()
    assert family is not None
    assert schedule is not None
    run = RunFolder(request.run or RUNS / _name(request))
    require_free(run)
    settings, unknown = _settings(request, loras, family, run)
    doubts = _check_fit(loras, settings, run)
    if _model(request, loras) is None:
        doubts = (_model_doubt(settings), *doubts)
    if request.drops_text and not any(one.dropped for one in loras.values()):
        doubts = (*doubts, Problem("--drop-text-encoder: the LoRAs have no keys of one"))
    return PairImport(
        run=run,
        loras=loras,
        settings=settings,
        unknown=unknown,
        schedule=schedule,
        sample=None if found is None else found.sample,
        warnings=(*(() if found is None else found.warnings), *doubts),
    )


def _open_both(
    request: ImportRequest, configs: Mapping[Phase, Mapping[str, Any]]
) -> Mapping[Phase, ForeignLora]:
    """Read both files; raise InputError with the problems of both, LoraError when swapped."""
    checks = Checks()
    loras: dict[Phase, ForeignLora] = {}
    for phase in Phase:
        opened = checks.make(partial(_open, phase, request, configs.get(phase)))
        if opened is not None:
            loras[phase] = opened
    checks.require()
    if reason := swapped(loras):
        raise LoraError(reason, hint="swap --slow-lora and --fast-lora")
    slow, fast = (loras[phase].facts for phase in Phase)
    if slow.sha256 == fast.sha256:
        raise LoraError(
            f"{slow.path} and {fast.path} are the same file", hint="give the pair's two LoRAs"
        )
    return loras


def _open(phase: Phase, request: ImportRequest, config: Mapping[str, Any] | None) -> ForeignLora:
    name = request.slow_lora if phase is Phase.SLOW else request.fast_lora
    assert name is not None
    return open_lora(name, phase, alpha=request.alpha, config=config, drops_text=request.drops_text)


def _family(request: ImportRequest, loras: Mapping[Phase, ForeignLora]) -> Family:
    """Return the family that is named, or what the model or the files say; raise InputError."""
    if request.family is not None:
        return find_family(request.family)
    headers = {one.facts.family for one in loras.values() if one.facts.family is not None}
    if len(headers) > 1:
        raise LoraError(
            f"the LoRAs are of two families: {', '.join(sorted(headers))}",
            hint="are they one pair? --family says which is right",
        )
    model = _model(request, loras)
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


def _model(request: ImportRequest, loras: Mapping[Phase, ForeignLora]) -> str | None:
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
    folder = next((one / name for one in above if _is_folder(one / name)), None)
    if folder is not None:
        return os.path.relpath(folder)
    return name if is_hub_id(name) else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a text that is no path
        return False


def _schedule(
    request: ImportRequest, loras: Mapping[Phase, ForeignLora], family: Family | None
) -> Schedule:
    """Return what the user says of the lists, else the files; raise ScheduleError, LoraError."""
    says = (request.schedule, request.slow_timesteps, request.fast_timesteps)
    slow, fast = (loras[phase].timesteps for phase in Phase)
    if not any(says) and slow is not None and fast is not None:
        return name_schedule(Schedule("trained", slow, fast))
    if request.schedule is None and not (request.slow_timesteps and request.fast_timesteps):
        raise LoraError(
            "the files do not say which timesteps they were trained on", hint=_ASK_LISTS
        )
    row = family or find_family(request.family or next(iter(FAMILIES)))
    side = row.resolution
    levels = LevelsRequest(
        name=request.schedule or DEFAULT_SCHEDULE,
        slow_timesteps=request.slow_timesteps,
        fast_timesteps=request.fast_timesteps,
    )
    model = request.model
    whole = model if model is not None and not is_checkpoint(model) else row.default_model
    return resolve_levels(levels, Subject(row, request.base or whole, (side, side))).schedule


def name_schedule(found: Schedule) -> Schedule:
    """Return the preset that has these lists, else the schedule as it is."""
    named = (preset.schedule for preset in PRESETS.values())
    return next((one for one in named if one.to_json() == found.to_json()), found)


def _examine(request: ImportRequest, family: Family) -> Examination | None:
    """Return what is to say of the pair's picture; None when it is not known."""
    if request.image is None:
        return None
    return load_sample(
        request.image,
        caption=request.caption,
        text_tokens=family.text.tokens,
        reference=request.reference,
        edits=family.edits,
    )


def _settings(
    request: ImportRequest, loras: Mapping[Phase, ForeignLora], family: Family, run: RunFolder
) -> tuple[TrainSettings, tuple[str, ...]]:
    """Return what the pair was trained with, and the names of what nobody recorded.

    A setting counts as recorded when both files' configs say the same of it.
    """
    base = _model(request, loras)
    model, transformer = locate_base(base, request.base, family=family, run=run.path)
    known: dict[str, Any] = {}
    unknown = list(_NEVER_RECORDED)
    for option, name in _RECORDED:
        values = [one.config.get(option) for one in loras.values()]
        if _is_usable(name, values[0]) and values[0] == values[1]:
            known[name] = values[0]
        else:
            unknown.append(name)
    settings = resolve_train_settings(
        device=Device.CPU,
        family=family.name,
        model=model,
        rank=max(one.facts.rank for one in loras.values()),
        overrides=_alpha(loras),
        **known,
    )
    return settings.model_copy(update={"transformer": transformer}), tuple(sorted(unknown))


def _alpha(loras: Mapping[Phase, ForeignLora]) -> dict[str, float]:
    """Return the alpha that both were trained with, where it is one number."""
    alphas = {
        None if one.factor is None or one.is_final else one.factor * one.facts.rank
        for one in loras.values()
    }
    alpha = alphas.pop() if len(alphas) == 1 else None
    return {} if alpha is None else {"lora_alpha": alpha}


def _is_usable(name: str, value: Any) -> bool:
    """Whether a recorded value is one that glance could have trained with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return False
    if name == "learning_rate":
        return value <= 1
    if name == "resolution":
        return isinstance(value, int) and value % 64 == 0 and value <= 8192
    return isinstance(value, int) and value < 2**32


def _check_fit(
    loras: Mapping[Phase, ForeignLora], settings: TrainSettings, run: RunFolder
) -> tuple[Problem, ...]:
    """Return what is doubtful; raise InputError with all layers that cannot be placed."""
    folder = recorded_folder(settings.model, run.path)
    known = layer_names(str(folder) if folder.is_dir() else settings.model)
    checks = Checks()
    for one in loras.values():
        if not one.is_final:
            factors = one.factors or {}
            checks.make(partial(respell, one.lora, factors, path=one.path, known=known))
    checks.require()
    doubts = [
        Problem(f"{one.path} was trained for {one.facts.family}, the model is {settings.family}")
        for one in loras.values()
        if one.facts.family not in (None, settings.family)
    ]
    if known is None:
        doubts.append(
            Problem(f"whether the LoRAs fit {settings.model} is not known: the model is not here")
        )
    return tuple(doubts)


def _model_doubt(settings: TrainSettings) -> Problem:
    return Problem(
        f"the files name no base model of the Hub: {settings.model} is taken",
        "say another with --model",
    )


def _name(request: ImportRequest) -> str:
    """Return what the run is called: its picture's name, else that of the slow LoRA's file."""
    if request.image is not None:
        return safe_name(request.image)
    path = Path(str(request.slow_lora).replace(":", "/"))
    named = path.parent / path.parent.name if path.name == LORA_FILE else path
    name = re.sub(r"[-_. ]*slow", "", safe_name(named), flags=re.IGNORECASE).strip("-_. ")
    return name or "imported"
