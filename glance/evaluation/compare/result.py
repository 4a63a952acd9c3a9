"""What came of a comparison: rows of pictures with their figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from glance.evaluation.compare.request import Variant

if TYPE_CHECKING:
    from PIL.Image import Image

Judge = Callable[[str, "Image"], str]
"""Says of a prompt and a picture, in a few words, whether the one shows the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One picture: how it was made, what it took, how near it is to the teacher's.

    Figures that need a teacher are None where there is none, or where the cell is the teacher
    itself.
    """

    variant: Variant
    image: "Image"
    steps: int
    seconds: float | None
    """Of denoising and decoding. None of a picture that was there already: another day's are not
    to be held against today's."""
    was_cached: bool
    figures: Mapping[str, float]
    """By name: latents, psnr, ssim, lpips, clip; those that there are."""
    verdict: str = ""
    """A judge's words, if one was asked."""

    @property
    def label(self) -> str:
        """How it was made, in words."""
        return self.variant.label(self.steps)

    @property
    def distance(self) -> float | None:
        """Root mean square of the difference of its final latents to the teacher's."""
        return self.figures.get("latents")

    @property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio to the teacher's picture, decibels; 100 at the most."""
        return self.figures.get("psnr")

    @property
    def ssim(self) -> float | None:
        """Structural similarity to the teacher's picture; 1: the same."""
        return self.figures.get("ssim")

    def to_json(self) -> dict[str, Any]:
        """Return all but the pixels."""
        found = {name: self.figures.get(name) for name in ("latents", "psnr", "ssim")}
        return {
            "steps": self.steps,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "was_cached": self.was_cached,
            **{name: _rounded(value) for name, value in (found | dict(self.figures)).items()},
        }


@dataclass(frozen=True, slots=True)
class Row:
    """The pictures of one prompt and seed, all from the same noise."""

    prompt: str
    seed: int
    cells: Mapping[Variant, Cell]

    def to_json(self) -> dict[str, Any]:
        """Return all but the pixels."""
        cells = {variant.value: cell.to_json() for variant, cell in self.cells.items()}
        return {"prompt": self.prompt, "seed": self.seed, "variants": cells}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row of pictures for each prompt and seed."""

    rows: tuple[Row, ...]
    variety: Mapping[Variant, float] = field(default_factory=dict)
    """How far pictures of one prompt under different seeds are apart: the mean root mean square of
    the differences of their final latents, of the teacher and of both LoRAs. Empty where no prompt
    has two seeds."""

    def judged(self, judge: Judge) -> "Comparison":
        """Return the same pictures with a judge's words on each."""
        rows = (
            replace(row, cells={v: _judged(row, cell, judge) for v, cell in row.cells.items()})
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))


def _judged(row: Row, cell: Cell, judge: Judge) -> Cell:
    return replace(cell, verdict=judge(row.prompt, cell.image))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
