"""Read a picture of the small world: which attributes it shows, and whether a caption is met.

By synthesis: the drawing code paints each possible light and object, and what lies nearest to
the picture wins. A reading that explains the picture badly is no reading, so noise shows nothing.
"""

from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np

from glance.evaluation.small_world.draw import (
    HORIZON,
    LIGHT_RADIUS,
    LIGHT_X,
    LIGHT_Y,
    OBJECT_X,
    SIDE,
    Array,
    Pixels,
    ground_colour,
    hill_colours,
    paint_light,
    paint_object,
    sky,
)
from glance.evaluation.small_world.world import ATTRIBUTES, Scene, objects_on, read_caption

Verdict = dict[str, bool]

_CAP = 90.0
"""Beyond this distance a pixel is simply wrong: one bad place must not outvote the rest."""
_FAR = 60.0
"""A mean distance beyond which a picture shows nothing that can be named."""
_GROUND_ROWS = slice(58, 64)
_SKY_ROWS = (slice(0, 3), slice(18, 22), slice(35, 39))


def check_picture(picture: Pixels, caption: str) -> Verdict:
    """Say of each attribute that `caption` names whether `picture` (64, 64, 3) shows it."""
    shown = read_picture(picture)
    return {name: shown.get(name) == value for name, value in read_caption(caption).items()}


def read_picture(picture: Pixels) -> dict[str, str]:
    """Return the attributes that a picture shows; one that cannot be told is left out."""
    if picture.shape != (SIDE, SIDE, 3):
        raise ValueError(f"the checker reads {SIDE}x{SIDE} images, not {picture.shape}")
    pixels = picture.astype(np.float32)
    time = _read_time(pixels)
    if time is None:
        return {}
    shown = {"time": time, "light": "moon" if time == "night" else "sun"}
    shown |= _read_light(pixels, time)
    ground = _read_ground(pixels, time)
    if ground is not None:
        shown["ground"] = ground
        shown["object"] = _read_object(pixels, time, ground)
    if "place" in shown:
        shown["relief"] = _read_relief(pixels, time, shown)
    return {name: shown[name] for name in ATTRIBUTES if name in shown}


def _nearest(names: tuple[str, ...], distance: Callable[[str], float]) -> str | None:
    best, name = min((distance(name), name) for name in names)
    return name if best < _FAR else None


def _read_time(pixels: Array) -> str | None:
    def distance(time: str) -> float:
        empty = sky(time, SIDE)
        return float(
            np.mean(
                [
                    np.linalg.norm(np.median(pixels[rows], axis=(0, 1)) - empty[rows].mean((0, 1)))
                    # near the horizon hills may hide the sky: the upper rows decide
                    for rows in _SKY_ROWS[:2]
                ]
            )
        )

    return _nearest(ATTRIBUTES["time"], distance)


def _read_ground(pixels: Array, time: str) -> str | None:
    seen = np.median(pixels[_GROUND_ROWS], axis=(0, 1))
    return _nearest(
        ATTRIBUTES["ground"],
        lambda ground: float(np.linalg.norm(seen - 0.92 * ground_colour(ground, time))),
    )


def _read_light(pixels: Array, time: str) -> dict[str, str]:
    seen = pixels[: int(HORIZON) - 4]
    hills = np.min([_away(seen, colour) for colour in hill_colours(time)], axis=0)

    def cost(template: Array) -> float:
        # what looks like a hill says nothing about the light
        return float(np.minimum(np.minimum(_away(seen, template), hills + 8), _CAP).mean())

    costs = {facts: cost(template) for facts, template in _lights(time).items()}
    best = min(costs, key=lambda facts: costs[facts])
    empty = sky(time, SIDE)[: int(HORIZON) - 4]
    template = _lights(time)[best]
    disc = _away(template, empty) > 0.5 * _away(template, empty).max()
    # there must be a light at all: its disc looks more like light than like empty sky
    if _away(seen, template)[disc].mean() > 0.6 * _away(seen, empty)[disc].mean():
        return {}
    return dict(zip(("size", "height", "place"), best, strict=True))


@cache
def _lights(time: str) -> dict[tuple[str, str, str], Array]:
    templates = {}
    for size, height, place in product(LIGHT_RADIUS, LIGHT_Y, LIGHT_X):
        picture = sky(time, SIDE)
        paint_light(picture, Scene(time, size, height, place, "sea", "flat", "nothing"))
        templates[size, height, place] = picture[: int(HORIZON) - 4]
    return templates


def _read_relief(pixels: Array, time: str, shown: dict[str, str]) -> str:
    rows = slice(16, int(HORIZON))
    empty = sky(time, SIDE)
    light = Scene(time, shown["size"], shown["height"], shown["place"], "sea", "flat", "nothing")
    paint_light(empty, light)
    sky_away = _away(pixels[rows], empty[rows])
    near, far = hill_colours(time)
    hill_away = np.minimum(_away(pixels[rows], near), _away(pixels[rows], far))
    hill = hill_away < sky_away
    # columns where an object may stand in front, and those of a low light, say little
    heights = hill[::-1].cumprod(axis=0).sum(axis=0).astype(float)
    clear = np.ones(SIDE, dtype=bool)
    for middle in OBJECT_X:
        clear[int(middle) - 10 : int(middle) + 10] = False
    top = float(np.quantile(heights, 0.9))
    if top >= 9.5:
        return "mountains"
    return "hills" if float(np.median(heights[clear])) >= 1.5 else "flat"


def _read_object(pixels: Array, time: str, ground: str) -> str:
    """Compare what stands at either side, row by row against what lies beside it."""
    rows = slice(int(HORIZON) + 2, 58)
    # the median of a row is its ground: wide enough whatever stands on it
    behind = np.median(pixels[rows], axis=1, keepdims=True)
    costs: dict[str, float] = {}
    things = [thing for thing in objects_on(ground) if thing != "nothing"]
    for thing, middle in product(things, OBJECT_X):
        stage = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
        paint_object(stage, thing, time, middle)
        silhouette = stage[rows].any(axis=-1)
        seen = pixels[rows][silhouette]
        here = np.minimum(_away(seen, stage[rows][silhouette]), _CAP).mean()
        bare = np.broadcast_to(behind, pixels[rows].shape)[silhouette]
        there = np.minimum(_away(seen, bare), _CAP).mean()
        costs[thing] = min(costs.get(thing, np.inf), float(here / (there + 6)))
    best = min(costs, key=lambda thing: costs[thing])
    return best if costs[best] < 1.0 else "nothing"


def _away(pixels: Array, colour: Array) -> Array:
    return np.asarray(np.linalg.norm(pixels - colour, axis=-1), dtype=np.float32)
