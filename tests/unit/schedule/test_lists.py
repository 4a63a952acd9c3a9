"""The rules of a schedule, how lists are read, and where the presets' numbers come from."""

import math
import re
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from glance.core.errors import ScheduleError
from glance.core.phase import Phase
from glance.schedule.lists import PRESETS, PhaseSchedule, Schedule, parse_list, resolve_schedule

SEED_SLOW = (1000.0, 979.1915, 957.5157, 934.9171, 911.3354)
SEED_FAST = (886.7053, 745.0728, 562.9505, 320.0802, 20.0)
NAN, INF = float("nan"), float("inf")

properties = settings(deadline=None, derandomize=True)


def problems_of(slow: tuple[float, ...], fast: tuple[float, ...]) -> list[str]:
    with pytest.raises(ScheduleError) as caught:
        Schedule("mine", slow, fast)
    return [problem.message for problem in caught.value.problems]


@st.composite
def decreasing(draw: st.DrawFn) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = draw(
        st.lists(st.floats(0, 1000, exclude_min=True), min_size=2, max_size=20, unique=True)
    )
    values.sort(reverse=True)
    cut = draw(st.integers(1, len(values) - 1))
    return tuple(values[:cut]), tuple(values[cut:])


# --- reading lists -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "timesteps"),
    [
        ("1000,979.1915,957.5157,934.9171,911.3354", SEED_SLOW),
        ("886.7053,745.0728,562.9505,320.0802,20.0", SEED_FAST),
        ("1,0.9791915,0.9575157,0.9349171,0.9113354", SEED_SLOW),
        ("0.8867053,0.7450728,0.5629505,0.3200802,0.02", SEED_FAST),
        (" 900 ,\t800\n", (900.0, 800.0)),
        ("1e3,5e2", (1000.0, 500.0)),
        ("1", (1000.0,)),
        ("2,1", (2.0, 1.0)),
        ("1.0000001,1", (1.0000001, 1.0)),
    ],
)
def test_list_is_read_as_timesteps(text: str, timesteps: tuple[float, ...]) -> None:
    assert parse_list(text, name="--slow-timesteps").timesteps == timesteps


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["--x, value 1: '' is not a number"]),
        ("900,", ["--x, value 2: '' is not a number"]),
        ("900;800", ["--x, value 1: '900;800' is not a number"]),
        (
            "high,900,low",
            ["--x, value 1: 'high' is not a number", "--x, value 3: 'low' is not a number"],
        ),
    ],
)
def test_what_is_no_number_is_named_with_its_place(text: str, messages: list[str]) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_list(text, name="--x")
    assert [problem.message for problem in caught.value.problems] == messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nan", "nan is not a finite number"),
        ("sNaN", "sNaN is not a finite number"),
        ("inf", "inf is not a finite number"),
        ("-1e999999", "-1e999999 is not a finite number"),
        ("1e400", "1e400 is not a finite number"),
        ("0", "0 is not above 0 and at most 1"),
        ("-0.50", "-0.50 is not above 0 and at most 1"),
        ("-5", "-5 is not above 0 and at most 1000"),
        ("1000.0001", "1000.0001 is not above 0 and at most 1000"),
    ],
)
def test_number_that_is_no_timestep_is_refused_as_it_was_typed(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=f"^--slow-timesteps, value 1: {re.escape(message)}$"):
        resolve_schedule("guide", slow_timesteps=text)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"fast_timesteps": "0.95,0.2"},
            "--fast-timesteps, value 1: 0.95 is not below the slow list of the schedule guide, "
            "value 5 = 0.9113354",
        ),
        (
            {"slow_timesteps": "0.9,0.90"},
            "--slow-timesteps, value 2: 0.90 is not below --slow-timesteps, value 1 = 0.9",
        ),
        (
            {"slow_timesteps": "1,0.9", "fast_timesteps": "900,1.5"},
            "--fast-timesteps, value 1: 900 is not below --slow-timesteps, value 2 = 900",
        ),
    ],
)
def test_what_does_not_fall_is_said_in_the_unit_that_was_typed(
    lists: dict[str, str], message: str
) -> None:
    with pytest.raises(ScheduleError) as caught:
        resolve_schedule("guide", **lists)

    assert [one.message for one in caught.value.problems] == [message]
    assert "such as 1000," in (caught.value.problems[0].hint or "")


def test_a_list_of_more_values_than_there_are_noise_levels_is_refused() -> None:
    values = ",".join(str(1000 - number / 10) for number in range(1001))

    with pytest.raises(ScheduleError, match="--slow-timesteps: it holds 1,001 values"):
        resolve_schedule("guide", slow_timesteps=values)


@properties
@given(decreasing())
def test_list_survives_writing_and_reading(lists: tuple[tuple[float, ...], ...]) -> None:
    values = sum(lists, ())
    assume(values[0] > 1)  # else it would be a list of sigmas
    assert parse_list(",".join(map(repr, values)), name="slow").timesteps == values


