"""What the trainer is shown of a picture: its size, and where it is cut.

SimpleTuner would scale a picture without smoothing it first, and cut it at random to the sides that
it takes, so glance does both: what it finds has its size already.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Any

from PIL import Image, ImageOps

WARNED = 0.1
"""A larger part of the picture than this is not cut off without a warning."""
REFUSED = 0.5
"""Nor a larger one than this unless it is asked for."""
_NOTICEABLE = 0.005  # half a per cent: less is not told

type Size = tuple[int, int]


class Crop(StrEnum):
    """What a data set shows of the picture."""

    WHOLE = "whole"
    """All of it, in its own aspect, as far as the sides that the trainer takes allow."""
    CENTER = "center"
    """A square of it."""
    CORNER = "corner"
    """Its upper left square: of earlier runs."""


@dataclass(frozen=True, slots=True)
class View:
    """One size at which a picture is trained, and what is cut off for it."""

    crop: Crop
    width: int
    height: int
    picture: Size
    """Width and height of what it is taken from."""

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    @property
    def name(self) -> str:
        """What no other view of the picture is called."""
        return f"{self.crop}-{self.width}x{self.height}"

    @property
    def scale(self) -> float:
        """By how much the picture is enlarged; below 1 it is made smaller."""
        return max(self.width / self.picture[0], self.height / self.picture[1])

    @property
    def cut(self) -> float:
        """The part of the picture that is cut off."""
        kept = self.width * self.height / math.prod(self.picture) / self.scale**2
        return max(0.0, round(1 - kept, 6))

    @property
    def loss(self) -> str:
        """Say how much is cut off, as "5 %"."""
        return f"{100 * self.cut:.0f} %"

    @property
    def edges(self) -> str:
        """Say where."""
        is_beside = self.width / self.height < self.picture[0] / self.picture[1]
        if self.crop is Crop.CORNER:
            return "at the right" if is_beside else "at the bottom"
        return "at the sides" if is_beside else "at top and bottom"

    def describe(self) -> str:
        """Say it in a clause, as "640x448 of 672x448, 5 % cut at the sides"."""
        said = f"{self.width}x{self.height}"
        if self.cut >= _NOTICEABLE:
            whole = (round(side * self.scale) for side in self.picture)
            said += f" of {'x'.join(map(str, whole))}, {self.loss} cut {self.edges}"
        if self.scale > 1 + _NOTICEABLE:
            said += f", enlarged {self.scale:.2f} times"
        return said

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "crop": self.crop.value,
            "width": self.width,
            "height": self.height,
            "cut": round(self.cut, 4),
        }

    def show(self, pixels: Image.Image) -> Image.Image:
        """Return what is trained of the picture."""
        middle = (0.0, 0.0) if self.crop is Crop.CORNER else (0.5, 0.5)
        return ImageOps.fit(pixels, self.size, Image.Resampling.LANCZOS, centering=middle)


def fit_view(
    picture: Size, area: int, *, step: int, most: int | None = None, crop: Crop = Crop.WHOLE
) -> View:
    """Return how a picture is trained at an area, given as the side of a square.

    Sides are multiples of `step`, the area is at most that of the side `most`. Of the sizes around
    the picture's own shape that one is taken for which least is cut off and enlarged; a square is
    not enlarged.
    """
    side = area if most is None else min(area, most)
    if crop is not Crop.WHOLE:
        side = min(side, max(step, min(picture) // step * step))
        return View(crop, side, side, picture)
    ratio = math.sqrt(picture[0] / picture[1])
    views = [
        View(crop, width, height, picture)
        for width, height in product(_around(side * ratio, step), _around(side / ratio, step))
    ]
    small = [one for one in views if most is None or math.prod(one.size) <= most**2]
    return min(
        small or views[:1],
        key=lambda one: (
            one.cut + max(0.0, round(one.scale - 1, 6)),
            abs(math.prod(one.size) - side**2),
        ),
    )


def fit_reference(picture: Size, area: int, *, step: int) -> Size:
    """Return the size at which a reference is shown: as diffusers shows it when it samples.

    Nothing is cut off; the shape may change by half a step.
    """
    ratio = picture[0] / picture[1]
    width = math.sqrt(area * area * ratio)
    return max(step, round(width / step) * step), max(step, round(width / ratio / step) * step)


def _around(side: float, step: int) -> tuple[int, ...]:
    below = math.floor(side / step) * step
    return tuple(dict.fromkeys((max(step, below), max(step, math.ceil(side / step) * step))))
