"""What came of a comparison: images with their figures, their means, and the verdict.

What is asked: does the pair end nearer to where the base model's many steps end, from the same
noise, than the base model itself along the same sigmas? The distance of the latents decides; what
is seen of it, the variety between seeds, and the base's steps that it saves stand beside it.
PSNR, SSIM and LPIPS are torchmetrics'; torch is imported when the first of them is measured.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from glance.core.errors import SetupError, UsageError
from glance.core.hub import is_offline
from glance.evaluation.request import JUDGED, Metric, Variant

if TYPE_CHECKING:
    from PIL.Image import Image

    from glance.sampling.pipeline.similarity import Perceptual

FEWEST: Final = 8  # images: of fewer, no interval, no verdict, and no worth in steps
FIGURES: Final = ("latents", "psnr", "ssim", "lpips")
_TITLES: Final = {"ssim": "SSIM", "psnr": "PSNR dB", "lpips": "LPIPS"}
_DIGITS: Final = {"seconds": 2, "latents": 3, "ssim": 3, "psnr": 1, "lpips": 3}  # in the table

_ALEXNET: Final = "hub/checkpoints/alexnet-owt-7be5be79.pth"  # torchvision's, in torch's folder
_RESAMPLES: Final = 2000
_LEVEL: Final = 0.95

Judge = Callable[[str, "Image"], str]
"""Says of a prompt and an image, in a few words, whether the one shows the other."""
Latents = NDArray[np.float16]
"""One image's at sigma 0, (1, ...), as the family's pipeline has them. Their numbers are of the
order of 1, so rounding moves a distance of 0.01 by less than 0.1 %."""
Values = NDArray[np.float64]
"""(first factor, second factor): training samples or seeds, and captions. One row where there is no
first factor; nan: no value, left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One image: how it was made, what it took, how near it is to the teacher's."""

    variant: Variant
    image: "Image"
    steps: int
    seconds: float | None
    """Of denoising and decoding. None of an image that was there already: another day's are not
    to be held against today's."""
    was_cached: bool
    figures: Mapping[str, float]
    """By name, FIGURES that were measured: `latents` is the root mean square of the difference of
    its final latents to the teacher's; `psnr` is in decibels, at most 100; `ssim` is 1 of the same
    image. Empty where there is no teacher, and of the teacher."""
    words: str = ""
    """A judge's, if one was asked."""

    @property
    def label(self) -> str:
        """How it was made, in words."""
        return self.variant.label(self.steps)

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
    """The images of one prompt and seed, all from the same noise."""

    prompt: str
    seed: int
    cells: Mapping[Variant, Cell]

    def to_json(self) -> dict[str, Any]:
        """Return all but the pixels."""
        cells = {variant.value: cell.to_json() for variant, cell in self.cells.items()}
        return {"prompt": self.prompt, "seed": self.seed, "variants": cells}


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over all rows; of fewer than FEWEST there is no interval."""

    value: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, count: int, estimate: "Estimate") -> "Mean":
        """Return an estimate from `count` images."""
        return cls(estimate.value, (estimate.low, estimate.high) if count >= FEWEST else None)

    def to_json(self) -> dict[str, float | None]:
        """Return the mean and the ends of its 95 % interval, or null."""
        low, high = self.interval or (None, None)
        return {"mean": _rounded(self.value), "low": _rounded(low), "high": _rounded(high)}

    def show(self, digits: int) -> str:
        """Return it as people read it: `0.812 (0.790 to 0.830)`."""
        if self.interval is None:
            return f"{self.value:.{digits}f}"
        low, high = self.interval
        return f"{self.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row of images for each prompt and seed."""

    rows: tuple[Row, ...]
    variety: Mapping[Variant, float] = field(default_factory=dict)
    """How far images of one prompt under different seeds are apart: the mean root mean square of
    the differences of their final latents, of the teacher and of both LoRAs. Empty where no prompt
    has two seeds."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those that were sampled, in their order."""
        return tuple(self.rows[0].cells)

    def judged(self, judge: Judge) -> "Comparison":
        """Return the same images with a judge's words on each."""
        rows = []
        for row in self.rows:
            words = {one: judge(row.prompt, cell.image) for one, cell in row.cells.items()}
            cells = {one: replace(cell, words=words[one]) for one, cell in row.cells.items()}
            rows.append(replace(row, cells=cells))
        return replace(self, rows=tuple(rows))

    def mean(self, variant: Variant, name: str) -> Mean | None:
        """Return the mean of a variant's `name`, one of FIGURES or seconds; None: not measured.

        The interval is a bootstrap over prompts and seeds. Seconds have a mean only where the
        base's and the pair's images were all sampled side by side with them.
        """
        beside = {variant, Variant.BASE, Variant.BOTH} & set(self.variants)
        if name == "seconds" and any(
            row.cells[one].seconds is None for row in self.rows for one in beside
        ):
            return None
        values = self._values(variant, name)
        return None if values is None else Mean.of(values.size, estimate_mean(values))

    def gain(self, name: str) -> Mean | None:
        """Return the mean of both LoRAs' figure minus the base's along the same sigmas, paired."""
        both, base = (self._values(one, name) for one in (Variant.BOTH, Variant.BASE))
        if both is None or base is None:
            return None
        return Mean.of(both.size, estimate_difference(both, base))

    def _values(self, variant: Variant, name: str) -> Values | None:
        """Return (seeds, prompts) where every prompt has every seed, else (1, rows)."""
        cells = [row.cells.get(variant) for row in self.rows]
        found = [
            None if cell is None else cell.seconds if name == "seconds" else cell.figures.get(name)
            for cell in cells
        ]
        if any(value is None for value in found):
            return None
        prompts = list(dict.fromkeys(row.prompt for row in self.rows))
        seeds = list(dict.fromkeys(row.seed for row in self.rows))
        places = {
            (row.seed, row.prompt): value for row, value in zip(self.rows, found, strict=True)
        }
        if len(places) == len(found) == len(seeds) * len(prompts):
            crossed = [[places[seed, prompt] for prompt in prompts] for seed in seeds]
            return np.array(crossed, dtype=np.float64)
        return np.array([found], dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pixels."""
        means = {
            variant.value: {
                name: found.to_json()
                for name in ("seconds", *FIGURES)
                if (found := self.mean(variant, name)) is not None
            }
            for variant in self.variants
        }
        gains = {name: self.gain(name) for name in FIGURES}
        return {
            "rows": [row.to_json() for row in self.rows],
            "means": means,
            "both_minus_base": {name: g.to_json() for name, g in gains.items() if g is not None},
        }

    def tabulate(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the header and a row a variant, as text: the means, with their intervals."""
        found = {name: [self.mean(one, name) for one in self.variants] for name in _DIGITS}
        columns = [name for name, means in found.items() if any(means)]
        rows = []
        for number, cell in enumerate(self.rows[0].cells.values()):
            texts = (
                "-" if (mean := found[name][number]) is None else mean.show(_DIGITS[name])
                for name in columns
            )
            rows.append((cell.label, *texts))
        return ("image", *(_TITLES.get(name, name) for name in columns)), rows


@dataclass(frozen=True, slots=True)
class Distances:
    """Mean distances to the base's many steps from the same noise, over all images."""

    base: float
    """Of the base model along the pair's sigmas."""
    pair: float
    difference: float
    """Pair - base: below 0, the pair is nearer."""
    interval: tuple[float, float] | None
    """95 %, paired by image; None for fewer than FEWEST."""

    @property
    def side(self) -> int:
        """Where the whole interval lies: -1, the pair is nearer; 1, further; 0: too close."""
        low, high = self.interval or (0.0, 0.0)
        return int(low > 0) - int(high < 0)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, to four decimals."""
        interval = None if self.interval is None else [round(end, 4) for end in self.interval]
        found = {"base": self.base, "pair": self.pair, "difference": self.difference}
        return {**{name: round(value, 4) for name, value in found.items()}, "interval": interval}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison says of its pair."""

    distance: Distances
    """Root mean square of the difference of the final latents."""
    perceptual: Distances
    """LPIPS of the images where it was asked for, else 1 - SSIM."""
    metric: str
    """Which of them: lpips, or 1 - ssim."""
    variety: Mapping[str, float] | None
    """Comparison.variety of `base`, its many steps, and `pair`; None where no prompt has two
    seeds."""
    worth_steps: int | None
    """The fewest of the base's own steps that end as near; None where nobody looked."""
    images: int
    """Images of the pair that were compared."""
    sentence: str
    """All of it for people, on one line."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures, to four decimals."""
        variety = self.variety
        return {
            "distance": self.distance.to_json(),
            "perceptual": {**self.perceptual.to_json(), "metric": self.metric},
            "variety": variety and {name: round(value, 4) for name, value in variety.items()},
            "worth_steps": self.worth_steps,
            "images": self.images,
        }


def judge(comparison: Comparison, *, worth_steps: int | None = None) -> Verdict:
    """Return the verdict on a comparison whose variants are JUDGED, at least.

    `worth_steps` is what compare_pair looks for. Raises UsageError where a variant is missing.
    """
    require_judged(comparison.variants)
    has_lpips = comparison.gain("lpips") is not None
    distance = _distances(comparison, "latents")
    perceptual = _distances(comparison, "lpips" if has_lpips else "ssim")
    apart = comparison.variety
    variety = {"base": apart[Variant.TEACHER], "pair": apart[Variant.BOTH]} if apart else None
    seen = _tell(perceptual, "LPIPS" if has_lpips else "1 - SSIM")
    but = "but " if distance.side * perceptual.side < 0 else ""
    parts = [f"{_conclude(distance, comparison)} ({_tell(distance, 'latents')}; {but}{seen})"]
    if worth_steps is not None:
        parts.append(f"worth about {worth_steps} of the base's own steps")
    if variety is not None and variety["base"] > 0:
        parts.append(f"variety {_percent(variety['pair'] / variety['base'])} of the base's")
    return Verdict(
        distance=distance,
        perceptual=perceptual,
        metric="lpips" if has_lpips else "1 - ssim",
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
            hint="sample the variants teacher, base and both at least",
        )


def _distances(comparison: Comparison, name: str) -> Distances:
    base, pair = (comparison.mean(v, name) for v in (Variant.BASE, Variant.BOTH))
    gain = comparison.gain(name)
    if base is None or pair is None or gain is None:
        raise UsageError(f"{name} was not measured", hint="run_comparison measures it")
    if name == "ssim":
        interval = None if gain.interval is None else (-gain.interval[1], -gain.interval[0])
        return Distances(1 - base.value, 1 - pair.value, -gain.value, interval)
    return Distances(base.value, pair.value, gain.value, gain.interval)


def _conclude(distance: Distances, comparison: Comparison) -> str:
    """Return whether it helps, and how much nearer or further the pair ends."""
    images = len(comparison.rows)
    cells = comparison.rows[0].cells
    few, many = (cells[one].steps for one in (Variant.BOTH, Variant.TEACHER))
    moved, base = distance.difference, distance.base
    words = "nearer to" if moved < 0 else "further from"
    percent = f"{_percent(abs(moved) / base)} " if base > 0 else ""
    place = f"{percent}{words} the base's {many} than"
    verdict = {-1: "it helps", 0: "too close to call", 1: "it does not help"}[distance.side]
    if images < FEWEST:
        count = "one image proves" if images == 1 else f"{images} images prove"
        verdict = f"{count} little (from {FEWEST} on there is a verdict)"
    if moved == 0 or (images >= FEWEST and distance.side == 0):
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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


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
    from glance.sampling.pipeline import hush, importing

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
