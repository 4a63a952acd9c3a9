"""The rules of a schedule, how lists are read, and where the presets' numbers come from."""

import re
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glance.core.errors import ScheduleError
from glance.core.phase import Phase
from glance.schedule.lists import Schedule, parse_list, resolve_schedule

SEED_SLOW = (1000.0, 979.1915, 957.5157, 934.9171, 911.3354)
SEED_FAST = (886.7053, 745.0728, 562.9505, 320.0802, 20.0)
NAN, INF = float("nan"), float("inf")


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
    ("text", "bad"),
    [
        ("", {1: ""}),
        ("900,", {2: ""}),
        ("900;800", {1: "900;800"}),
        ("high,900,low", {1: "high", 3: "low"}),
    ],
)
def test_what_is_no_number_is_named_with_its_place(text: str, bad: dict[int, str]) -> None:
    with pytest.raises(ScheduleError) as caught:
        parse_list(text, name="--x")
    assert [problem.message for problem in caught.value.problems] == [
        f"--x, value {place}: {value!r} is not a number" for place, value in bad.items()
    ]


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
        (
            {"slow_timesteps": "1000,500"},
            "the fast list of the schedule guide, value 1: 886.7053 is not below "
            "--slow-timesteps, value 2 = 500",
        ),
    ],
)
def test_what_does_not_fall_is_said_in_the_typed_unit(lists: dict[str, str], message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        resolve_schedule("guide", **lists)

    assert [one.message for one in caught.value.problems] == [message]
    assert "such as 1000," in (caught.value.problems[0].hint or "")


def test_a_list_of_more_values_than_there_are_noise_levels_is_refused() -> None:
    values = ",".join(str(1000 - number / 10) for number in range(1001))

    with pytest.raises(ScheduleError, match="--slow-timesteps: it holds 1,001 values"):
        resolve_schedule("guide", slow_timesteps=values)


@settings(deadline=None, derandomize=True)
@given(st.text() | st.text("0123456789.,-+eEnaifNISF_ "))
@example("sNaN")
@example("-1e999999")
@example("1e999999999999999999999")
@example("1" * 5000)
def test_any_text_is_a_list_or_a_schedule_error(text: str) -> None:
    with suppress(ScheduleError):
        assert len(parse_list(text, name="slow").levels) == text.count(",") + 1


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
    with pytest.raises(ScheduleError) as caught:
        Schedule("mine", slow, fast)
    assert [problem.message for problem in caught.value.problems] == messages


def test_presets_hold_the_published_steps() -> None:
    guide, paper = (resolve_schedule(name) for name in ("guide", "paper"))
    assert (guide.slow_timesteps, guide.fast_timesteps) == (SEED_SLOW, SEED_FAST)
    assert paper.slow_timesteps == (1000.0, 986.9786, 973.2042, 958.6094, 943.1188)
    assert paper.fast_timesteps == (926.6473, 825.7017, 677.9868, 441.1997, 60.5503)
    ends = [guide.phase(phase).end_sigma for phase in Phase]
    assert ends == [pytest.approx(0.8867053), 0]
    assert resolve_schedule("seed") == guide, "what it was called before"
    assert Schedule("seed", SEED_SLOW, SEED_FAST) == guide


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ScheduleError, match=r"^schedule 'fsat' is not known$") as caught:
        resolve_schedule("fsat")
    assert caught.value.problems[0].hint == "choose one of: guide, paper"


def test_own_list_replaces_one_phase_of_the_preset() -> None:
    schedule = resolve_schedule("guide", fast_timesteps="0.5,0.25")
    assert schedule == Schedule("custom", SEED_SLOW, (500.0, 250.0))
