"""What a picture of the small world can show: the attributes, and one scene of them.

A scene's facts are the attributes a caption can name; its `detail` is everything that no caption
names (the line of the hills, the side an object stands on, the stars), so that even a full
caption has many pictures.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np

ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "time": ("dawn", "day", "sunset", "night"),
        "light": ("sun", "moon"),  # follows from the time: the moon shines at night
        "size": ("small", "large"),
        "height": ("low", "high"),
        "place": ("left", "middle", "right"),
        "ground": ("sea", "meadow", "desert", "snow"),
        "relief": ("flat", "hills", "mountains"),
        "object": ("nothing", "tree", "cottage", "boat"),
    }
)

_HELD_OUT_SHARE = 8
"""One combination of facts in so many is never trained on."""


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
    """Say whether the scene's combination of facts is kept for measuring."""
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
