"""The small model's world: what an image can show, words for it, and prompts of the package.

A scene's facts are the attributes a caption can name; its `detail` is everything that no caption
names (the line of the hills, the side an object stands on, the stars), so that even a full
caption has many images. A full caption names every attribute, a loose one leaves some out. No word
serves two attributes: a bag of words is enough to read a caption.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Final

import numpy as np

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "time": ("dawn", "day", "sunset", "night"),
    "light": ("sun", "moon"),  # follows from the time: the moon shines at night
    "size": ("small", "large"),
    "height": ("low", "high"),
    "place": ("left", "middle", "right"),
    "ground": ("sea", "meadow", "desert", "snow"),
    "relief": ("flat", "hills", "mountains"),
    "object": ("nothing", "tree", "cottage", "boat"),
}

_HELD_OUT_SHARE = 8
"""One combination of facts in so many is never trained on."""
_TIMES: Mapping[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at sunrise"),
    "day": ("by day", "at noon"),
    "sunset": ("at sunset", "at dusk"),
    "night": ("at night", "at midnight"),
}
_PLACES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
_GROUNDS: Mapping[str, tuple[str, ...]] = {
    "sea": ("the sea", "a calm sea"),
    "meadow": ("a meadow", "a green meadow"),
    "desert": ("a desert", "a sandy desert"),
    "snow": ("the snow", "a snowy field"),
}
_RELIEFS = {"flat": "a flat horizon", "hills": "rolling hills", "mountains": "mountains"}
_OBJECTS: Mapping[str, tuple[str, ...]] = {
    "nothing": ("nothing else",),
    "tree": ("a red tree", "a tree"),
    "cottage": ("a cottage", "a lonely cottage"),
    "boat": ("a boat", "a sailing boat"),
}
_WORDS: Mapping[str, tuple[str, str]] = {
    "sunrise": ("time", "dawn"),
    "noon": ("time", "day"),
    "dusk": ("time", "sunset"),
    "midnight": ("time", "night"),
    "snowy": ("ground", "snow"),
    **{value: (name, value) for name, values in ATTRIBUTES.items() for value in values},
}
_TAUGHT: Final = 256
_JUDGED: Final = 200  # of the 213 combinations of facts that are held out
_TEACHING_SEED: Final = 11
_JUDGING_SEED: Final = 12


@dataclass(frozen=True, slots=True)
class Scene:
    """One landscape: its facts, and the seed of its unnamed details."""

    time: str
    size: str
    height: str
    place: str
    ground: str
    relief: str
    object: str
    detail: int = 0

    @property
    def light(self) -> str:
        """What shines in the sky."""
        return "moon" if self.time == "night" else "sun"

    @property
    def facts(self) -> dict[str, str]:
        """Every attribute with its value, in the order of ATTRIBUTES."""
        return {name: str(getattr(self, name)) for name in ATTRIBUTES}


def objects_on(ground: str) -> tuple[str, ...]:
    """Return what can stand on `ground`: boats sail, trees and cottages do not."""
    return ("nothing", "boat") if ground == "sea" else ("nothing", "tree", "cottage")


def all_facts() -> Iterator[Scene]:
    """Yield one scene for every possible combination of facts."""
    free = [ATTRIBUTES[name] for name in ("time", "size", "height", "place", "ground", "relief")]
    for time, size, height, place, ground, relief in product(*free):
        for thing in objects_on(ground):
            yield Scene(time, size, height, place, ground, relief, thing)


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's combination of facts is kept for measuring."""
    return zlib.crc32(" ".join(scene.facts.values()).encode()) % _HELD_OUT_SHARE == 0


def random_scene(random: np.random.Generator) -> Scene:
    """Draw a scene, every value of every attribute alike."""
    time, size, height, place, ground, relief = (
        str(random.choice(ATTRIBUTES[name]))
        for name in ("time", "size", "height", "place", "ground", "relief")
    )
    thing = str(random.choice(objects_on(ground)))
    detail = int(random.integers(2**31))
    return Scene(time, size, height, place, ground, relief, thing, detail)


