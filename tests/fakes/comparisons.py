"""Comparisons of plain colours: no model painted them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from glance.compare import Cell, Comparison, ComparisonPlan, Row, Variant
from glance.compare.cache import Cache, Kept

SSIM = {Variant.BASE: 0.5, Variant.SLOW_ONLY: 0.6, Variant.FAST_ONLY: 0.7, Variant.BOTH: 0.8}


def make_cell(variant: Variant, **changes: Any) -> Cell:
    """A cell whose figures are those of SSIM, and forty times that for PSNR."""
    ssim = SSIM.get(variant)
    usual: dict[str, Any] = {
        "variant": variant,
        "image": Image.new("RGB", (64, 64), (40 * list(Variant).index(variant), 90, 160)),
        "steps": 50 if variant is Variant.TEACHER else 10,
        "seconds": 2.0,
        "was_cached": False,
        "figures": {} if ssim is None else {"psnr": 40 * ssim, "ssim": ssim},
    }
    return Cell(**{**usual, **changes})


def make_row(prompt: str = "a hill", seed: int = 0, **ssim: float) -> Row:
    """A row of all variants; `both=0.9` says another SSIM, and PSNR, of a variant."""
    cells = {variant: make_cell(variant) for variant in Variant}
    for name, value in ssim.items():
        variant = Variant[name.upper()]
        cells[variant] = make_cell(variant, figures={"psnr": 40 * value, "ssim": value})
    return Row(prompt, seed, cells)


def make_comparison(*rows: Row) -> Comparison:
    """A comparison; of one usual row if none is given."""
    return Comparison(rows or (make_row(),))


def fill_cache(plan: ComparisonPlan) -> None:
    """Put every picture and figure of a plan into the cache, as if it had been run before."""
    cache = Cache.of_user()
    for row, variant in plan.cells():
        cell = make_cell(variant)
        cache.keep(row.keys[variant], Kept(cell.image, cell.seconds))
        cache.keep_figures(row.keys[variant], row.keys[Variant.TEACHER], cell.figures)


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
