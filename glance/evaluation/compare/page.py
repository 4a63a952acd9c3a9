"""One HTML page of a comparison that stands alone: pictures in it, no script, nothing fetched."""

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from glance.core.files import write_text
from glance.evaluation.compare.result import Cell, Comparison, Row
from glance.evaluation.compare.summary import FIGURES, TITLES, gain_of, tabulate

if TYPE_CHECKING:
    from PIL.Image import Image

_LARGEST: Final = 768  # pixels: a page of many pictures must still load
_LOSSLESS: Final = 256  # pixels: up to here PNG is small
_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 1rem }
h2 { font-size: 1.1rem; overflow-wrap: anywhere }
.row { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
figure { margin: 0 } img { width: 100%; height: auto; image-rendering: auto }
figcaption { font-size: .85rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #8886; padding: .25rem .75rem; text-align: right }
th:first-child, td:first-child { text-align: left }
"""
_FOOT: Final = """
<p>All pictures of a row begin with the same noise. Each is compared with the first one: latents is
the root mean square of their difference, lower is nearer; SSIM and PSNR: higher is nearer. They
say nothing of which is the better picture. In brackets, from eight pictures on: 95 % intervals by
a bootstrap over prompts and seeds.</p>
"""


def save_page(
    comparison: Comparison, sample: Path | None, path: Path, *, headline: str = ""
) -> None:
    """Write the page to `path`; `sample` is what the pair was trained on. Raises OSError."""
    write_text(path, "".join(_page(comparison, sample, headline)))


def _page(comparison: Comparison, sample: Path | None, headline: str) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>glance compare</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    yield "<h1>glance compare</h1>\n"
    if headline:
        yield f"<p><strong>{escape(headline)}</strong></p>\n"
    yield from _table(comparison)
    yield _FOOT
    if sample is not None:
        yield '<h2>Trained on</h2>\n<div class="row">\n'
        yield f'<figure><img src="{_embed_file(sample)}" alt="the training sample"></figure>\n'
        yield "</div>\n"
    for row in comparison.rows:
        yield f"<h2>{escape(row.prompt)} <small>seed {row.seed}</small></h2>\n"
        yield '<div class="row">\n'
        yield from (_figure(row, cell) for cell in row.cells.values())
        yield "</div>\n"
    yield "</body>\n</html>\n"


def _table(comparison: Comparison) -> Iterator[str]:
    header, rows = tabulate(comparison)
    yield '<div class="wide"><table>\n<thead><tr>'
    yield "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    yield "</tr></thead>\n<tbody>\n"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>\n"
    yield "</tbody>\n</table></div>\n"
    gains = {TITLES.get(name, name): gain_of(comparison, name) for name in FIGURES}
    said = [f"{name} {gain.show(3)}" for name, gain in gains.items() if gain is not None]
    if said:
        yield f"<p>Both LoRAs minus the base along the same sigmas: {'; '.join(said)}.</p>\n"


def _figure(row: Row, cell: Cell) -> str:
    alt = escape(f"{cell.label}, seed {row.seed}: {row.prompt}", quote=True)
    words = [cell.label, *_said(cell)]
    caption = "<br>".join(map(escape, words))
    return (
        f'<figure><img src="{_embed(cell.image)}" width="{cell.image.width}" '
        f'height="{cell.image.height}" loading="lazy" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _said(cell: Cell) -> Iterator[str]:
    if cell.seconds is not None:
        yield f"{cell.seconds:.2f} s"
    if cell.distance is not None:
        yield f"latents {cell.distance:.3f}"
    if cell.ssim is not None and cell.psnr is not None:
        yield f"SSIM {cell.ssim:.3f}, PSNR {cell.psnr:.1f} dB"
    for name in ("lpips", "clip"):
        if name in cell.figures:
            yield f"{TITLES[name]} {cell.figures[name]:.3f}"
    if cell.verdict:
        yield cell.verdict


def _embed_file(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        return _embed(picture.convert("RGB"))


def _embed(image: "Image") -> str:
    """Return the picture as a data URI."""
    kind, encoded = encode_shown(image)
    return f"data:image/{kind};base64,{b64encode(encoded).decode()}"


def encode_shown(image: "Image") -> tuple[str, bytes]:
    """Return "png" or "jpeg", and the picture as that, for a page that shows many.

    Every pixel of a small one, a large one made smaller; none of its metadata.
    """
    encoded = BytesIO()
    if max(image.size) <= _LOSSLESS:
        kind = "png"
        image.save(encoded, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        small = image.convert("RGB")
        small.thumbnail((_LARGEST, _LARGEST))
        small.save(encoded, format="JPEG", quality=90)
    return kind, encoded.getvalue()
