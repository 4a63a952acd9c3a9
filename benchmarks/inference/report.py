"""The tables: what each way took, ratios within a round, whether the pictures are the same."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

Round = dict[str, dict[str, float]]
"""What each way measured of itself in one round: seconds, counts, bytes."""

NAMES = {
    "hand": "a loop by hand",
    "glance": "glance infer",
    "guide": "the guide's two pipelines",
    "fused": "by hand, LoRAs fused",
    "base 10": "base, 10 steps",
    "base 50": "base, 50 steps",
    "resident 50": "50 steps, both LoRAs resident",
}


def seconds(rounds: Sequence[Round]) -> str:
    """Return the medians of each way's parts, with how often they were called."""
    parts = ("base", "lora", "encode", "forward", "decode")
    lines = [
        "| way | imports | load | LoRAs | encode | forwards | decode | after imports "
        "| GB | above imports |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for way, name in NAMES.items():
        done = [one[way] for one in rounds]

        def cell(part: str, done: list[dict[str, float]] = done) -> str:
            return f"{median(one[part] for one in done):.2f}"

        cells = [f"{done[0]['count ' + part]:.0f} x, {cell(part)}" for part in parts]
        memory = [
            f"{median(one[kind] for one in done) / 1e9:.2f}"
            for kind in ("peak", "peak above imports")
        ]
        row = [name, cell("import"), *cells, cell("total"), *memory]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def ratios(rounds: Sequence[Round]) -> str:
    """Return the medians of the ratios within a round, and the least and the greatest."""
    rows: dict[str, Callable[[Round], float]] = {
        "glance / by hand, after imports": lambda one: of(one, "total", "glance", "hand"),
        "the same, by the clock on the wall": lambda one: of(one, "wall", "glance", "hand"),
        "guide / glance, after imports": lambda one: of(one, "total", "guide", "glance"),
        "the same, reckoned: one load and one encoding more": reckoned,
        "measured / reckoned": lambda one: of(one, "total", "guide", "glance") / reckoned(one),
        "reckoned with what its second load and encoding took": reckoned_warm,
        "measured / that": lambda one: of(one, "total", "guide", "glance") / reckoned_warm(one),
        "50 / 10 steps, both LoRAs resident": lambda one: of(
            one, "denoising", "resident 50", "glance"
        ),
        "50 / 10 steps, base alone": lambda one: of(one, "denoising", "base 50", "base 10"),
        "base's 50 steps / glance's 10": lambda one: of(one, "denoising", "base 50", "glance"),
        "glance's forwards / the base's": lambda one: of(one, "forward", "glance", "base 10"),
        "forwards fused / unfused": lambda one: of(one, "forward", "fused", "hand"),
        "the same, with the fusing": lambda one: (
            (one["fused"]["forward"] + one["fused"]["fusing"]) / one["hand"]["forward"]
        ),
        "memory above imports, guide / glance": lambda one: of(
            one, "peak above imports", "guide", "glance"
        ),
    }
    lines = ["| ratio within a round | median | least | greatest |", "|---|---|---|---|"]
    for name, ratio in rows.items():
        values = [ratio(one) for one in rounds]
        figures = (median(values), min(values), max(values))
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in figures)} |")
    return "\n".join(lines)


def of(one: Round, part: str, way: str, other: str) -> float:
    """Return a part of one way to the same part of another."""
    return one[way][part] / one[other][part]


def reckoned(one: Round) -> float:
    """Return what the guide should take to glance: it loads the base twice and encodes twice.

    Each LoRA is loaded once by both, ten forwards and one decode are the same.
    """
    glance = one["glance"]
    return 1 + (glance["base"] + glance["encode"]) / glance["total"]


def reckoned_warm(one: Round) -> float:
    """Return the same with the guide's own times: files and kernels are warm the second time."""
    guide, glance = one["guide"], one["glance"]
    more = sum(guide[part] - glance[part] for part in ("base", "encode"))
    return 1 + more / glance["total"]


def pictures(folder: Path) -> str:
    """Say how far glance's picture, and the latents with LoRAs fused, are from those by hand."""
    import numpy
    from PIL import Image

    hand, glance = (
        numpy.asarray(Image.open(folder / f"{way}.png")).astype(int) for way in ("hand", "glance")
    )
    latents, fused = (numpy.load(folder / f"{way}.npy") for way in ("hand", "fused"))
    return (
        f"glance's picture differs from the one by hand by {abs(hand - glance).max()} of 255 at "
        f"most; the latents with LoRAs fused by {abs(latents - fused).max():.1e} at most, their "
        f"mean magnitude being {abs(latents).mean():.2f}."
    )
