"""Which schedule a name stands for, for a model and a size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glance.core.errors import ScheduleError, UsageError
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.options import ScheduleOptions
from glance.schedule.shift import DynamicShift, EmpiricalShift, StaticShift, derive_schedule

FLUX = find_family("flux")


def write_model(**config: Any) -> str:
    """Write as much of a model as says how its scheduler shifts."""
    folder = Path("model/scheduler")
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"_class_name": "FlowMatchEulerDiscreteScheduler", **config}
    (folder / "scheduler_config.json").write_text(json.dumps(whole))
    return "model"


def auto(model: str, size: tuple[int, int] = (512, 512), **options: Any) -> Any:
    return BaseModel(FLUX, model).resolve_schedule(ScheduleOptions(name="auto", **options), size)


def own(model: str, family: str = "flux", **options: Any) -> Any:
    base = BaseModel(find_family(family), model)
    return base.resolve_schedule(ScheduleOptions(name="own", **options), (512, 512))


def test_a_models_own_config_goes_before_its_familys_usual_shift_and_own_lists_before_it() -> None:
    usual, found = auto(FLUX.default_model), auto(write_model(shift=3.0))
    custom = auto("model", fast_timesteps="500,100")

    assert usual.schedule == derive_schedule(DynamicShift(), (512, 512))

    assert found.schedule == derive_schedule(StaticShift(3.0), (512, 512))
    assert found.source == "of 50 steps of FLUX.1 at any size, by the model's scheduler config"
    assert usual.doubts == found.doubts == ()
    assert (custom.schedule.fast_timesteps, custom.source) == ((500, 100), "yours")


def test_what_a_scheduler_of_another_kind_or_a_pipeline_decides_is_not_read_from_a_config() -> None:
    other = BaseModel(FLUX, write_model(_class_name="UniPCMultistepScheduler")).find_shift()

    assert other.shift == DynamicShift()
    assert "is not of a flow-matching Euler scheduler" in other.doubts[0].message
    itself = BaseModel(find_family("flux2"), write_model(shift=3.0)).find_shift()
    assert itself.shift == EmpiricalShift()


def test_nobody_knows_the_schedule_of_a_family_that_nobody_has_seen() -> None:
    unseen = replace(FLUX, shift=None)

    with pytest.raises(ScheduleError, match="glance does not know the schedule of"):
        BaseModel(unseen, "nowhere").find_shift()
    assert BaseModel(unseen, write_model(shift=2.0)).find_shift().shift == StaticShift(2.0)


def test_own_is_two_and_two_of_the_steps_that_the_pipeline_spaces() -> None:
    found = own(write_model(shift=3.0))

    assert found.schedule == Schedule("own", (1000, 900), (750, 500))
    assert found.source == (
        "what diffusers steps when asked for 4 steps of FLUX.1 at any size, "
        "by the model's scheduler config"
    )


def test_own_is_spaced_by_the_scheduler_where_the_pipeline_leaves_it_that() -> None:
    found = own(write_model(shift=3.0), "sd3", slow_steps=1, fast_steps=1).schedule

    twice = 9 / 1008  # a thousandth of noise, shifted by 3 and by 3 again
    assert (found.slow_timesteps, found.fast_timesteps) == ((1000,), (round(twice * 1000, 4),))


def test_the_number_of_own_steps_decides_a_shift_that_depends_on_it() -> None:
    two = own("nowhere", "flux2", slow_steps=1, fast_steps=1).schedule
    four = own("nowhere", "flux2").schedule

    assert two.fast_timesteps[0] != four.fast_timesteps[0], "both are the middle of the way"


@pytest.mark.parametrize(
    ("ask", "steps", "message"),
    [
        (own, {"slow_steps": 0}, "at least one step"),
        (own, {"fast_steps": 999}, "1000 noise levels"),
        *((auto, {"slow_steps": steps}, f"--slow-steps {steps}") for steps in (0, -1, 11)),
    ],
)
def test_impossible_steps_are_refused(ask: Any, steps: dict[str, int], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        ask(write_model(shift=3.0), **steps)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("seed", {"slow_steps": 0}),
        ("x.json", {"fast_steps": 3}),
        ("optimal", {"teacher_steps": 9}),
        ("own", {"teacher_steps": 9}),
    ],
)
def test_numbers_of_steps_go_with_nothing_that_decides(name: str, steps: dict[str, int]) -> None:
    options = ScheduleOptions(name=name, **steps)

    with pytest.raises(UsageError, match="does not go with --schedule"):
        BaseModel(FLUX, FLUX.default_model).resolve_schedule(options, (512, 512))


def test_a_plain_name_stands_for_options() -> None:
    assert ScheduleOptions.of(None) == ScheduleOptions()
    paper = ScheduleOptions.of("paper")
    found = BaseModel(FLUX, "nowhere").resolve_schedule(paper, (64, 64))
    assert found.schedule is PRESETS["paper"].schedule, "which needs no model"
    assert ScheduleOptions.of(ScheduleOptions(slow_steps=3)) == ScheduleOptions(slow_steps=3)