def training_scene(random: np.random.Generator) -> Scene:
    """Draw a scene that is not held out."""
    while is_held_out(scene := random_scene(random)):
        pass
    return scene


def held_out_scenes(count: int, *, seed: int = 0) -> list[Scene]:
    """Return `count` different held-out combinations of facts, in an order that `seed` decides."""
    kept = [scene for scene in all_facts() if is_held_out(scene)]
    order = np.random.default_rng(seed).permutation(len(kept))[:count]
    return [kept[number] for number in order]


def describe(scene: Scene, random: np.random.Generator | None = None) -> str:
    """Return a full caption; `random` chooses among ways to say it."""
    return _say(scene, frozenset(ATTRIBUTES), random)


def describe_loosely(scene: Scene, random: np.random.Generator) -> str:
    """Return a caption that names only some of the scene's attributes."""
    share = random.uniform(0.1, 0.8)
    named = [name for name in ATTRIBUTES if random.random() < share]
    return _say(scene, frozenset(named), random)


def read_caption(caption: str) -> dict[str, str]:
    """Return the attributes a caption names; words of no meaning here are passed over."""
    found = {}
    for word in re.findall(r"[a-z]+", caption.lower()):
        if word in _WORDS:
            name, value = _WORDS[word]
            found[name] = value
    return {name: found[name] for name in ATTRIBUTES if name in found}


def every_word() -> list[str]:
    """Return every word the grammar can say, sorted."""
    ways: list[str] = ["a landscape over with and low high small large sun moon"]
    for table in (_TIMES, _GROUNDS, _OBJECTS):
        ways += [way for group in table.values() for way in group]
    ways += [*_PLACES.values(), *_RELIEFS.values()]
    return sorted({word for way in ways for word in way.split()})


def _say(scene: Scene, named: frozenset[str], random: np.random.Generator | None) -> str:
    def choose(ways: tuple[str, ...]) -> str:
        return ways[0] if random is None else str(random.choice(ways))

    time = choose(_TIMES[scene.time]) if "time" in named else ""
    light = _light(scene, named)
    ground = f"over {choose(_GROUNDS[scene.ground])}" if "ground" in named else ""
    rest = [_RELIEFS[scene.relief]] if "relief" in named else []
    rest += [choose(_OBJECTS[scene.object])] if "object" in named else []
    ending = f"with {' and '.join(rest)}" if rest else ""
    if random is not None and random.random() < 0.5:
        parts = [light or "a landscape", ground, time, ending]
    else:
        parts = ["a landscape", time, f"with {light}" if light else "", ground, ending]
    return " ".join(part for part in parts if part)


def _light(scene: Scene, named: frozenset[str]) -> str:
    if not named & {"light", "size", "height", "place"}:
        return ""
    words = ["a"]
    words += [scene.size] if "size" in named else []
    words += [scene.light]
    words += [scene.height] if "height" in named else []
    words += [_PLACES[scene.place]] if "place" in named else []
    return " ".join(words)


def teaching_captions() -> Iterator[str]:
    """Yield captions of training scenes, three loose ones and a full one in turn, no two alike.

    docs/evidence.md says why.
    """
    random = np.random.default_rng(_TEACHING_SEED)
    scenes = (training_scene(random) for _ in range(_TAUGHT))
    ways = (describe_loosely, describe_loosely, describe_loosely, describe)
    return _described(scenes, random, ways, besides=judging_captions())


def judging_captions() -> Iterator[str]:
    """Yield captions of held-out scenes, loose and full ones in turn, no two alike."""
    random = np.random.default_rng(_JUDGING_SEED)
    scenes = held_out_scenes(_JUDGED, seed=_JUDGING_SEED)
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
