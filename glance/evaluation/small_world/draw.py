"""Draw a scene: numpy only, edges smoothed by coverage, any square size.

Lengths are in sixty-fourths of the picture's side. What a caption names is snapped to the grid
of 8 (the VAE's), because a small model learns such places many times faster than free ones.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glance.evaluation.small_world.world import Scene

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

SIDE = 64
HORIZON = 40.0
LIGHT_X = {"left": 16.0, "middle": 32.0, "right": 48.0}
LIGHT_Y = {"high": 10.0, "low": 26.0}
LIGHT_RADIUS = {"small": 4.0, "large": 7.5}
OBJECT_X = (16.0, 48.0)


class Palette(NamedTuple):
    """The colours of one time of day."""

    sky: tuple[tuple[int, int, int], ...]
    """Top, middle and horizon."""
    light: tuple[int, int, int]
    hill: tuple[int, int, int]
    tint: tuple[float, float, float]
    """What the hour does to the colour of the ground."""


PALETTES: Mapping[str, Palette] = {
    "dawn": Palette(
        ((112, 128, 196), (222, 150, 178), (250, 198, 160)),
        (255, 252, 226),
        (124, 98, 146),
        (0.98, 0.80, 0.84),
    ),
    "day": Palette(
        ((58, 132, 220), (120, 184, 240), (196, 228, 250)),
        (255, 242, 140),
        (84, 122, 146),
        (1.0, 1.0, 1.0),
    ),
    "sunset": Palette(
        ((70, 40, 108), (206, 74, 86), (255, 160, 72)),
        (255, 232, 130),
        (88, 40, 84),
        (0.84, 0.60, 0.56),
    ),
    "night": Palette(
        ((8, 12, 42), (22, 32, 78), (50, 66, 122)),
        (242, 240, 222),
        (12, 16, 42),
        (0.34, 0.42, 0.60),
    ),
}
GROUNDS: Mapping[str, tuple[int, int, int]] = {
    "sea": (38, 100, 160),
    "meadow": (98, 168, 70),
    "desert": (228, 182, 108),
    "snow": (240, 244, 250),
}


def draw(scene: Scene, size: int = SIDE) -> Pixels:
    """Return the picture of `scene`, (size, size, 3)."""
    details = np.random.default_rng(scene.detail)
    picture = sky(scene.time, size)
    if scene.time == "night":
        _paint(picture, (225, 228, 240), 0.8 * _stars(details, size))
    paint_light(picture, scene)
    _paint_relief(picture, scene, details)
    _paint_ground(picture, scene)
    paint_object(picture, scene.object, scene.time, _object_x(scene, details))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


@cache
def grid(size: int) -> tuple[Array, Array]:
    """Return the x and the y of every pixel's centre."""
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(SIDE / size)
    return line[None, :], line[:, None]


def sky(time: str, size: int) -> Array:
    """Return the sky of an hour, over the whole picture."""
    _, y = grid(size)
    stops = np.asarray(PALETTES[time].sky, dtype=np.float32)
    channels = [np.interp(y, (0, HORIZON * 0.6, HORIZON), stops[:, c]) for c in range(3)]
    rows = np.stack(channels, axis=-1).astype(np.float32)  # (size, 1, 3)
    return np.repeat(rows, size, axis=1)


def paint_light(picture: Array, scene: Scene) -> None:
    """Paint the sun or the moon with its halo."""
    x, y = grid(len(picture))
    radius = LIGHT_RADIUS[scene.size]
    away = np.hypot(x - LIGHT_X[scene.place], y - LIGHT_Y[scene.height])
    halo = 0.45 * np.exp(-np.square(np.maximum(away - radius, 0) / (0.8 * radius)))
    colour = PALETTES[scene.time].light
    _paint(picture, colour, halo)
    _paint(picture, colour, _cover(radius - away, picture))


def ground_colour(ground: str, time: str) -> Array:
    """Return the colour of a ground at an hour."""
    tint = np.asarray(PALETTES[time].tint, dtype=np.float32)
    return tint * np.asarray(GROUNDS[ground], dtype=np.float32)


def hill_colours(time: str) -> tuple[Array, Array]:
    """Return the colours of the near and the far hills at an hour."""
    palette = PALETTES[time]
    near = np.asarray(palette.hill, dtype=np.float32)
    return near, _mix(near, np.asarray(palette.sky[2], dtype=np.float32), 0.3)


