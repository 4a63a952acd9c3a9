"""Figures of images, and their means with 95 % intervals.

PSNR, SSIM and LPIPS are torchmetrics'; torch is imported when the first of them is measured.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from glance.core.errors import SetupError
from glance.core.hub import is_offline
from glance.evaluation.request import Metric

if TYPE_CHECKING:
    from PIL.Image import Image

    from glance.sampling.pipeline.similarity import Perceptual

_ALEXNET: Final = "hub/checkpoints/alexnet-owt-7be5be79.pth"  # torchvision's, in torch's folder
_RESAMPLES: Final = 2000
_LEVEL: Final = 0.95

Latents = NDArray[np.float16]
"""One image's at sigma 0, (1, ...), as the family's pipeline has them. Their numbers are of the
order of 1, so rounding moves a distance of 0.01 by less than 0.1 %."""

Values = NDArray[np.float64]
"""(first factor, second factor): training samples or seeds, and captions. One row where there is no
first factor; nan: no value, left out."""


class Likeness:
    """How near images are to a reference; the network of LPIPS is loaded once."""

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        """Take the metrics besides PSNR and SSIM; raises SetupError if one cannot be had."""
        if find_spec("torchmetrics") is None:
            raise SetupError("torchmetrics is not installed", hint="in glance's clone: uv sync")
        self._perceptual = _load_lpips() if Metric.LPIPS in metrics else None

    def measure(self, image: "Image", reference: "Image") -> dict[str, float]:
        """Return `psnr` (dB, at most 100), `ssim` (1: the same) and, if asked for, `lpips`."""
        import_similarity()
        from glance.sampling.pipeline.similarity import measure_likeness

        found = measure_likeness(image, reference)
        if self._perceptual is not None:
            found["lpips"] = self._perceptual.measure(image, reference)
        return found


def root_mean_square(one: Latents, other: Latents) -> float:
    """Return that of the difference of two images' latents, of one shape."""
    difference = one.astype(np.float64) - other
    return float(np.sqrt(np.mean(np.square(difference))))


def import_similarity() -> None:
    """Import what PSNR and SSIM need, beforehand: it takes seconds."""
    from glance.sampling.pipeline.quiet import hush, importing

    hush()
    with importing():
        import glance.sampling.pipeline.similarity  # noqa: F401


def _load_lpips() -> "Perceptual":
    """Return the network, fetched if it must be; raises SetupError, at once where it cannot be."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    # where torch keeps what it fetches, by its own rule (torch.hub.get_dir)
    network = Path(os.environ.get("TORCH_HOME", caches / "torch")).expanduser() / _ALEXNET
    if is_offline() and not network.is_file():
        raise SetupError(
            f"--metric lpips: its network, {network}, is not here, and HF_HUB_OFFLINE forbids "
            "fetching it",
            hint="fetch it once with a connection, or leave out --metric",
        )
    import_similarity()
    from glance.sampling.pipeline.similarity import Perceptual

    return Perceptual.load()


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
    """Return (resamples, height) rows and (resamples, width) columns, always the same ones."""
    random = np.random.default_rng(0)
    drawn = [
        (random.integers(height, size=height), random.integers(width, size=width))
        for _ in range(_RESAMPLES)
    ]
    rows, columns = zip(*drawn, strict=True)
    return np.array(rows), np.array(columns)
