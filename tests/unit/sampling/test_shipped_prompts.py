"""The prompts that ship with the package: distinct, varied from the first on, and kept apart."""

import re
from collections.abc import Callable
from itertools import combinations

import pytest

from glance.core.errors import SettingsError
from glance.demo.world import (
    ATTRIBUTES,
    all_facts,
    is_held_out,
    judging_captions,
    read_caption,
    teaching_captions,
)
from glance.sampling.prompts import judging_prompts, teaching_prompts

MOST = {False: (256, 32), True: (256, 200)}
JUDGED = (
    *("octopus", "lighthouse", "violin", "teapot", "balloons", "croissant", "astronaut"),
    *("laundromat", "dragon", "beekeeper", "penguins", "windmill", "firefighters", "tram"),
    *("typewriter", "canyon", "sushi", "robot", "hedgehog", "ballet", "volcano", "chess", "piano"),
    *("tiger", "cathedral", "submarine", "snail", "carousel", "barber", "waterfall", "wedding"),
    "hippo",
)
STYLES = (
    *("photo", "film still", "oil painting", "watercolour", "pencil", "pixel art", "3D render"),
    *("anime", "poster"),
)
kinds = pytest.mark.parametrize("world", [False, True], ids=["real", "world"])


def words(prompt: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", prompt.lower()))


@kinds
def test_all_prompts_are_distinct_and_none_is_in_both_lists(*, world: bool) -> None:
    taught, judged = MOST[world]

    everything = teaching_prompts(taught, world=world) + judging_prompts(judged, world=world)

    assert len({prompt.lower() for prompt in everything}) == taught + judged


@kinds
@pytest.mark.parametrize("prompts", [teaching_prompts, judging_prompts])
def test_fewer_prompts_are_the_first_of_more(
    prompts: Callable[..., tuple[str, ...]], *, world: bool
) -> None:
    assert prompts(4, world=world) == prompts(32, world=world)[:4]


@kinds
@pytest.mark.parametrize("prompts", [teaching_prompts, judging_prompts])
def test_more_than_there_are_is_refused(
    prompts: Callable[..., tuple[str, ...]], *, world: bool
) -> None:
    for count in (0, 2001):
        with pytest.raises(SettingsError, match=f"not {count}") as refused:
            prompts(count, world=world)
        assert "--prompt-file" in str(refused.value.problems[0].hint)


# --- real models ---------------------------------------------------------------------------------


def test_lines_are_plain_text_without_ends() -> None:
    for prompt in teaching_prompts(256, world=False) + judging_prompts(32, world=False):
        assert re.fullmatch(r"[!-~]([ -~]*[!-~])?", prompt), prompt
        assert prompt.count('"') in (0, 2, 4), prompt


def test_no_two_lines_say_nearly_the_same() -> None:
    everything = teaching_prompts(256, world=False) + judging_prompts(32, world=False)

    near = [
        (one, other)
        for one, other in combinations(everything, 2)
        if len(words(one) & words(other)) > 0.5 * len(words(one) | words(other))
    ]

    assert near == []


def test_every_judged_line_has_a_subject_that_none_to_teach_with_has() -> None:
    taught = set().union(*map(words, teaching_prompts(256, world=False)))

    subjects = [words(prompt) & set(JUDGED) for prompt in judging_prompts(32, world=False)]

    assert all(subjects)
    assert set().union(*subjects) == set(JUDGED)
    assert not {form for one in JUDGED for form in (one, one.removesuffix("s"))} & taught


@pytest.mark.parametrize(("count", "styles"), [(16, 7), (32, 9), (64, 9), (256, 9)])
def test_the_first_prompts_show_many_styles_short_and_long_and_with_text(
    count: int, styles: int
) -> None:
    first = teaching_prompts(count, world=False)
    lengths = sorted(len(prompt.split()) for prompt in first)

    assert sum(any(style in prompt for prompt in first) for style in STYLES) >= styles
    assert any('"' in prompt for prompt in first)
    assert lengths[0] <= 4
    assert lengths[-1] >= 20


# --- the small model's world ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "count", "turn"), [(teaching_prompts, 256, 4), (judging_prompts, 200, 2)]
)
def test_the_last_caption_of_each_turn_is_a_full_one(
    prompts: Callable[..., tuple[str, ...]], count: int, turn: int
) -> None:
    named = [len(read_caption(caption)) for caption in prompts(count, world=True)]

    assert min(named) >= 1
    assert set(named[turn - 1 :: turn]) == {len(ATTRIBUTES)}
    assert sum(named[::turn]) < 0.75 * sum(named[turn - 1 :: turn])


def test_judged_scenes_are_those_that_are_never_trained_on() -> None:
    held_out = [scene.facts for scene in all_facts() if is_held_out(scene)]

    for caption in judging_prompts(200, world=True):
        assert any(read_caption(caption).items() <= facts.items() for facts in held_out)


def test_taught_scenes_are_none_of_those() -> None:
    held_out = [scene.facts for scene in all_facts() if is_held_out(scene)]

    full = teaching_prompts(256, world=True)[1::2]

    assert not [caption for caption in full if read_caption(caption) in held_out]


def test_the_files_hold_what_the_world_makes() -> None:
    assert teaching_prompts(256, world=True) == tuple(teaching_captions())
    assert judging_prompts(200, world=True) == tuple(judging_captions())
