"""Prompts that ship with the package: to teach a pair with, and others to judge it by.

For real models they are lines of two files in `glance/assets/prompts`; for the package's small
model, captions of the only world it knows. Of each, any first few are varied in themselves.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import cycle, islice
from typing import Final

import numpy as np

from glance.errors import SettingsError
from glance.world import (
    Scene,
    describe,
    describe_loosely,
    held_out_scenes,
    read_caption,
    training_scene,
)

_MOST_TAUGHT: Final = 2000
_MOST_JUDGED: Final = 200  # of the 213 combinations of facts that are held out
_TEACHING_SEED: Final = 11
_JUDGING_SEED: Final = 12


def teaching_prompts(count: int, *, world: bool) -> tuple[str, ...]:
    """Return the first `count` prompts to teach with, no two alike.

    `world`: captions of training scenes in place of the lines of `teaching.txt`, three loose ones
    and a full one in turn (docs/evidence.md says why). Raises SettingsError for less than one, or
    more than there are.
    """
    if world:
        return _first(count, _captions(), most=_MOST_TAUGHT, purpose="teach with")
    lines = _lines("teaching.txt")
    return _first(count, lines, most=len(lines), purpose="teach with")


def judging_prompts(count: int, *, world: bool) -> tuple[str, ...]:
    """Return the first `count` prompts to judge by, none of them among those to teach with.

    `world`: captions of held-out scenes in place of the lines of `judging.txt`, whose subjects are
    not in `teaching.txt`. Raises SettingsError for less than one, or more than there are.
    """
    if world:
        return _first(count, _held_out_captions(), most=_MOST_JUDGED, purpose="judge by")
    lines = _lines("judging.txt")
    return _first(count, lines, most=len(lines), purpose="judge by")


def _first(count: int, prompts: Iterable[str], *, most: int, purpose: str) -> tuple[str, ...]:
    if 1 <= count <= most:
        return tuple(islice(prompts, count))
    raise SettingsError(
        f"glance has {most} prompts to {purpose}, not {count}",
        hint=f"ask for 1 to {most}, or give your own with --prompt-file",
    )


def _lines(name: str) -> list[str]:
    text = (files("glance") / "assets" / "prompts" / name).read_text(encoding="utf-8")
    return text.splitlines()


def _captions() -> Iterator[str]:
    random = np.random.default_rng(_TEACHING_SEED)
    scenes = (training_scene(random) for _ in range(_MOST_TAUGHT))
    ways = (describe_loosely, describe_loosely, describe_loosely, describe)
    return _described(scenes, random, ways, besides=_held_out_captions())


def _held_out_captions() -> Iterator[str]:
    random = np.random.default_rng(_JUDGING_SEED)
    scenes = held_out_scenes(_MOST_JUDGED, seed=_JUDGING_SEED)
    return _described(scenes, random, (describe_loosely, describe))


def _described(
    scenes: Iterable[Scene],
    random: np.random.Generator,
    ways: Sequence[Callable[[Scene, np.random.Generator], str]],
    *,
    besides: Iterable[str] = (),
) -> Iterator[str]:
    """Yield a caption a scene, in these ways in turn, none twice and none of `besides`."""
    said = set(besides)
    for scene, say in zip(scenes, cycle(ways), strict=False):
        caption = say(scene, random)
        while caption in said or not read_caption(caption):  # said, or of no attribute
            caption = say(scene, random)
        said.add(caption)
        yield caption
