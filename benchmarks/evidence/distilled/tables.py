"""The figures of distilled pairs as tables: of docs/evidence.md, and of docs/distill.md."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from benchmarks.evidence import markdown
from benchmarks.evidence.distilled.recipes import (
    CENTRE,
    DEFAULT,
    QUESTIONS,
    Recipe,
    all_recipes,
)
from benchmarks.evidence.markdown import fine, percent, points, table

RESULTS: Final = Path(__file__).parents[1] / "distilled.json"
PAGE: Final = Path(__file__).parents[3] / "docs" / "distill.md"
_WORDINGS: Final = ("loose", "full")
_TEACHER_STEPS: Final = 50

Figures = dict[str, Any]
"""`base`: of every list the base model alone; `pairs`: of every recipe's pair, by its name."""


def load() -> Figures:
    """Return the committed figures; none before the first study."""
    if not RESULTS.exists():
        return {}
    figures: Figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    return figures


def fill(page: str, figures: Figures) -> str:
    """Return docs/distill.md with its tables made anew; those nobody has measured stay as marks."""
    return markdown.fill(page, FIGURES, figures)


def describe(recipe: Recipe) -> dict[str, str]:
    """Return what tables say of a recipe, setting by setting."""
    return {name: word(recipe) for name, word in _WORDS.items()}


def write_page() -> None:
    """Write docs/distill.md anew from the committed figures."""
    page = fill(PAGE.read_text(encoding="utf-8"), load())
    PAGE.write_text(page, encoding="utf-8")


def _base(figures: Figures) -> str:
    rows = []
    for name, wordings in figures["base"].items():
        for wording in _WORDINGS:
            one = wordings[wording]
            cells = fine(one["latents"]), fine(one["pixels"], digits=2)
            rows.append((f"`{name}`", wording, *cells, percent(one["met"]), _whole(one["variety"])))
    return table(("list", "captions", "distance", "pixels", "met, %", "variety, %"), rows)


def _lists(figures: Figures) -> str:
    rows = []
    for recipe, wordings in _found(figures, QUESTIONS["lists"]):
        for wording in _WORDINGS:
            one, base = wordings[wording], figures["base"][recipe.schedule][wording]
            rows.append(
                (
                    f"`{recipe.schedule}`",
                    wording,
                    f"{one['latents']['base']:.3f}",
                    f"{one['latents']['pair']:.3f}",
                    fine(one["ratio"], digits=2),
                    fine(one["pixels"]["gain"], "+", digits=2),
                    points(one["met"]["gain"]),
                    f"{100 * base['variety'][0]:.0f}",
                    _whole(one["variety"]),
                )
            )
    heads = ("list", "captions", "base's distance", "pair's", "pair / base", "pixels")
    return table((*heads, "met", "base's variety, %", "pair's, %"), rows)


def _question(figures: Figures, question: str) -> str:
    recipes = QUESTIONS[question]
    described = [describe(one) for one in recipes]
    asked = [name for name in _WORDS if len({one[name] for one in described}) > 1]
    rows = (
        (
            *(_WORDS[name](recipe) for name in asked),
            *(fine(one[wording]["ratio"], digits=2) for wording in _WORDINGS),
            *(fine(one[wording]["pixels"]["gain"], "+", digits=2) for wording in _WORDINGS),
            points(one["loose"]["met"]["gain"]),
            *(_whole(one[wording]["variety"]) for wording in _WORDINGS),
        )
        for recipe, one in _found(figures, recipes)
    )
    heads = (
        *("pair / base, loose", "full", "pixels, loose", "full", "met, loose"),
        *("variety, loose, %", "full, %"),
    )
    return table((*asked, *heads), rows)


def _beside(figures: Figures) -> str:
    """Tell how far pairs are from base-50, less how far the base is with more steps."""
    rows = []
    for recipe, one in _found(figures, all_recipes()):
        other = {"own-4": "own-10", "own-2": "own-5"}.get(recipe.schedule)
        if other is None or "beside" not in one["loose"] or recipe.taught != recipe:
            continue
        cells = (fine(one[wording]["beside"][other], "+") for wording in _WORDINGS)
        rows.append((f"`{recipe.schedule}`", _described(recipe), f"`{other}`", *cells))
    heads = ("pair's list", "trained on", "base's list", "pair - base, loose", "full")
    return table(heads, sorted(rows, reverse=True))


def _headline(figures: Figures) -> str:
    rows = []
    for recipe, wordings in _found(figures, _HEADLINE):
        steps = recipe.schedule.split("-")[1]
        for wording in _WORDINGS:
            one, base = wordings[wording], figures["base"][recipe.schedule][wording]
            rows.append(
                (
                    steps,
                    recipe.trainer.value,
                    wording,
                    *(_both(one[figure], digits) for figure, digits in (("latents", 3),)),
                    fine(one["ratio"], digits=2),
                    _both(one["pixels"], 2),
                    f"{100 * one['met']['base']:.1f} -> {100 * one['met']['pair']:.1f}",
                    points(one["met"]["gain"]),
                    f"{100 * base['variety'][0]:.0f} -> {100 * one['variety'][0]:.0f}",
                )
            )
    heads = (
        *("steps", "trained", "captions", "distance: base -> pair", "pair / base"),
        *("pixels", "captions met, %", "gain in points", "variety, %"),
    )
    return table(heads, rows)


