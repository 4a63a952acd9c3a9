"""Means with confidence intervals, by a bootstrap over training samples and captions alike."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""(training samples, captions); one row where no pair is involved; nan: no value, left out."""

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
    return _bootstrap(lambda pick: float(np.nanmean(pick(values))), values)


def estimate_difference(values: Values, reference: Values) -> Estimate:
    """Return the mean of `values` - `reference`, paired by caption (and so by noise)."""
    return _bootstrap(
        lambda pick: float(np.nanmean(pick(values)) - np.nanmean(pick(reference))),
        values,
        reference,
    )


def estimate_ratio(values: Values, reference: Values) -> Estimate:
    """Return mean of `values` / mean of `reference`, paired by caption."""
    return _bootstrap(
        lambda pick: float(np.nanmean(pick(values)) / np.nanmean(pick(reference))),
        values,
        reference,
    )


def _bootstrap(figure: Callable[[Callable[[Values], Values]], float], *several: Values) -> Estimate:
    """Draw captions, and training samples, anew with replacement, the same for all `several`.

    Percentile intervals of a bootstrap with crossed factors: Owen, "The pigeonhole bootstrap"
    (arXiv 0712.1111), which errs on the wide side.
    """
    (captions,) = {values.shape[1] for values in several}
    random = np.random.default_rng(0)
    samples = max(len(values) for values in several)
    found = []
    for _ in range(_RESAMPLES):
        rows = random.integers(samples, size=samples)
        columns = random.integers(captions, size=captions)
        found.append(
            figure(lambda v, r=rows, c=columns: v[r if len(v) > 1 else slice(None)][:, c])  # type: ignore[misc]
        )
    low, high = np.quantile(found, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(figure(lambda v: v), float(low), float(high))
