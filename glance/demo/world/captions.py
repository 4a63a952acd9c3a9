"""Words for a scene, and the facts that words name.

A full caption names every attribute; a loose one leaves some out, so that it has many pictures.
No word serves two attributes: a bag of words is enough to read a caption.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from glance.demo.world.scene import ATTRIBUTES, Scene

_TIMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dawn": ("at dawn", "at sunrise"),
        "day": ("by day", "at noon"),
        "sunset": ("at sunset", "at dusk"),
        "night": ("at night", "at midnight"),
    }
)
_PLACES = MappingProxyType(
    {"left": "on the left", "middle": "in the middle", "right": "on the right"}
)
_GROUNDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sea": ("the sea", "a calm sea"),
        "meadow": ("a meadow", "a green meadow"),
        "desert": ("a desert", "a sandy desert"),
        "snow": ("the snow", "a snowy field"),
    }
)
_RELIEFS = MappingProxyType(
    {"flat": "a flat horizon", "hills": "rolling hills", "mountains": "mountains"}
)
_OBJECTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nothing": ("nothing else",),
        "tree": ("a red tree", "a tree"),
        "cottage": ("a cottage", "a lonely cottage"),
        "boat": ("a boat", "a sailing boat"),
    }
)
_WORDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sunrise": ("time", "dawn"),
        "noon": ("time", "day"),
        "dusk": ("time", "sunset"),
        "midnight": ("time", "night"),
        "snowy": ("ground", "snow"),
        **{value: (name, value) for name, values in ATTRIBUTES.items() for value in values},
    }
)


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
