"""Comparisons of plain colours: no model painted them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glance.evaluation.cache import CachedImage, ImageCache
from glance.evaluation.compare import ComparisonPlan, plan_own
from glance.evaluation.comparison import Cell, Comparison, Likeness, Row
from glance.evaluation.request import Variant

SSIM = {Variant.BASE: 0.5, Variant.SLOW_ONLY: 0.6, Variant.FAST_ONLY: 0.7, Variant.BOTH: 0.8}


def make_cell(variant: Variant, **changes: Any) -> Cell:
    """A cell whose figures are those of SSIM: see make_figures."""
    usual: dict[str, Any] = {
        "variant": variant,
        "image": Image.new("RGB", (64, 64), (40 * list(Variant).index(variant), 90, 160)),
        "steps": 50 if variant is Variant.TEACHER else 10,
        "seconds": 2.0,
        "was_cached": False,
        "figures": make_figures(SSIM[variant]) if variant in SSIM else {},
    }
    return Cell(**{**usual, **changes})


def make_figures(ssim: float) -> dict[str, float]:
    """Forty times SSIM for PSNR; the latents are as far away as 1 - SSIM."""
    return {"latents": 1 - ssim, "psnr": 40 * ssim, "ssim": ssim}


def make_row(prompt: str = "a hill", seed: int = 0, **ssim: float) -> Row:
    """A row of all variants; `both=0.9` says another SSIM, and so all figures, of a variant."""
    cells = {variant: make_cell(variant) for variant in Variant}
    for name, value in ssim.items():
        variant = Variant[name.upper()]
        cells[variant] = make_cell(variant, figures=make_figures(value))
    return Row(prompt, seed, cells)


def make_comparison(*rows: Row) -> Comparison:
    """A comparison; of one usual row if none is given."""
    return Comparison(rows or (make_row(),))


def fill_cache(plan: ComparisonPlan, *, pair: float = 0.2) -> None:
    """Put every image of a plan into the cache, as if it had been run before.

    Final latents of the teacher are the seed; the others are as far from it as their SSIM says, the
    pair as far as `pair`, upwards of even seeds and downwards of odd ones.
    """
    cache = ImageCache()
    for row in plan.rows:
        seed = row.settings.seed
        for variant, one in row.cells.items():
            away = pair if variant is Variant.BOTH else 1 - SSIM.get(variant, 1.0)
            latents = np.full((1, 4, 2), seed + (away if seed % 2 == 0 else -away))
            cache.keep(one.key, CachedImage(make_cell(variant).image, latents))


def fill_worth(plan: ComparisonPlan) -> None:
    """Put the images of the base's own n steps into the cache: they are 0.99 / n away."""
    cache = ImageCache()
    for row in plan.rows:
        for steps in range(2, plan.request.teacher_steps):
            latents = np.full((1, 4, 2), row.settings.seed + 0.99 / steps)
            image = make_cell(Variant.TEACHER).image
            cache.keep(plan_own(plan, row, steps).key, CachedImage(image, latents))


def fake_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the images of `make_cell` measured by their colour: nobody imports torch."""

    def measure(self: Likeness, image: Image.Image, reference: Image.Image) -> dict[str, float]:
        red, _, _ = image.getpixel((0, 0))
        ssim = SSIM[list(Variant)[red // 40]]
        return {"psnr": 40 * ssim, "ssim": ssim}

    monkeypatch.setattr(Likeness, "measure", measure)


def write_caption(run: Path, text: str) -> None:
    """Put a caption where the runs of fakes.pairs say that it lies, and a picture beside it."""
    (run / "data").mkdir(parents=True)
    (run / "data/x.txt").write_text(f"{text}\n", encoding="utf-8")
    Image.new("RGB", (32, 64), "red").save(run / "data/x.png")


def read_figures(folder: Path) -> Any:
    """Return compare.json; NaN and Infinity, which are no JSON, fail."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "compare.json").read_text(), parse_constant=refuse)
