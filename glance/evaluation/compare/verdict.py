"""Does the pair help? One verdict for every comparison, with the figures that it rests on.

What is asked: does the pair end nearer to where the base model's many steps end, from the same
noise, than the base model itself along the same sigmas? The distance of the latents decides; what
is seen of it, the variety between seeds, and the base's steps that it saves stand beside it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from glance.core.errors import UsageError
from glance.evaluation.compare.request import FEWEST, JUDGED, Variant
from glance.evaluation.compare.result import Comparison
from glance.evaluation.compare.summary import Mean, gain_of, mean_of

_TITLES: Final = {"lpips": "LPIPS", "1 - ssim": "1 - SSIM"}


class Outcome(StrEnum):
    """On which side of 0 the pair's distance minus the base's lies."""

    NEARER = "nearer"
    FURTHER = "further"
    OPEN = "open"
    """Its interval holds 0, or there is none."""


_SAID: Final = {
    Outcome.NEARER: "it helps",
    Outcome.FURTHER: "it does not help",
    Outcome.OPEN: "too close to call",
}


@dataclass(frozen=True, slots=True)
class Distances:
    """Mean distances to the base's many steps from the same noise, over all pictures."""

    base: float
    """Of the base model along the pair's sigmas."""
    pair: float
    difference: float
    """Pair - base: below 0, the pair is nearer."""
    interval: tuple[float, float] | None
    """95 %, paired by picture (see intervals); None for fewer than FEWEST pictures."""

    @property
    def outcome(self) -> Outcome:
        """Whether the whole interval lies on one side of 0."""
        low, high = self.interval or (0.0, 0.0)
        if high < 0:
            return Outcome.NEARER
        return Outcome.FURTHER if low > 0 else Outcome.OPEN

    def to_json(self) -> dict[str, Any]:
        """Return the figures, to four decimals."""
        interval = None if self.interval is None else [round(end, 4) for end in self.interval]
        found = {"base": self.base, "pair": self.pair, "difference": self.difference}
        return {**{name: round(value, 4) for name, value in found.items()}, "interval": interval}


@dataclass(frozen=True, slots=True)
class Variety:
    """How far final latents of one prompt under different seeds are apart: see Comparison."""

    base: float
    """Of the base model's many steps."""
    pair: float

    def to_json(self) -> dict[str, float]:
        """Return the figures, to four decimals."""
        return {"base": round(self.base, 4), "pair": round(self.pair, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison says of its pair."""

    distance: Distances
    """Root mean square of the difference of the final latents."""
    perceptual: Distances
    """LPIPS of the pictures where it was asked for, else 1 - SSIM."""
    metric: str
    """Which of them: lpips, or 1 - ssim."""
    variety: Variety | None
    """None where no prompt has two seeds."""
    worth_steps: int | None
    """The fewest of the base's own steps that end as near; None where nobody looked."""
    images: int
    """Pictures of the pair that were compared."""
    sentence: str
    """All of it for people, on one line."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "distance": self.distance.to_json(),
            "perceptual": {**self.perceptual.to_json(), "metric": self.metric},
            "variety": None if self.variety is None else self.variety.to_json(),
            "worth_steps": self.worth_steps,
            "images": self.images,
        }


def judge(comparison: Comparison, *, worth_steps: int | None = None) -> Verdict:
    """Return the verdict on a comparison whose variants are JUDGED, at least.

    `worth_steps` is what Comparer.find_worth found. Raises UsageError where a variant is missing.
    """
    require_judged(tuple(comparison.rows[0].cells))
    has_lpips = gain_of(comparison, "lpips") is not None
    distance = _distances(comparison, "latents")
    perceptual = _distances(comparison, "lpips" if has_lpips else "ssim")
    metric = "lpips" if has_lpips else "1 - ssim"
    apart = comparison.variety
    variety = Variety(apart[Variant.TEACHER], apart[Variant.BOTH]) if apart else None
    few, many = (comparison.rows[0].cells[v].steps for v in (Variant.BOTH, Variant.TEACHER))
    disagree = {distance.outcome, perceptual.outcome} == {Outcome.NEARER, Outcome.FURTHER}
    seen = f"{'but ' if disagree else ''}{_tell(perceptual, _TITLES[metric])}"
    concluded = _conclude(distance, len(comparison.rows), few, many)
    parts = [f"{concluded} ({_tell(distance, 'latents')}; {seen})"]
    if worth_steps is not None:
        parts.append(f"worth about {worth_steps} of the base's own steps")
    if variety is not None and variety.base > 0:
        parts.append(f"variety {_percent(variety.pair / variety.base)} of the base's")
    return Verdict(
        distance=distance,
        perceptual=perceptual,
        metric=metric,
        variety=variety,
        worth_steps=worth_steps,
        images=len(comparison.rows),
        sentence="; ".join(parts),
    )


def require_judged(variants: tuple[Variant, ...]) -> None:
    """Raise UsageError where a variant is missing that a verdict needs."""
    missing = [one for one in JUDGED if one not in variants]
    if missing:
        raise UsageError(
            f"there is no verdict without {' and '.join(missing)}",
            hint="paint the variants teacher, base and both at least",
        )


def _distances(comparison: Comparison, name: str) -> Distances:
    base, pair = (mean_of(comparison, v, name) for v in (Variant.BASE, Variant.BOTH))
    gain = gain_of(comparison, name)
    if base is None or pair is None or gain is None:
        raise UsageError(f"nobody measured {name}", hint="run_comparison measures it")
    if name == "ssim":
        return Distances(1 - base.value, 1 - pair.value, -gain.value, _negated(gain))
    return Distances(base.value, pair.value, gain.value, gain.interval)


def _negated(gain: Mean) -> tuple[float, float] | None:
    return None if gain.interval is None else (-gain.interval[1], -gain.interval[0])


def _conclude(distance: Distances, images: int, few: int, many: int) -> str:
    """Return whether it helps, and how much nearer or further the pair ends."""
    moved, base = distance.difference, distance.base
    words = "nearer to" if moved < 0 else "further from"
    percent = f"{_percent(abs(moved) / base)} " if base > 0 else ""
    place = f"{percent}{words} the base's {many} than"
    verdict = _SAID[distance.outcome]
    if images < FEWEST:
        count = "one picture proves" if images == 1 else f"{images} pictures prove"
        verdict = f"{count} little (from {FEWEST} on there is a verdict)"
    if moved == 0 or (images >= FEWEST and distance.outcome is Outcome.OPEN):
        place = f"about as near to the base's {many} as"
    return f"{verdict}: in {few} steps the pair ends {place} the base itself along the same sigmas"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _tell(found: Distances, title: str) -> str:
    """Return `latents 0.160 against 0.271, difference -0.111, 95 % -0.130 to -0.090`."""
    digits = 3 if abs(found.difference) >= 0.005 else 4
    figures = f"{found.pair:.{digits}f} against {found.base:.{digits}f}"
    interval = ""
    if found.interval is not None:
        low, high = found.interval
        interval = f", 95 % {low:+.{digits}f} to {high:+.{digits}f}"
    return f"{title} {figures}, difference {found.difference:+.{digits}f}{interval}"