def _defaults(figures: Figures) -> str:
    """Tell what each setting does by itself, around one recipe."""
    rows, usual = [], describe(CENTRE)
    for question in ("layers", "rank", "learning rate", "steps", "fast guidance", "landing"):
        for recipe, one in _found(figures, QUESTIONS[question]):
            words = describe(recipe)
            if {**words, question: ""} == {**usual, question: ""}:
                rows.append((question, words[question], *_ratios(one)))
    return table(("setting", "value", "pair / base, loose captions", "full captions"), rows)


def _prompts(figures: Figures) -> str:
    rows = (
        (_captions(recipe), f"{recipe.noises}", *_ratios(one))
        for recipe, one in _found(figures, (*QUESTIONS["prompts"], *QUESTIONS["captions"][1:]))
    )
    return table(("prompts", "noises", "pair / base, loose captions", "full captions"), rows)


def _cost(figures: Figures) -> str:
    rows = []
    for recipe, one in _found(figures, (*QUESTIONS["short"], CENTRE, *QUESTIONS["more"])):
        if recipe.schedule != DEFAULT.schedule:
            continue
        paths = (recipe.loose + recipe.full) * recipe.noises
        samples = 2 * recipe.steps * recipe.batch_size
        passes = f"{paths * _TEACHER_STEPS:,}"
        rows.append((_described(recipe), passes, f"{samples:,}", *_ratios(one)))
    heads = ("of", "passes of recording", "samples of training", "pair / base, loose", "full")
    return table(heads, sorted(rows, key=lambda row: int(row[2].replace(",", ""))))


def _found(
    figures: Figures, recipes: Iterable[Recipe]
) -> Iterator[tuple[Recipe, Mapping[str, Any]]]:
    """Yield those that were judged, once each, with their figures by wording."""
    for recipe in dict.fromkeys(recipes):
        if recipe.name in figures["pairs"]:
            yield recipe, figures["pairs"][recipe.name]


def _ratios(one: Mapping[str, Any]) -> Iterator[str]:
    return (fine(one[wording]["ratio"], digits=2) for wording in _WORDINGS)


def _whole(figure: Sequence[float]) -> str:
    value, low, high = (100 * one for one in figure)
    return f"{value:.0f} ({low:.0f} to {high:.0f})"


def _both(figure: Mapping[str, Any], digits: int) -> str:
    return f"{figure['base']:.{digits}f} -> {figure['pair']:.{digits}f}"


def _captions(recipe: Recipe) -> str:
    counts = ((recipe.loose, "loose"), (recipe.full, "full"))
    return " + ".join(f"{count} {wording}" for count, wording in counts if count)


def _described(recipe: Recipe) -> str:
    """Say what is learnt, and whatever else is not the centre's."""
    told = ("list", "captions", "noises", "steps", "batch")
    usual = describe(CENTRE)
    others = [
        f"{name} {word}"
        for name, word in describe(recipe).items()
        if name not in told and word != usual[name]
    ]
    learnt = f"{_captions(recipe)} x {recipe.noises}, {recipe.steps} steps of {recipe.batch_size}"
    return ", ".join([learnt, *others])


_WORDS: Final[Mapping[str, Callable[[Recipe], str]]] = MappingProxyType(
    {
        "list": lambda one: f"`{one.schedule}`",
        "captions": _captions,
        "noises": lambda one: f"{one.noises}",
        "steps": lambda one: f"{one.steps}",
        "batch": lambda one: f"{one.batch_size}",
        "rank": lambda one: f"{one.rank}",
        "alpha": lambda one: f"{one.alpha_per_rank:g} x rank",
        "layers": lambda one: one.layers.value,
        "learning rate": lambda one: f"{one.learning_rate:g}",
        "decay": lambda one: one.decay.value,
        "fast guidance": lambda one: f"{one.fast_guidance:g}",
        "landing": lambda one: "from the slow LoRA's landing" if one.lands else "teacher's states",
        "rounds": lambda one: f"{one.rounds}",
        "weighting": lambda one: one.weighting.value,
        "strength": lambda one: f"{one.strength:g}",
        "style": lambda one: f"{one.style:g}" if one.style else "none",
        "seed": lambda one: f"{one.seed}",
        "draw": lambda one: f"{one.draw}",
        "trained by": lambda one: one.trainer.value,
    }
)
"""How tables call a recipe's fields, and what they say of each."""
_HEADLINE: Final = (*QUESTIONS["trainer"][-2:], DEFAULT)
TABLES: Final[Mapping[str, Callable[[Figures], str]]] = MappingProxyType(
    {
        "base": _base,
        "lists": _lists,
        "beside": _beside,
        **{
            question: lambda figures, question=question: _question(figures, question)  # type: ignore[misc]
            for question in QUESTIONS
            if question != "lists"
        },
    }
)
"""Of docs/evidence.md, where `distilled: ` stands before their names."""
FIGURES: Final[Mapping[str, Callable[[Figures], str]]] = MappingProxyType(
    {"headline": _headline, "defaults": _defaults, "prompts": _prompts, "cost": _cost}
)
"""Of docs/distill.md."""
