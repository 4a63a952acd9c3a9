"""The committed figures as tables, put between the markers of docs/evidence.md."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.evidence import markdown
from benchmarks.evidence.distilled import tables as distilled
from benchmarks.evidence.markdown import fine, percent, plain, points, signed, table
from benchmarks.evidence.pairs import PUBLISHED, QUESTIONS, Recipe

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"
_BENCHES = ("3.5/1.0", "1.0/1.0")

Figures = Mapping[str, Any]


def load() -> Figures:
    """Return the committed figures, those of distilled pairs among them."""
    figures: Figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {**figures, "distilled": distilled.load()}


def keep(figures: Figures) -> None:
    """Write the figures, but for those of distilled pairs, and the page anew."""
    own = {name: one for name, one in figures.items() if name != "distilled"}
    RESULTS.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
    page = fill(PAGE.read_text(encoding="utf-8"), figures)
    PAGE.write_text(page, encoding="utf-8")


def fill(page: str, figures: Figures) -> str:
    """Return `page` with every table made anew; raise KeyError for a table nobody knows."""
    return markdown.fill(page, TABLES, figures)


def _base(figures: Figures, wording: str, guidance: str) -> str:
    found = figures["benches"][wording][guidance]["base"]
    return table(
        ("sigmas", "steps", "met, %", "against 50 steps", "whole, %", "distance"),
        (
            (
                *_way(way),
                percent(one["met"]),
                points(one["loss"]),
                percent(one["readable"]),
                plain(one["distance"]),
            )
            for way, one in found.items()
        ),
    )


def _pairs(figures: Figures, wording: str, kind: str = "pairs") -> str:
    rows = []
    for guidance in _BENCHES:
        bench = figures["benches"][wording][guidance]
        for name, one in bench[kind].items():
            rows.append((guidance, f"`{name}`", *_pair(one)))
        if kind == "pairs":
            rows.append((guidance, "`seed-10`, uncorrected", *_pair(bench["uncorrected"])))
    return table(("guidance", "list", *_PAIR_HEADS), rows)


_PAIR_HEADS = ("base, %", "pair, %", "gain", "retention, %", "further from base-50", "pull")


def _pair(one: Figures) -> tuple[str, ...]:
    return (
        percent(one["base"]),
        percent(one["met"]),
        points(one["gain"]),
        percent(one["retention"]),
        signed(one["further"]),
        points(one["pull"]) if "pull" in one else "",
    )


def _question(figures: Figures, question: str) -> str:
    rows = []
    for recipe in QUESTIONS[question]:
        cells: list[str] = []
        for guidance in _BENCHES:
            one = figures["benches"]["loose"][guidance]["questions"][question][recipe.name]
            cells += [points(one["gain"]), signed(one["further"]), points(one["pull"])]
        rows.append((_described(recipe, question), *cells))
    heads = [f"{head}, {guidance}" for guidance in _BENCHES for head in ("gain", "further", "pull")]
    return table((question, *heads), rows)


def _described(recipe: Recipe, question: str) -> str:
    match question:
        case "learning rate":
            value = f"{recipe.learning_rate:g}"
        case "picture and caption":
            value = f"{recipe.source}, {recipe.wording} caption"
        case "alpha":
            value = f"{recipe.alpha_per_rank} x rank"
        case "rank":
            value = f"{recipe.rank}"
        case "steps":
            value = f"{recipe.steps}"
        case "order of the list":
            value = recipe.order
        case _:
            value = f"{recipe.samples}"
    return f"{value} (the centre)" if recipe.changes == PUBLISHED.changes else value


def _padding(figures: Figures) -> str:
    rows = ((tokens, *_pair(one)) for tokens, one in figures["padding"].items())
    return table(("T5 padded to", *_PAIR_HEADS), rows)


def _errors(figures: Figures) -> str:
    """Tell how far the base model's latents end from its own fifty steps."""
    rows = []
    for name, one in figures["lists"]["lists"].items():
        kind, steps = name.split("-")
        split = "" if kind != "free" else f", {len(one['timesteps']['slow'])} of them slow"
        rows.append(
            (
                f"{steps}{split}",
                f"`{kind}`",
                fine(one["error"]),
                fine(one["beside_auto"], sign="+"),
                fine(one["error_alike"]),
            )
        )
    heads = ("steps", "list", "error", "against `auto`", "error, guided 3.5 throughout")
    return table(heads, sorted(rows, key=lambda row: int(row[0].split(",")[0])))


def _lists(figures: Figures) -> str:
    """Tell what the checker reads, without LoRAs and with those that were trained on the list."""
    rows = []
    for name, one in figures["lists"]["lists"].items():
        pair = _pair(one["pair"])[1:] if "pair" in one else ("",) * 5
        rows.append(
            (f"`{name}`", percent(one["base"]["met"]), plain(one["base"]["distance"]), *pair)
        )
    heads = ("list", "base, %", "base's distance", *_PAIR_HEADS[1:])
    return table(heads, sorted(rows, key=lambda row: int(row[0].strip("`").split("-")[1])))


def _way(way: str) -> tuple[str, str]:
    if way == "50":
        return "shifted (the model's own)", "50"
    kind, _, steps = way.rpartition("-")
    return (kind if kind in ("shifted", "uniform") else f"`{way}`"), steps


TABLES: Mapping[str, Callable[[Figures], str]] = MappingProxyType(
    {
        "base 3.5": lambda figures: _base(figures, "loose", "3.5/1.0"),
        "base 1.0": lambda figures: _base(figures, "loose", "1.0/1.0"),
        "pairs": lambda figures: _pairs(figures, "loose"),
        "pairs, full captions": lambda figures: _pairs(figures, "full"),
        "gentle": lambda figures: _pairs(figures, "loose", "gentle"),
        "padding": _padding,
        "errors of lists": _errors,
        "lists": _lists,
        **{
            question: lambda figures, question=question: _question(figures, question)  # type: ignore[misc]
            for question in QUESTIONS
        },
        **{
            f"distilled: {name}": lambda figures, make=make: make(figures["distilled"])  # type: ignore[misc]
            for name, make in distilled.TABLES.items()
        },
    }
)
