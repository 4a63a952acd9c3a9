"""Means with 95 % intervals, by a bootstrap over two factors that every value belongs to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""(first factor, second factor): training samples or seeds, and captions. One row where there is no
first factor; nan: no value, left out."""

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate_mean(values: Values) -> Estimate:
    """Return the mean over all."""
    return _bootstrap(lambda mean: mean, values)


def estimate_difference(values: Values, reference: Values) -> Estimate:
    """Return the mean of `values` - `reference`, paired by place (caption, and so noise)."""
    return _bootstrap(np.subtract, values, reference)


def estimate_ratio(values: Values, reference: Values) -> Estimate:
    """Return mean of `values` / mean of `reference`, paired by place."""
    return _bootstrap(np.divide, values, reference)


def _bootstrap(figure: Callable[..., Values], *several: Values) -> Estimate:
    """Draw columns, and rows, anew with replacement, the same for all `several`.

    `figure` makes one of their means. Percentile intervals of a bootstrap with crossed factors:
    Owen, "The pigeonhole bootstrap" (arXiv 0712.1111), which errs on the wide side.
    """
    (width,) = {values.shape[1] for values in several}
    rows, columns = _draw(max(len(values) for values in several), width)
    means = []
    for values in several:
        picked = rows if len(values) > 1 else np.zeros_like(rows[:, :1])
        means.append(np.nanmean(values[picked[:, :, None], columns[:, None, :]], axis=(1, 2)))
    low, high = np.quantile(figure(*means), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    found = figure(*(np.nanmean(values) for values in several))
    return Estimate(float(found), float(low), float(high))


@lru_cache(maxsize=8)
def _draw(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (resamples, height) rows and (resamples, width) columns, ever the same ones."""
    random = np.random.default_rng(0)
    drawn = [
        (random.integers(height, size=height), random.integers(width, size=width))
        for _ in range(_RESAMPLES)
    ]
    rows, columns = zip(*drawn, strict=True)
    return np.array(rows), np.array(columns)
