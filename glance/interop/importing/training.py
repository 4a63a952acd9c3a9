"""Configs that somebody wrote for SimpleTuner, as a run that `glance train` finds ready."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Final

from glance.core.errors import Checks, InputError, Problem
from glance.core.phase import Phase
from glance.dataset.examine import safe_name
from glance.interop.importing.backend import DataSource, find_data
from glance.interop.importing.checks import require_free
from glance.interop.importing.configs import LIST, TrainerFile
from glance.interop.importing.omissions import remark_omissions
from glance.interop.importing.options import Translation, split_options, translate
from glance.interop.importing.pair import name_schedule
from glance.interop.importing.remark import Remark
from glance.interop.importing.request import ImportRequest, TrainingImport
from glance.runs.folder import RUNS, RunFolder
from glance.schedule.lists import DEFAULT_SCHEDULE, PRESETS, Schedule, parse_list
from glance.training.plan import plan_settings, plan_training
from glance.training.request import TrainingPlan, TrainRequest
from glance.training.simpletuner.render import render_trainer_config

_FLAGS: Final = (
    *("image", "caption", "reference", "family", "model", "base", "run", "steps", "rank"),
    *("learning_rate", "resolution", "seed", "schedule", "slow_timesteps", "fast_timesteps"),
    *("device", "preset"),
)
"""The fields of a TrainRequest that an import sets, in the order of the command line."""
_KEYS: Final = {
    "--steps": ("max_train_steps", "steps"),
    "--rank": ("lora_rank", "rank"),
    "--learning-rate": ("learning_rate", "learning_rate"),
    "--resolution": ("resolution", "resolution"),
    "--seed": ("seed", "seed"),
}
"""What is said with a flag: its key in the configs, and its field in a TrainRequest."""


def plan_training_import(
    request: ImportRequest, files: Mapping[Phase, TrainerFile]
) -> TrainingImport:
    """Decide the run that two configs stand for, and what becomes of each option in them.

    Raises InputError with all problems of both configs, their data and what they ask for.
    """
    slow = files[Phase.SLOW]
    checks = Checks()
    said = checks.make(lambda: translate(files, family=request.family, model=request.model))
    data = checks.make(lambda: find_data(slow, image=request.image, caption=request.caption))
    schedule = checks.make(lambda: read_schedule(files))
    checks.require()
    assert said is not None
    assert data is not None
    assert schedule is not None
    plain = _train_request(request, said, data, schedule)
    run = request.run or RUNS / safe_name(data.image)
    require_free(RunFolder(run))
    try:
        overrides, left_out = _split(plain, said, slow)
        train = replace(plain, run=run, overrides=tuple(overrides))
        plan = plan_training(train)
    except InputError as exc:
        raise type(exc)(_by_key(exc, said, slow)) from exc
    remarks = (
        *data.remarks,
        *left_out,
        *remark_omissions(slow.options, plan.settings, plan.schedule),
    )
    return TrainingImport(plan, train_command(train), tuple(_unique(remarks, plan)))


def _by_key(refusal: InputError, said: Translation, slow: TrainerFile) -> Iterator[Problem]:
    """Yield the problems, those of values that come from the configs with their keys."""
    for problem in refusal.problems:
        flag, _, rest = problem.message.partition(" ")
        key = _KEYS.get(flag)
        if key is None or key[1] not in said.values:
            yield problem
        else:
            hint = problem.hint and problem.hint.replace(f"{flag} ", f"{key[0]}: ")
            yield Problem(f"{slow.path}: {key[0]}: {rest}", hint)


def read_schedule(files: Mapping[Phase, TrainerFile]) -> Schedule:
    """Return both configs' lists, under a preset's name where they are its; raise ScheduleError."""
    slow, fast = (
        parse_list(files[phase].timesteps or "", name=f"{files[phase].path}: {LIST}")
        for phase in Phase
    )
    return name_schedule(Schedule.written("custom", slow, fast))


def train_command(request: TrainRequest) -> tuple[str, ...]:
    """Return the `glance train` command line that asks for this; what is usual is not said."""
    usual = {one.name: one.default for one in fields(TrainRequest)}
    words = ["glance", "train"]
    for name in _FLAGS:
        value = getattr(request, name)
        if value != usual[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for override in request.overrides:
        words += ["--set", override]
    return tuple(words)


def _train_request(
    request: ImportRequest, said: Translation, data: DataSource, schedule: Schedule
) -> TrainRequest:
    values: dict[str, Any] = dict(said.values)
    resolution = data.resolution or values.pop("resolution", None)
    values.pop("resolution", None)
    if schedule.name in PRESETS:
        values["schedule"] = schedule.name
    else:
        for phase in Phase:
            timesteps = schedule.phase(phase).timesteps
            values[f"{phase}_timesteps"] = ",".join(map(repr, timesteps))
    return TrainRequest(
        image=data.image,
        caption=data.caption,
        reference=request.reference,
        run=request.run,
        family=said.family.name,
        model=said.model,
        base=request.base,
        # a picture that is smaller than the family's usual area is trained at its own
        resolution=None if resolution in (None, said.family.resolution) else resolution,
        device=request.device,
        preset=request.preset,
        **values,
    )


def _split(
    plain: TrainRequest, said: Translation, slow: TrainerFile
) -> tuple[list[str], tuple[Remark, ...]]:
    """Return the --set options that are to be kept, and remarks on the others."""
    settings = plan_settings(plain)
    part = PRESETS[DEFAULT_SCHEDULE].schedule.phase(Phase.SLOW)
    ours = render_trainer_config(settings, Phase.SLOW, part)
    kept, remarks = split_options(said.rest, ours=ours, root=slow.root, steps=settings.steps)
    return [f"{name}={_spelled(value)}" for name, value in kept.items()], remarks


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unique(remarks: tuple[Remark, ...], plan: TrainingPlan) -> list[Remark]:
    """Leave out what the plan's own overrides say already."""
    return [one for one in remarks if one.option not in plan.settings.overrides]
