"""What the rounds say: what each way took, ratios within a round, whether pictures are the same."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.result import Column, Figure, Goal, Ratio, Row, summarise

Round = Mapping[str, Mapping[str, float]]
"""What each way measured of itself in one round: seconds, counts, bytes."""

NAMES: Final = {
    "hand": "a loop by hand",
    "glance": "glance infer",
    "guide": "the guide's two pipelines",
    "fused": "by hand, LoRAs fused",
    "base 10": "base, 10 steps",
    "base 50": "base, 50 steps",
    "resident 50": "50 steps, both LoRAs resident",
}
_TWICE: Final = ("base", "move", "encode")
"""What the guide does once more than glance: each LoRA is loaded once by both."""
_SECONDS: Final = {
    "total": "after imports",
    "import": "imports",
    "base": "load",
    "move": "to the device",
    "lora": "LoRAs",
    "encode": "encode",
    "forward": "forwards",
    "decode": "decode",
}


def columns(*, on_gpu: bool) -> tuple[Column, ...]:
    """Return the quantities of a way: seconds, then gigabytes."""
    seconds = tuple(
        Column(name=name, digits=2, shows_spread=part == "total")
        for part, name in _SECONDS.items()
        if on_gpu or part != "move"
    )
    own = "GB of the card" if on_gpu else "GB above imports"
    return (*seconds, *(Column(name=name, digits=2) for name in ("GB of system memory", own)))


def rows(rounds: Sequence[Round], *, on_gpu: bool) -> tuple[Row, ...]:
    """Return the medians of each way's parts, with how often they were called."""
    shown = {column.name for column in columns(on_gpu=on_gpu)}

    def figures(way: str) -> dict[str, Figure]:
        done = [one[way] for one in rounds]
        found = {
            name: summarise((one[part] for one in done), calls=_calls(done[0], part))
            for part, name in _SECONDS.items()
        }
        found["GB of system memory"] = summarise(one["peak"] / 1e9 for one in done)
        own = "GB of the card" if on_gpu else "GB above imports"
        found[own] = summarise(one["memory"] / 1e9 for one in done)
        return {name: figure for name, figure in found.items() if name in shown}

    return tuple(Row(name=name, figures=figures(way)) for way, name in NAMES.items())


def ratios(rounds: Sequence[Round], *, on_gpu: bool) -> tuple[Ratio, ...]:
    """Return the ratios within a round, and the goals that some have."""
    own = "memory of the card" if on_gpu else "memory above imports"
    found: dict[str, Callable[[Round], float]] = {
        _OVERHEAD: lambda one: of(one, "total", "glance", "hand"),
        **({} if on_gpu else {_ON_THE_WALL: lambda one: of(one, "wall", "glance", "hand")}),
        "guide / glance, after imports": lambda one: of(one, "total", "guide", "glance"),
        "the same, reckoned: one load and one encoding more": reckoned,
        "measured / reckoned": lambda one: of(one, "total", "guide", "glance") / reckoned(one),
        "reckoned with what its second load and encoding took": reckoned_warm,
        _AS_RECKONED: lambda one: of(one, "total", "guide", "glance") / reckoned_warm(one),
        _FIVE_TIMES: lambda one: of(one, "denoising", "resident 50", "glance"),
        "50 / 10 steps, base alone": lambda one: of(one, "denoising", "base 50", "base 10"),
        "base's 50 steps / glance's 10": lambda one: of(one, "denoising", "base 50", "glance"),
        "glance's forwards / the base's": lambda one: of(one, "forward", "glance", "base 10"),
        "forwards fused / unfused": lambda one: of(one, "forward", "fused", "hand"),
        "the same, with the fusing": lambda one: (
            (one["fused"]["forward"] + one["fused"]["fusing"]) / one["hand"]["forward"]
        ),
        f"{own}, guide / glance": lambda one: of(one, "memory", "guide", "glance"),
    }
    return tuple(
        Ratio(name=name, figure=summarise(map(ratio, rounds)), goal=_GOALS.get(name))
        for name, ratio in found.items()
    )


def of(one: Round, part: str, way: str, other: str) -> float:
    """Return a part of one way to the same part of another."""
    return one[way][part] / one[other][part]


def reckoned(one: Round) -> float:
    """Return what the guide should take to glance: it loads the base twice and encodes twice.

    Each LoRA is loaded once by both, ten forwards and one decode are the same.
    """
    glance = one["glance"]
    return 1 + sum(glance[part] for part in _TWICE) / glance["total"]


def reckoned_warm(one: Round) -> float:
    """Return the same with the guide's own times: files and kernels are warm the second time."""
    guide, glance = one["guide"], one["glance"]
    more = sum(guide[part] - glance[part] for part in _TWICE)
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


def _calls(done: Mapping[str, float], part: str) -> int | None:
    count = done.get(f"count {part}")
    return None if count is None else int(count)


_OVERHEAD: Final = "glance / by hand, after imports"
_ON_THE_WALL: Final = "the same, by the clock on the wall"
_AS_RECKONED: Final = "measured / that"
_FIVE_TIMES: Final = "50 / 10 steps, both LoRAs resident"
_GOALS: Final = {
    _OVERHEAD: Goal(at_most=1.05),
    _AS_RECKONED: Goal(at_least=0.95, at_most=1.05),
    _FIVE_TIMES: Goal(at_least=4.9),
}
