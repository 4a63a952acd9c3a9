"""The small world: drawn, described, read back."""

import numpy as np
import pytest

from glance.evaluation.small_world.check import check_picture, read_picture
from glance.evaluation.small_world.draw import SIDE, draw
from glance.evaluation.small_world.world import (
    ATTRIBUTES,
    Scene,
    all_facts,
    describe,
    describe_loosely,
    held_out_scenes,
    is_held_out,
    random_scene,
    read_caption,
    training_scene,
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def scenes(count: int, random: np.random.Generator) -> list[Scene]:
    return [random_scene(random) for _ in range(count)]


def test_the_checker_reads_clean_pictures(random: np.random.Generator) -> None:
    drawn = scenes(400, random)

    right = [all(check_picture(draw(s), describe(s, random)).values()) for s in drawn]

    assert sum(right) >= 0.99 * len(drawn)


def test_the_checker_reads_through_noise_and_blur(random: np.random.Generator) -> None:
    drawn = scenes(200, random)
    wrong = 0
    for scene in drawn:
        picture = draw(scene).astype(float)
        beside = [np.roll(picture, by, side) for by in (-1, 1) for side in (0, 1)]
        soft = picture / 3 + sum(beside) / 6
        noisy = np.clip(soft + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
        wrong += not all(check_picture(noisy, describe(scene)).values())

    assert wrong <= 0.03 * len(drawn)


def test_a_plain_picture_and_noise_show_no_scene(random: np.random.Generator) -> None:
    noise = random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    caption = describe(held_out_scenes(1)[0])

    assert not {"size", "height", "place"} & set(read_picture(noise))
    for level in (0, 128, 255):
        plain = np.full((SIDE, SIDE, 3), level, dtype=np.uint8)
        assert not all(check_picture(plain, caption).values())


def test_another_scenes_picture_fails_where_it_differs(random: np.random.Generator) -> None:
    for one, other in zip(scenes(50, random), scenes(50, random), strict=True):
        verdict = check_picture(draw(one), describe(other))

        assert {n for n, met in verdict.items() if met} == {
            n for n in ATTRIBUTES if one.facts[n] == other.facts[n]
        }


def test_captions_name_true_facts_and_full_ones_all(random: np.random.Generator) -> None:
    for scene in all_facts():
        assert read_caption(describe(scene, random)) == scene.facts
    named = []
    for scene in scenes(200, random):
        facts = read_caption(describe_loosely(scene, random))
        assert facts.items() <= scene.facts.items()
        named.append(len(facts))

    assert set(named) >= {0, 1, 4, 7}
    assert read_caption("a lighthouse at night!") == {"time": "night"}


def test_a_scene_has_one_picture_and_a_caption_has_many() -> None:
    scene = Scene("dawn", "small", "high", "left", "sea", "hills", "boat", detail=1)
    other = Scene("dawn", "small", "high", "left", "sea", "hills", "boat", detail=2)

    assert np.array_equal(draw(scene), draw(scene))
    assert not np.array_equal(draw(scene), draw(other))
    assert describe(scene) == describe(other)


def test_held_out_facts_are_never_trained_on(random: np.random.Generator) -> None:
    kept = held_out_scenes(200)

    assert len({tuple(s.facts.values()) for s in kept}) == 200
    assert not any(is_held_out(training_scene(random)) for _ in range(200))


def test_pictures_come_in_any_size() -> None:
    assert draw(held_out_scenes(1)[0], 256).shape == (256, 256, 3)
