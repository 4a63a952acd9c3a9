"""Schedules as files, and where optimised ones are found."""

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from glance.core.errors import ScheduleError
from glance.models.base import fingerprint
from glance.schedule.file import (
    Origin,
    ScheduleFile,
    find_optimal,
    keep_optimal,
    read_schedule_file,
)
from glance.schedule.lists import PRESETS, Schedule

TEN = Schedule("optimal", (1000.0, 900.0), (800.0, 400.0))


def origin(**more: Any) -> Origin:
    usual = {"family": "flux", "model": "acme/own", "width": 512, "height": 512}
    how = {"slow_guidance": 3.5, "fast_guidance": 1.0, "teacher_steps": 50, "prompts": ("x",)}
    rest = {"seeds": (0,), "errors": {"optimal": 0.1}, "glance": "0", "date": "2026-01-01"}
    return Origin(**{**usual, **how, **rest, **more})


def write(content: object) -> Path:
    path = Path("mine.json")
    path.write_text(json.dumps(content))
    return path


def test_what_was_found_comes_back(tmp_path: Path) -> None:
    file = ScheduleFile.of(TEN, origin())
    file.save(tmp_path / "deep" / "x.json")

    again = read_schedule_file(tmp_path / "deep" / "x.json")

    assert again == file
    assert again.resolve("other") == TEN, "it has a name of its own"


def test_sigmas_alone_will_do() -> None:
    path = write({"slow": {"sigmas": [1, 0.9]}, "fast": {"sigmas": [0.5]}})

    assert read_schedule_file(path).resolve("mine") == Schedule("mine", (1000, 900), (500,))


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ({"slow": {"timesteps": [1000]}}, ["--schedule mine.json: fast: it is missing"]),
        (
            {"slow": {}, "fast": {"timesteps": ["x"], "more": 1}},
            [
                "mine.json: slow: there are neither timesteps nor sigmas",
                'mine.json: fast.timesteps[0]: "x": it must be a number',
                "mine.json: fast.more: 1: nothing of that name is known here",
            ],
        ),
        ({"slow": {"timesteps": [9], "sigmas": [0.9]}, "fast": {}}, ["not the same list"]),
        ([1, 2], ["mine.json: all of it: it must be an object"]),
    ],
)
def test_all_that_is_wrong_in_a_file_is_said(content: object, messages: list[str]) -> None:
    with pytest.raises(ScheduleError) as refused:
        read_schedule_file(write(content))

    assert all(message in str(refused.value) for message in messages)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_no_json_is_refused(text: str) -> None:
    Path("x.json").write_text(text)

    with pytest.raises(ScheduleError, match=r"--schedule x.json: it is no JSON"):
        read_schedule_file(Path("x.json"))


@pytest.mark.parametrize(
    ("slow", "first", "fast", "second", "said"),
    [
        ("sigmas", 1.5, "sigmas", 0.5, "sigmas[0]: 1.5 is not above 0 and at most 1"),
        ("sigmas", 0.9, "timesteps", 950, "timesteps[0]: 950 is not below slow.sigmas[0] = 900"),
        ("timesteps", 900, "sigmas", 0.95, "sigmas[0]: 0.95 is not below slow.timesteps[0] = 0.9"),
    ],
)
def test_what_breaks_a_rule_is_said_in_the_unit_of_the_file(
    slow: str, first: float, fast: str, second: float, said: str
) -> None:
    with pytest.raises(ScheduleError) as refused:
        read_schedule_file(write({"slow": {slow: [first]}, "fast": {fast: [second]}}))

    where, what = str(refused.value).removeprefix("--schedule mine.json: ").split(".", 1)
    assert (where, what) == ("fast" if "below" in said else "slow", said)


def test_what_no_schedule_is_is_not_read_to_its_end() -> None:
    os.mkfifo("pipe.json")
    with Path("huge.json").open("wb") as file:
        file.truncate(2_000_000)

    for name, said in (
        ("pipe.json", "it is a named pipe, not a file"),
        ("huge.json", "it is larger than 1 MB"),
    ):
        with pytest.raises(ScheduleError, match=f"--schedule {name}: {said}"):
            read_schedule_file(Path(name))


def test_the_one_for_model_size_and_steps_is_found() -> None:
    for schedule, size in ((TEN, 512), (PRESETS["paper"].schedule, 512), (TEN, 1024)):
        keep_optimal(ScheduleFile.of(schedule, origin(width=size, height=size, model="acme/x")))

    usual = find_optimal("acme/x", (512, 512), slow_steps=None, fast_steps=None)
    short = find_optimal("acme/x", (512, 512), slow_steps=2, fast_steps=None)

    assert (usual.steps, short.steps) == ((5, 5), (2, 2))


def test_what_there_is_instead_is_said_and_a_damaged_neighbour_hides_no_sound_one() -> None:
    path = keep_optimal(ScheduleFile.of(TEN, origin(model="acme/y")))
    path.with_name("damaged.json").write_text("{")

    with pytest.raises(ScheduleError) as refused:
        find_optimal("acme/y", (768, 768), slow_steps=None, fast_steps=None)

    assert "at 768x768; there are 2 + 2 steps at 512x512" in str(refused.value)
    assert find_optimal("acme/y", (512, 512), slow_steps=None, fast_steps=None).steps == (2, 2)


def test_the_small_model_of_the_package_has_one() -> None:
    small = fingerprint(str(files("glance") / "assets/small-flux"))

    found = find_optimal(small, (64, 64), slow_steps=None, fast_steps=None)

    assert found.origin is not None
    errors = found.origin.errors
    assert found.steps == (5, 5)
    assert errors["optimal"] < min(errors["auto"], errors["uniform"])