def paint_object(picture: Array, thing: str, time: str, middle: float) -> None:
    """Paint what stands in the foreground, its middle at `middle`."""
    x, y = grid(len(picture))
    aside = np.abs(x - middle)
    if thing == "tree":
        trunk = np.minimum(1.7 - aside, np.minimum(y - 48, 58 - y))
        _paint(picture, _lit((92, 60, 48), time), _cover(trunk, picture))
        crown = 8.2 - np.hypot(x - middle, 1.05 * (y - 43.0))
        _paint(picture, _lit((214, 76, 44), time), _cover(crown, picture))
        shine = 4.2 - np.hypot(x - middle + 2.2, y - 40.2)
        _paint(picture, _lit((244, 124, 60), time), 0.8 * _cover(shine, picture))
    elif thing == "cottage":
        wall = np.minimum(7.0 - aside, np.minimum(y - 45, 57 - y))
        _paint(picture, _lit((246, 226, 186), time), _cover(wall, picture))
        roof = np.minimum(0.75 * (y - 36) - 0.75 * aside, 47 - y)
        _paint(picture, _lit((74, 56, 84), time), _cover(roof, picture))
        window = np.minimum(2.2 - aside, 2.4 - np.abs(y - 51.5))
        _paint(picture, (255, 204, 92), _cover(window, picture))
    elif thing == "boat":
        sail = np.minimum(0.5 * (y - 35) - 0.9 * aside, 52 - y)
        _paint(picture, _lit((252, 248, 238), time), _cover(sail, picture))
        hull = np.minimum(9.0 - aside - 0.6 * (y - 52), np.minimum(y - 52, 57 - y))
        _paint(picture, _lit((120, 50, 44), time), _cover(hull, picture))


def _object_x(scene: Scene, details: np.random.Generator) -> float:
    """Return where the object stands: across from the light, or on either side of it."""
    sides = {"left": OBJECT_X[1:], "right": OBJECT_X[:1]}.get(scene.place, OBJECT_X)
    return float(details.choice(sides))


def _paint_relief(picture: Array, scene: Scene, details: np.random.Generator) -> None:
    """Paint the hills; where a low light stands they leave it a valley."""
    x, y = grid(len(picture))
    phases = details.uniform(0, 2 * np.pi, 4)
    peaks = details.integers(0, 3, 3)
    valley = np.zeros_like(x)
    if scene.height == "low":
        valley = np.exp(-np.square((x - LIGHT_X[scene.place]) / 10.0))
    near, far = hill_colours(scene.time)
    rolling = 4.6 + 1.5 * np.sin(x / 9.0 + phases[0]) + 0.8 * np.sin(x / 4.5 + phases[1])
    if scene.relief == "mountains":
        tops = [
            14.0 + height - 0.95 * np.abs(x - place - 8)
            for place, height in zip((0, 24, 48), peaks, strict=True)
        ]
        high = np.maximum.reduce([*tops, 6.0 + np.sin(x / 7.0 + phases[2])])
        high = high * (1 - 0.5 * valley)
        _paint(picture, far, _cover(y - (HORIZON - high), picture))
        rolling = rolling - 1.6
    if scene.relief != "flat":
        rolling = rolling * (1 - 0.4 * valley)
        _paint(picture, near, _cover(y - (HORIZON - rolling), picture))


def _paint_ground(picture: Array, scene: Scene) -> None:
    x, y = grid(len(picture))
    below = _cover(y - HORIZON, picture)
    depth = np.clip((y - HORIZON) / (SIDE - HORIZON), 0, 1)[..., None]
    colour = ground_colour(scene.ground, scene.time)
    shade = _mix(colour, np.asarray(PALETTES[scene.time].sky[2], dtype=np.float32), 0.15)
    blend = (shade + (0.9 * colour - shade) * depth).astype(np.float32)
    picture += (blend - picture) * below[..., None]
    if scene.ground == "sea":  # the light glitters on the water
        width = 0.7 * LIGHT_RADIUS[scene.size] + 0.1 * (y - HORIZON)
        glitter = np.exp(-np.square((x - LIGHT_X[scene.place]) / width))
        ripple = 0.5 + 0.5 * np.cos((y - HORIZON) * (2 * np.pi / 4))
        fade = 0.75 - 0.5 * depth[..., 0]
        _paint(picture, PALETTES[scene.time].light, below * glitter * ripple * fade)


def _stars(details: np.random.Generator, size: int) -> Array:
    x, y = grid(size)
    stars = np.zeros((size, size), dtype=np.float32)
    for column, row in details.integers(0, (8, 3), (5, 2)):
        away = np.hypot(x - 8 * column - 4, y - 8 * row - 4)
        stars = np.maximum(stars, np.clip(1.1 - away, 0, 1))
    return stars


def _lit(colour: tuple[int, int, int], time: str) -> Array:
    """Return a thing's colour at an hour: tinted less than the ground, so that it stands out."""
    tint = np.sqrt(np.asarray(PALETTES[time].tint, dtype=np.float32))
    return tint * np.asarray(colour, dtype=np.float32)


def _cover(inside: Any, picture: Array) -> Array:
    """Return how much of each pixel lies inside, from its centre's distance to the edge."""
    return np.clip(np.asarray(inside) * (len(picture) / SIDE) + 0.5, 0, 1).astype(np.float32)


def _paint(picture: Array, colour: Any, alpha: Any) -> None:
    picture += (np.asarray(colour, dtype=np.float32) - picture) * np.asarray(alpha)[..., None]


def _mix(one: Array, other: Array, share: float) -> Array:
    return (one + (other - one) * np.float32(share)).astype(np.float32)
