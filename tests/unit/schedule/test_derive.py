"""Which of the teacher's steps a pair takes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glance.core.errors import ScheduleError
from glance.schedule.derive import choose_steps, derive_schedule
from glance.schedule.shift import DynamicShift, EmpiricalShift, StaticShift


def test_ten_of_fifty_are_the_published_ones() -> None:
    slow, fast = choose_steps(5, 5, 50)

    assert [step + 1 for step in slow] == [1, 3, 5, 7, 9]
    assert [step + 1 for step in fast] == [11, 21, 31, 41, 50]


def test_a_short_fast_phase_does_not_spend_a_step_on_the_very_end() -> None:
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


def test_a_teacher_has_no_more_steps_than_there_are_noise_levels() -> None:
    with pytest.raises(ScheduleError, match="1000 noise levels"):
        choose_steps(5, 5, 1001)


def test_the_size_decides_where_the_models_shift_does() -> None:
    small, large = (derive_schedule(DynamicShift(), (side, side)) for side in (512, 1024))

    assert small.fast_timesteps[0] < large.fast_timesteps[0]
    assert derive_schedule(StaticShift(3), (512, 512)) == derive_schedule(
        StaticShift(3), (1024, 1024)
    )


def test_the_teachers_count_decides_mu_where_it_depends_on_it() -> None:
    fifty = derive_schedule(EmpiricalShift(), (512, 512))
    hundred = derive_schedule(EmpiricalShift(), (512, 512), teacher_steps=100)

    assert fifty.fast_timesteps[0] != pytest.approx(hundred.fast_timesteps[0], abs=0.1)
