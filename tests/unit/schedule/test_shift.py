"""The schedules of the models themselves, against what was published of them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glance.core.errors import ScheduleError
from glance.models.families import FAMILIES, find_family
from glance.schedule.lists import PRESETS
from glance.schedule.shift import (
    DynamicShift,
    EmpiricalShift,
    Shift,
    StaticShift,
    choose_steps,
    derive_schedule,
    read_shift,
    reshift,
    teacher_sigmas,
)

EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
DYNAMIC = {"use_dynamic_shifting": True}
LINEAR = {"time_shift_type": "linear", "shift_terminal": None}


def lists(name: str, side: int = 1024) -> tuple[tuple[float, ...], tuple[float, ...]]:
    shift = find_family(name).shift
    assert shift is not None
    schedule = derive_schedule(shift, (side, side))
    return schedule.slow_timesteps, schedule.fast_timesteps


@pytest.mark.parametrize(("name", "preset"), [("flux", "paper"), ("qwen_image", "guide")])
def test_the_published_lists_are_derived_to_the_last_decimal(name: str, preset: str) -> None:
    published = PRESETS[preset].schedule

    assert lists(name) == (published.slow_timesteps, published.fast_timesteps)


def test_stable_diffusions_static_shift() -> None:
    slow, fast = lists("sd3")

    assert slow == pytest.approx((1000, 986.30, 971.83, 956.52, 940.30), abs=0.01)
    assert fast == pytest.approx((923.08, 818.18, 666.67, 428.57, 57.69), abs=0.01)
    assert lists("sd3", 512) == (slow, fast), "it does not depend on the size"


def test_shifts_by_their_formulas() -> None:
    flux = DynamicShift()
    mus = [flux.mu(side * side) for side in (32, 64, 96)]
    assert mus == pytest.approx([0.63, 1.15, 2.0166667])
    even = [1 - step / 50 for step in range(50)]
    assert teacher_sigmas(StaticShift(1.0), 64, 64) == pytest.approx(even)
    sigmas = teacher_sigmas(DynamicShift(terminal=0.1), 1024, 1024)
    assert (sigmas[0], sigmas[-1]) == pytest.approx((1.0, 0.1))


@pytest.mark.parametrize("side", [512, 768, 1024, 1536])
@pytest.mark.parametrize("family", [row.name for row in FAMILIES.values() if row.shift])
def test_every_derived_schedule_is_a_valid_one(family: str, side: int) -> None:
    assert lists(family, side)[0][0] == 1000


@pytest.mark.parametrize(
    ("config", "shift"),
    [
        ({}, StaticShift(1.0)),
        ({"shift": 3.0}, StaticShift(3.0)),
        ({"shift": 3.0, "shift_terminal": 0.1}, StaticShift(3.0, 0.1)),
        ({**DYNAMIC, "shift": 3.0}, DynamicShift()),
        ({**DYNAMIC, "base_shift": 0.25, "max_shift": 0.75}, DynamicShift(base=0.25, most=0.75)),
        ({**DYNAMIC, **LINEAR}, DynamicShift(is_linear=True)),
    ],
)
def test_a_schedulers_config_is_read(config: dict, shift: Shift) -> None:
    assert read_shift({**EULER, **config}) == shift


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_beta_sigmas": True}, "has use_beta_sigmas"),
        ({"invert_sigmas": True}, "has invert_sigmas"),
        ({"shift": 0}, "shift is 0"),
        ({"shift": "three"}, "could not convert"),
        ({"shift_terminal": 1.5}, "shift_terminal is 1.5"),
        ({**DYNAMIC, "time_shift_type": "cubic"}, "'cubic'"),
        ({**DYNAMIC, "base_image_seq_len": 1, "max_image_seq_len": 1}, "division by zero"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(config: dict, message: str) -> None:
    with pytest.raises(ScheduleError, match=message) as refused:
        read_shift({**EULER, **config})

    assert "--slow-timesteps" in str(refused.value.problems[0].hint)


@pytest.mark.parametrize("family", ["flux", "qwen_image", "flux2"])
def test_moving_there_and_back_changes_nothing(family: str) -> None:
    shift, schedule = find_family(family).shift, PRESETS["guide"].schedule
    assert shift is not None

    there = reshift(schedule, shift, made_for=(1024, 1024), wanted=(512, 768))
    back = reshift(there, shift, made_for=(512, 768), wanted=(1024, 1024))

    assert back.fast_timesteps == pytest.approx(schedule.fast_timesteps, abs=2e-3)
    assert there.fast_timesteps != pytest.approx(schedule.fast_timesteps, abs=1)


def test_ten_of_fifty_are_the_published_ones_and_fewer_spend_none_on_the_very_end() -> None:
    assert choose_steps(5, 5, 50) == ((0, 2, 4, 6, 8), (10, 20, 30, 40, 49))
    assert choose_steps(2, 2, 50) == ((0, 5), (10, 30))
    assert choose_steps(4, 4, 50)[1] == (10, 20, 30, 40)


@given(st.integers(5, 200), st.data())
def test_any_number_of_steps_runs_through_the_teachers(teacher: int, data: st.DataObject) -> None:
    boundary = round(teacher / 5)
    slow = data.draw(st.integers(1, boundary))
    fast = data.draw(st.integers(1, teacher - boundary))

    chosen = choose_steps(slow, fast, teacher)

    steps = [*chosen[0], *chosen[1]]
    assert (len(chosen[0]), len(chosen[1])) == (slow, fast)
    assert (steps[0], chosen[1][0]) == (0, boundary)
    assert all(before < after for before, after in pairwise([*steps, teacher]))


def test_more_steps_than_there_are_is_refused_for_both_phases_at_once() -> None:
    with pytest.raises(ScheduleError) as refused:
        choose_steps(11, 0, 50)

    assert [problem.message for problem in refused.value.problems] == [
        "--slow-steps 11: the slow phase has 10 of the teacher's 50 steps to choose from",
        "--fast-steps 0: the fast phase has 40 of the teacher's 50 steps to choose from",
    ]
    assert "from 1 to 10" in str(refused.value.problems[0].hint)
    with pytest.raises(ScheduleError, match="1000 noise levels"):
        choose_steps(5, 5, 1001)


def test_size_and_count_decide_where_the_models_shift_depends_on_them() -> None:
    def first(shift: Shift, side: int, steps: int = 50) -> float:
        return derive_schedule(shift, (side, side), teacher_steps=steps).fast_timesteps[0]

    assert first(DynamicShift(), 512) < first(DynamicShift(), 1024)
    assert first(StaticShift(3), 512) == first(StaticShift(3), 1024)
    assert first(EmpiricalShift(), 512) != pytest.approx(first(EmpiricalShift(), 512, 100), abs=0.1)
    ten, fifty = (teacher_sigmas(DynamicShift(), 512, 512, steps=steps) for steps in (10, 50))
    assert ten[5] == pytest.approx(fifty[25]), "half of the way, in both"
