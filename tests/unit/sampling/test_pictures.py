"""Which images are asked for, in which order."""

import json
from pathlib import Path
from typing import Any

import pytest

from glance.core.errors import InputError, Problem, SettingsError, UsageError
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.images import lay_out
from glance.sampling.lora_pair import LoraPair
from glance.sampling.request import InferRequest


def laid_out(**request: Any) -> list[tuple[str, int]]:
    return [(one.settings.prompt, one.settings.seed) for one in settings_of(**request)]


def settings_of(**request: Any) -> Any:
    base = BaseModel(find_family("sd3"), "acme/tiny")
    return lay_out(InferRequest(**request), LoraPair(base=base, side=64))


def write_prompts(*lines: dict[str, Any]) -> Path:
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Path("p.jsonl")


def test_each_prompt_has_each_seed_and_those_that_follow() -> None:
    assert laid_out(prompts=("a", "b"), seeds=(3, 8), count=2) == [
        *(("a", 3), ("a", 4), ("a", 8), ("a", 9)),
        *(("b", 3), ("b", 4), ("b", 8), ("b", 9)),
    ]


def test_one_prompt_is_one_picture_of_seed_0() -> None:
    assert laid_out(prompts=("a",)) == [("a", 0)]


def test_a_line_goes_over_the_flags() -> None:
    file = write_prompts({"prompt": "a", "seed": [1, 2], "width": 128}, {"prompt": "b"})

    found = settings_of(prompt_file=file, seeds=(7,), width=64, slow_scale=0.5)

    assert [(one.settings.seed, one.settings.width) for one in found] == [
        (1, 128),
        (2, 128),
        (7, 64),
    ]
    assert {one.settings.slow_scale for one in found} == {0.5}


def test_prompts_of_the_command_line_follow_those_of_the_file() -> None:
    file = write_prompts({"prompt": "a"})

    assert laid_out(prompt_file=file, prompts=("b",)) == [("a", 0), ("b", 0)]


def test_no_prompt_is_said_with_the_flags_to_use() -> None:
    with pytest.raises(UsageError) as caught:
        settings_of()

    assert "--prompt" in (caught.value.problems[0].hint or "")


def test_all_bad_pictures_are_named_at_once() -> None:
    file = write_prompts(
        {"prompt": "a", "width": 100}, {"prompt": "b"}, {"prompt": "c", "width": 72}
    )

    with pytest.raises(SettingsError) as caught:
        settings_of(prompt_file=file)

    assert [one.message for one in caught.value.problems] == [
        "p.jsonl, prompt 1: width: 100: it must be a multiple of 16",
        "p.jsonl, prompt 3: width: 72: it must be a multiple of 16",
    ]


def test_a_bad_line_is_named_by_its_number() -> None:
    Path("p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "sed": 1}\n')

    with pytest.raises(InputError, match=r"p\.jsonl:2"):
        settings_of(prompt_file=Path("p.jsonl"))


def test_an_empty_prompt_of_the_command_line_is_refused() -> None:
    with pytest.raises(SettingsError, match="prompt 2: --prompt: it is empty"):
        settings_of(prompts=("a", " "))


def test_a_prompt_that_is_no_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="no UTF-8"):
        settings_of(prompts=("\udcff",))


@pytest.mark.parametrize(
    ("asked", "named", "hint"),
    [
        ({"count": 100_000_000}, "--count 100000000: 100,000,000 pictures in all", "--count 10000"),
        ({"count": 5_001, "prompts": ("a", "b")}, "--count 5001: 10,002", "--count 5000"),
        ({"count": 2, "seeds": range(10_000)}, "--count 2: 20,000", "--count 1"),
        ({"seeds": range(10_001)}, "the prompts: 10,001", "fewer prompts and seeds"),
    ],
)
def test_more_pictures_than_a_plan_holds_are_refused_before_one_is_laid_out(
    asked: dict[str, Any], named: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        laid_out(**{"prompts": ("a",), **asked})

    (problem,) = caught.value.problems
    assert problem.message.startswith(named)
    assert problem.message.endswith("and one command makes at most 10,000")
    assert hint in (problem.hint or "")


def test_counts_of_a_file_are_bounded_as_well() -> None:
    file = write_prompts(*({"prompt": "a", "count": 100_000} for _ in range(3)))

    with pytest.raises(SettingsError, match="the prompts: 300,000 pictures in all"):
        laid_out(prompt_file=file)


def test_what_all_prompts_have_is_said_once_and_what_many_have_a_few_times() -> None:
    lines = [{"prompt": "a", "width": 100} for _ in range(9)]
    file = write_prompts(*lines, {"prompt": "b"})

    with pytest.raises(SettingsError) as of_some:
        settings_of(prompt_file=file)
    with pytest.raises(SettingsError) as of_all:
        settings_of(prompt_file=file, slow_scale=99.0)

    said = [one.message for one in of_some.value.problems]
    assert said[2:] == [
        "p.jsonl, prompt 3: width: 100: it must be a multiple of 16",
        "6 prompts more have it: width: 100: it must be a multiple of 16",
    ]
    assert of_all.value.problems == (
        Problem("--slow-scale 99: it must be at most 10", "--slow-scale 1, for example"),
    )