@properties
@given(st.text() | st.text("0123456789.,-+eEnaifNISF_ "))
@example("sNaN")
@example("-1e999999")
@example("1e999999999999999999999")
@example("1" * 5000)
def test_any_text_is_a_list_or_a_schedule_error(text: str) -> None:
    with suppress(ScheduleError):
        assert len(parse_list(text, name="slow").levels) == text.count(",") + 1


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow", "fast", "messages"),
    [
        ((), (), ["slow: the list is empty", "fast: the list is empty"]),
        ((NAN,), SEED_FAST, ["slow[0]: nan is not a finite number"]),
        ((1000.0, -INF), SEED_FAST, ["slow[1]: -inf is not a finite number"]),
        ((900.0, 950.0), (500.0,), ["slow[1]: 950 is not below slow[0] = 900"]),
        (SEED_SLOW, (911.3354, 500.0), ["fast[0]: 911.3354 is not below slow[4] = 911.3354"]),
        ((562.9505,), (562.9506,), ["fast[0]: 562.9506 is not below slow[0] = 562.9505"]),
        (
            (2000.0, 900.0, NAN, 900.0),
            (0.0,),
            [
                "slow[0]: 2000 is not above 0 and at most 1000",
                "slow[2]: nan is not a finite number",
                "fast[0]: 0 is not above 0 and at most 1000",
                "slow[3]: 900 is not below slow[1] = 900",
            ],
        ),
    ],
)
def test_every_broken_rule_is_named_with_value_and_place(
    slow: tuple[float, ...], fast: tuple[float, ...], messages: list[str]
) -> None:
    assert problems_of(slow, fast) == messages


@properties
@given(
    st.lists(st.sampled_from((NAN, INF, -1.0, 0.0, 1.0, 2.0, 999.0, 1000.0, 1000.5)), max_size=4),
    st.lists(st.floats() | st.sampled_from((0.0, 0.5, 1.0, 998.0)), max_size=3),
)
@example([1000.0], [0.5])
def test_only_decreasing_lists_within_range_are_schedules(
    slow: list[float], fast: list[float]
) -> None:
    values = [*slow, *fast]
    sound = bool(slow and fast) and all(0 < value <= 1000 for value in values)
    sound = sound and all(before > after for before, after in pairwise(values))
    if sound:
        Schedule("mine", tuple(slow), tuple(fast))
    else:
        assert problems_of(tuple(slow), tuple(fast))


# --- units ---------------------------------------------------------------------------------------


@properties
@given(decreasing())
def test_phases_hold_their_lists_in_both_units(lists: tuple[tuple[float, ...], ...]) -> None:
    schedule = Schedule("mine", *lists)
    slow, fast = (schedule.phase(phase) for phase in Phase)
    assert (slow, fast) == (PhaseSchedule(lists[0], lists[1][0]), PhaseSchedule(lists[1], 0.0))
    assert slow.sigmas == tuple(timestep / 1000.0 for timestep in lists[0])
    assert (slow.end_sigma, fast.end_sigma) == (lists[1][0] / 1000.0, 0.0)
    assert schedule.to_json() == {
        "slow": {"timesteps": list(slow.timesteps), "sigmas": list(slow.sigmas)},
        "fast": {"timesteps": list(fast.timesteps), "sigmas": list(fast.sigmas)},
    }


# --- presets -------------------------------------------------------------------------------------


def fifty_steps(mu: float, terminal: float | None) -> list[float]:
    """diffusers' FlowMatchEulerDiscreteScheduler: exponential shift, then the stretch."""
    plain = [1 - step / 50 for step in range(50)]
    sigmas = [math.exp(mu) / (math.exp(mu) + (1 / sigma - 1)) for sigma in plain]
    if terminal is not None:
        scale = (1 - sigmas[-1]) / (1 - terminal)
        sigmas = [1 - (1 - sigma) / scale for sigma in sigmas]
    return [round(1000 * sigma, 4) for sigma in sigmas]


@pytest.mark.parametrize(
    ("name", "mu", "terminal"),
    [("guide", 0.5 + 0.4 * (4096 - 256) / (8192 - 256), 0.02), ("paper", 1.15, None)],
)
def test_preset_is_ten_of_the_models_own_fifty_steps(
    name: str, mu: float, terminal: float | None
) -> None:
    fifty = fifty_steps(mu, terminal)
    ten = tuple(fifty[step - 1] for step in (1, 3, 5, 7, 9, 11, 21, 31, 41, 50))
    schedule = PRESETS[name].schedule
    assert schedule.slow_timesteps + schedule.fast_timesteps == pytest.approx(ten, abs=2e-4)


def test_presets_hold_the_published_steps() -> None:
    guide, paper = (resolve_schedule(name) for name in ("guide", "paper"))
    assert (guide.slow_timesteps, guide.fast_timesteps) == (SEED_SLOW, SEED_FAST)
    assert paper.slow_timesteps == (1000.0, 986.9786, 973.2042, 958.6094, 943.1188)
    assert paper.fast_timesteps == (926.6473, 825.7017, 677.9868, 441.1997, 60.5503)
    assert all(one.source.endswith(".") for one in PRESETS.values())
    assert resolve_schedule("seed") == guide, "what it was called before"
    assert Schedule("seed", SEED_SLOW, SEED_FAST) == guide


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ScheduleError, match=r"^schedule 'fsat' is not known$") as caught:
        resolve_schedule("fsat")
    assert caught.value.problems[0].hint == "choose one of: guide, paper"


def test_own_list_replaces_one_phase_of_the_preset_and_must_fit_the_other() -> None:
    schedule = resolve_schedule("guide", fast_timesteps="0.5,0.25")
    assert schedule == Schedule("custom", SEED_SLOW, (500.0, 250.0))
    said = (
        "the fast list of the schedule guide, value 1: 886.7053 is not below "
        "--slow-timesteps, value 2 = 500"
    )
    with pytest.raises(ScheduleError, match=f"^{said}$"):
        resolve_schedule("guide", slow_timesteps="1000,500")
