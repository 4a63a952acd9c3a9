"""The schedules of the models themselves, against what was published of them."""

import pytest

from glance.families import FAMILIES, Family, find_family
from glance.schedule import PRESETS
from glance.shift import DynamicShift, StaticShift, teacher_schedule, teacher_sigmas


def lists(name: str, side: int = 1024) -> tuple[tuple[float, ...], tuple[float, ...]]:
    shift = find_family(name).shift
    assert shift is not None
    schedule = teacher_schedule(shift, side, side)
    return schedule.slow_timesteps, schedule.fast_timesteps


@pytest.mark.parametrize(("name", "preset"), [("flux", "paper"), ("qwen_image", "seed")])
def test_published_lists_are_derived(name: str, preset: str) -> None:
    published = PRESETS[preset].schedule

    slow, fast = lists(name)

    # to a unit of the fourth decimal: they were published in float32's rounding
    assert slow == pytest.approx(published.slow_timesteps, abs=1.01e-4)
    assert fast == pytest.approx(published.fast_timesteps, abs=1.01e-4)


def test_stable_diffusions_static_shift() -> None:
    slow, fast = lists("sd3")

    assert slow == pytest.approx((1000, 986.30, 971.83, 956.52, 940.30), abs=0.01)
    assert fast == pytest.approx((923.08, 818.18, 666.67, 428.57, 57.69), abs=0.01)
    assert lists("sd3", 512) == (slow, fast), "it does not depend on the size"


def test_mu_grows_with_the_picture() -> None:
    flux = DynamicShift()

    assert flux.mu(32 * 32, 50) == pytest.approx(0.63)
    assert flux.mu(64 * 64, 50) == pytest.approx(1.15)
    assert flux.mu(96 * 96, 50) == pytest.approx(2.0166667)


def test_no_shift_leaves_even_steps() -> None:
    assert teacher_sigmas(StaticShift(1.0), 64, 64) == pytest.approx(
        [1 - step / 50 for step in range(50)]
    )


def test_a_terminal_is_where_the_last_sigma_is_stretched_to() -> None:
    sigmas = teacher_sigmas(DynamicShift(terminal=0.1), 1024, 1024)

    assert (sigmas[0], sigmas[-1]) == pytest.approx((1.0, 0.1))


@pytest.mark.parametrize("side", [512, 768, 1024, 1536])
@pytest.mark.parametrize(
    "family", [row for row in FAMILIES.values() if row.shift], ids=lambda row: row.name
)
def test_every_derived_schedule_is_a_valid_one(family: Family, side: int) -> None:
    assert family.shift is not None

    assert teacher_schedule(family.shift, side, side).slow_timesteps[0] == 1000
