"""Which noise levels are run."""

from typing import Any

import pytest

from glance.core.errors import ScheduleError
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.lora_pair import LoraPair
from glance.sampling.plan import decide_schedule
from glance.sampling.request import InferRequest
from glance.sampling.settings import resolve_sample_settings
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.options import ScheduleOptions
from glance.schedule.shift import derive_schedule

SEED, PAPER = PRESETS["guide"].schedule, PRESETS["paper"].schedule


def levels(
    trained: Schedule | None,
    *sizes: tuple[int, int],
    family: str = "flux",
    loras: tuple[Phase, ...] = tuple(Phase),
    **request: Any,
) -> tuple[Schedule, list[str]]:
    row = find_family(family)
    pictures = [
        resolve_sample_settings(row, prompt="x", width=width, height=height, loras=loras)
        for width, height in sizes or ((1024, 1024),)
    ]
    pair = LoraPair(base=BaseModel(row, row.default_model), schedule=trained, side=1024)
    return decide_schedule(InferRequest(**request), pair, pictures)


def test_what_was_trained_is_run() -> None:
    assert levels(PAPER) == (PAPER, [])


def test_without_any_word_it_is_the_guides() -> None:
    assert levels(None)[0] is SEED


def test_levels_that_a_lora_was_not_trained_on_are_warned_of() -> None:
    found, notes = levels(SEED, schedule=ScheduleOptions(fast_timesteps="886.7053,500,20"))

    assert found.fast_timesteps == (886.7053, 500, 20)
    assert notes == [
        "the fast LoRA runs at timesteps 886.705 500 20, "
        "it was trained on 886.705 745.073 562.951 320.08 20",
    ]


def test_a_part_of_the_trained_list_is_no_reason_to_warn() -> None:
    assert levels(SEED, schedule=ScheduleOptions(fast_timesteps="886.7053,20"))[1] == []


def test_nobody_is_warned_of_a_lora_that_is_not_used() -> None:
    assert levels(SEED, schedule="paper", loras=())[1] == []


def test_reshift_moves_the_teachers_steps_to_those_of_another_size() -> None:
    found = levels(PAPER, (512, 512), reshift=True)[0]

    there = derive_schedule(find_family("flux").shift, (512, 512))
    assert found.slow_timesteps == pytest.approx(there.slow_timesteps, abs=3e-4)
    assert found.fast_timesteps == pytest.approx(there.fast_timesteps, abs=3e-4)
    assert found.name == "paper for 512x512"


def test_reshift_keeps_the_end_of_a_schedule_that_is_stretched_to_one() -> None:
    found = levels(SEED, (512, 768), family="qwen_image", reshift=True)[0]

    there = derive_schedule(find_family("qwen_image").shift, (512, 768))
    assert found.fast_timesteps == pytest.approx(there.fast_timesteps, abs=2e-3)
    assert found.fast_timesteps[-1] == pytest.approx(20, abs=1e-3)


def test_reshift_to_the_same_size_changes_nothing() -> None:
    assert levels(SEED, reshift=True)[0].slow_timesteps == SEED.slow_timesteps


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        ("sd3", [(512, 512)], "has the same schedule at every size"),
        ("flux", [(512, 512), (256, 512)], "several sizes: 256x512, 512x512"),
    ],
)
def test_reshift_that_cannot_be_is_refused(
    family: str, sizes: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        levels(SEED, *sizes, family=family, reshift=True)


def test_the_models_own_schedule_is_that_of_the_pictures_size() -> None:
    options = ScheduleOptions(name="auto", slow_steps=2, fast_steps=3)
    found = levels(None, (512, 512), schedule=options)[0]

    shift = find_family("flux").shift
    assert shift is not None
    assert found == derive_schedule(shift, (512, 512), slow_steps=2, fast_steps=3)


@pytest.mark.parametrize("name", ["auto", "own"])
def test_a_derived_schedule_is_for_one_size(name: str) -> None:
    with pytest.raises(ScheduleError, match=f"--schedule {name} gives one schedule"):
        levels(None, (512, 512), (1024, 1024), schedule=name)


def test_sampling_at_another_size_than_trained_says_what_that_changes() -> None:
    (note,) = levels(PAPER, (512, 512))[1]

    assert "trained at 1024x1024" in note
    assert "stays less in the noise (shift 1.88 instead of 3.16)" in note
    assert "--reshift" in note


@pytest.mark.parametrize(
    ("family", "size"), [("sd3", (512, 512)), ("flux", (1024, 1024)), ("flux", (1008, 1024))]
)
def test_nothing_is_said_where_size_changes_nothing(family: str, size: tuple[int, int]) -> None:
    assert levels(SEED, size, family=family)[1] == []


def test_nothing_is_said_of_a_size_that_nobody_knows_or_of_loras_that_do_not_run() -> None:
    row = find_family("flux")
    picture = resolve_sample_settings(row, prompt="x", width=512, height=512)
    unknown = LoraPair(base=BaseModel(row, row.default_model), schedule=PAPER)

    assert decide_schedule(InferRequest(), unknown, [picture]) == (PAPER, [])
    assert levels(PAPER, (512, 512), loras=())[1] == []
