"""From the rows to what is told of them: means with their intervals, JSON, and a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from glance.evaluation.compare.intervals import Estimate, Values, estimate_difference, estimate_mean
from glance.evaluation.compare.request import FEWEST, Variant
from glance.evaluation.compare.result import Cell, Comparison, Row

FIGURES: Final = ("latents", "psnr", "ssim", "lpips", "clip")
TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {"ssim": "SSIM", "psnr": "PSNR dB", "lpips": "LPIPS", "clip": "CLIP"}
)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over all rows; of fewer than FEWEST there is no interval."""

    value: float
    interval: tuple[float, float] | None

    def to_json(self) -> dict[str, float | None]:
        """Return the mean and the ends of its 95 % interval, or null."""
        low, high = self.interval or (None, None)
        return {"mean": _rounded(self.value), "low": _rounded(low), "high": _rounded(high)}

    def show(self, digits: int) -> str:
        """Return it as people read it: `0.812 (0.79-0.83)`."""
        if self.interval is None:
            return f"{self.value:.{digits}f}"
        low, high = self.interval
        return f"{self.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def mean_of(comparison: Comparison, variant: Variant, name: str) -> Mean | None:
    """Return the mean of a variant's `name`, one of FIGURES or seconds; None: nobody measured it.

    The interval is a bootstrap over prompts and seeds (see intervals). Seconds have a mean only
    where the base's and the pair's pictures were all painted side by side with them.
    """
    if name == "seconds" and not _is_timed(comparison, variant):
        return None
    values = _values(comparison, lambda row: _figure(row.cells.get(variant), name))
    return None if values is None else _mean(values.size, estimate_mean(values))


def gain_of(comparison: Comparison, name: str) -> Mean | None:
    """Return the mean of both LoRAs' figure minus the base's along the same sigmas, paired."""
    both, base = (
        _values(comparison, lambda row, v=variant: _figure(row.cells.get(v), name))  # type: ignore[misc]
        for variant in (Variant.BOTH, Variant.BASE)
    )
    if both is None or base is None:
        return None
    return _mean(both.size, estimate_difference(both, base))


def variants_of(comparison: Comparison) -> tuple[Variant, ...]:
    """Return the variants that were painted, in their order."""
    return tuple(comparison.rows[0].cells)


def describe(comparison: Comparison) -> dict[str, Any]:
    """Return everything but the pixels, as JSON."""
    means = {
        variant.value: {
            name: found.to_json()
            for name in ("seconds", *FIGURES)
            if (found := mean_of(comparison, variant, name)) is not None
        }
        for variant in variants_of(comparison)
    }
    gains = {name: gain_of(comparison, name) for name in FIGURES}
    return {
        "rows": [row.to_json() for row in comparison.rows],
        "means": means,
        "both_minus_base": {name: g.to_json() for name, g in gains.items() if g is not None},
    }


def tabulate(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and a row a variant, as text: the means, with their intervals."""
    shown = {"seconds": 2, "latents": 3, "ssim": 3, "psnr": 1, "lpips": 3, "clip": 1}
    variants = variants_of(comparison)
    found = {name: [mean_of(comparison, variant, name) for variant in variants] for name in shown}
    columns = [name for name, means in found.items() if any(means)]
    rows = []
    for number, variant in enumerate(variants):
        label = variant.label(comparison.rows[0].cells[variant].steps)
        means = (found[name][number] for name in columns)
        texts = (
            "-" if mean is None else mean.show(shown[name])
            for name, mean in zip(columns, means, strict=True)
        )
        rows.append((label, *texts))
    return ("picture", *(TITLES.get(name, name) for name in columns)), rows


def _mean(count: int, estimate: Estimate) -> Mean:
    return Mean(estimate.value, (estimate.low, estimate.high) if count >= FEWEST else None)


def _is_timed(comparison: Comparison, variant: Variant) -> bool:
    beside = {variant, Variant.BASE, Variant.BOTH}
    return all(
        row.cells[one].seconds is not None
        for row in comparison.rows
        for one in beside & row.cells.keys()
    )


def _figure(cell: Cell | None, name: str) -> float | None:
    if cell is None:
        return None
    return cell.seconds if name == "seconds" else cell.figures.get(name)


def _values(comparison: Comparison, figure: Callable[[Row], float | None]) -> Values | None:
    """Return (seeds, prompts) where every prompt has every seed, else (1, rows)."""
    found = [figure(row) for row in comparison.rows]
    if any(value is None for value in found):
        return None
    prompts = _distinct([row.prompt for row in comparison.rows])
    seeds = _distinct([str(row.seed) for row in comparison.rows])
    places = {
        (seeds.index(str(row.seed)), prompts.index(row.prompt)): value
        for row, value in zip(comparison.rows, found, strict=True)
    }
    if len(places) == len(found) == len(seeds) * len(prompts):
        crossed = [[places[s, p] for p in range(len(prompts))] for s in range(len(seeds))]
        return np.array(crossed, dtype=np.float64)
    return np.array([found], dtype=np.float64)


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
