"""Decide an import: what is given, and what it becomes. Reads the user's files, writes nothing."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glance.core.device import AUTO
from glance.core.errors import Problem, SampleError, SettingsError, UsageError
from glance.core.phase import Phase
from glance.interop.importing.backend import DataSource, find_data
from glance.interop.importing.configs import (
    TrainerFile,
    find_trainer_files,
    read_named_files,
    read_trained_config,
)
from glance.interop.importing.options import translate
from glance.interop.importing.pair import plan_pair_import
from glance.interop.importing.request import ImportPlan, ImportRequest, PairImport
from glance.interop.importing.training import plan_training_import
from glance.runs.settings import Preset


def plan_import(request: ImportRequest) -> ImportPlan:
    """Check the request and decide the run that it becomes.

    Raises UsageError for flags that do not go together, InputError with all problems of the files,
    ModelNotFound, and RunError when the run folder is there already.
    """
    _require_one_kind(request)
    if request.slow_lora is not None:
        return plan_pair_import(request)
    return _plan_of_configs(request, _files(request))


def _files(request: ImportRequest) -> Mapping[Phase, TrainerFile]:
    if request.folder is not None:
        return find_trainer_files(request.folder)
    assert request.slow_config is not None
    assert request.fast_config is not None
    return read_named_files(request.slow_config, request.fast_config)


def _plan_of_configs(request: ImportRequest, files: Mapping[Phase, TrainerFile]) -> ImportPlan:
    there = [phase for phase in Phase if files[phase].lora.is_file()]
    if request.retrain or len(there) < len(Phase):
        if request.alpha is not None:
            raise SettingsError(
                "--alpha is of LoRAs that are trained",
                hint="say lora_alpha in the configs, or --set lora_alpha=N to `glance train`",
            )
        if request.drops_text:
            raise SettingsError(
                "--drop-text-encoder is of LoRAs that are trained",
                hint="drop it: glance trains the transformer alone",
            )
        plan = plan_training_import(request, files)
        if not there or request.retrain:
            return plan
        only = Problem(
            f"only the {there[0]} LoRA is trained: both are trained anew, with the same settings",
            "finish the other one with SimpleTuner and import again, if that is wanted",
        )
        training = replace(plan.training, warnings=(only, *plan.warnings))
        return replace(plan, training=training)
    return _plan_of_trained(request, files)


def _plan_of_trained(request: ImportRequest, files: Mapping[Phase, TrainerFile]) -> PairImport:
    """Import both finished LoRAs, with what SimpleTuner recorded beside them."""
    said = translate(files, family=request.family, model=request.model)
    data, doubt = _find_data(request, files[Phase.SLOW])
    side = {} if data is None or data.resolution is None else {"resolution": data.resolution}
    configs: dict[Phase, Mapping[str, Any]] = {
        phase: {**file.options, **(read_trained_config(file.lora) or {}), **side}
        for phase, file in files.items()
    }
    asked = replace(
        request,
        slow_lora=str(files[Phase.SLOW].lora),
        fast_lora=str(files[Phase.FAST].lora),
        family=said.family.name,
        model=said.model,
        image=None if data is None else data.image,
        caption=None if data is None else data.caption,
    )
    plan = plan_pair_import(asked, configs=configs)
    return replace(plan, warnings=(*doubt, *plan.warnings))


def _find_data(
    request: ImportRequest, file: TrainerFile
) -> tuple[DataSource | None, tuple[Problem, ...]]:
    """Return the picture; None, and why, where a finished pair goes without it."""
    try:
        return find_data(file, image=request.image, caption=request.caption), ()
    except SampleError as exc:
        return None, exc.problems


def _require_one_kind(request: ImportRequest) -> None:
    """Raise UsageError unless exactly one kind of thing is given, and whole."""
    configs, loras = (
        (request.slow_config, request.fast_config),
        (request.slow_lora, request.fast_lora),
    )
    kinds = [request.folder is not None, any(configs), any(loras)]
    if sum(kinds) != 1:
        raise UsageError(
            "nothing to import" if not any(kinds) else "these exclude each other",
            hint="give a folder of SimpleTuner configs, or --slow-config and --fast-config, "
            "or --slow-lora and --fast-lora",
        )
    for first, second, name in ((*configs, "config"), (*loras, "lora")):
        if (first is None) is not (second is None):
            missing = Phase.FAST if second is None else Phase.SLOW
            raise UsageError(f"--{missing}-{name} is missing", hint="a pair is both")
    lists = (request.schedule, request.slow_timesteps, request.fast_timesteps)
    if not any(loras) and any(lists):
        raise UsageError(
            "--schedule, --slow-timesteps and --fast-timesteps go with --slow-lora and --fast-lora",
            hint="the configs say their lists: change flow_custom_timesteps there",
        )
    if any(loras):
        _refuse_idle(request)
    if request.alpha is not None and not 0 < request.alpha < math.inf:
        raise SettingsError(
            f"--alpha {request.alpha:g}: it must be above 0", hint="--alpha 128, for example"
        )


def _refuse_idle(request: ImportRequest) -> None:
    """Raise UsageError for flags of a training where there is nothing to train."""
    idle = {
        "--retrain": request.retrain,
        "--device": request.device != AUTO,
        "--preset": request.preset != Preset.GB24,
    }
    for flag, is_given in idle.items():
        if is_given:
            raise UsageError(f"{flag} goes with configs: these are trained", hint="drop it")
