"""What pairs and the base alone do with captions that nobody was taught, as figures.

What was seen of each way to sample lies in the work folder as a file of its own, so a study that
was stopped goes on from there.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.evidence.distilled.recipes import (
    BASES,
    BESIDE,
    DEFAULT,
    STYLES,
    Recipe,
    all_recipes,
)
from benchmarks.evidence.distilled.style import lay_beneath, learn_style
from benchmarks.evidence.distilled.tables import RESULTS, Figures, load
from benchmarks.evidence.distilled.teaching import (
    GUIDANCE,
    Model,
    Text,
    portions,
    record,
    run_of,
    schedule_of,
    train,
)
from benchmarks.evidence.findings import shown
from benchmarks.evidence.measuring import alone
from benchmarks.evidence.observations import CAPTIONS, captions_of
from benchmarks.evidence.pairs import Wording
from benchmarks.evidence.workshop import Workshop
from glance.core.files import replacing, write_json
from glance.evaluation.comparison import Values, estimate_difference, estimate_mean, estimate_ratio
from glance.evaluation.small_world.check import read_picture
from glance.evaluation.small_world.world import read_caption

_VARIED, _SEEDS = 24, 4
"""Captions that variety is told by, and pictures of each."""
_FIRST_VARIED: Final = 900_000
TEACHER: Final = "own-50"
"""The list of the base that all is compared with."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one way to sample, a value a caption."""

    latents: list[float]
    """Root mean square difference of the final latents to the base's after TEACHER steps."""
    pixels: list[float]
    """Mean absolute difference of the pictures, 8-bit levels."""
    met: list[float]
    """1 where the picture shows everything that its caption names."""
    variety: list[float]
    """Of the first captions: mean root mean square difference between latents of other noises."""

    def row(self, name: str) -> Values:
        """Return one of the four as the bootstrap takes it: (1, captions)."""
        return np.array([getattr(self, name)], dtype=np.float64)


class Bench:
    """One wording's captions with a noise each, and where the base ends from there."""

    def __init__(self, shop: Workshop, wording: Wording, model: Model, style: float = 0) -> None:
        """Encode the captions; `model` is what will be sampled with, the style's LoRA in it."""
        self._model = model
        self._folder = _folder(shop, wording, style)
        self._captions = captions_of(wording)[: shop.captions]
        varied = [caption for caption in self._captions[:_VARIED] for _ in range(_SEEDS)]
        self._text, self._varied_text = model.encode(self._captions), model.encode(varied)
        self._noise = model.noise(range(len(self._captions)))
        self._varied = model.noise(range(_FIRST_VARIED, _FIRST_VARIED + len(varied)))

    def see(self, name: str, sample: "Sample") -> None:
        """Sample in one way and keep what was seen, unless somebody has."""
        if not self._file(name).exists():
            self._keep(name, *self._sample_all(sample))

    def see_teacher(self) -> None:
        """Sample the base with TEACHER steps, which all is compared with, unless somebody has."""
        if not self._file(TEACHER).exists():
            latents, varied = self._sample_all(partial(_walk, self._model, TEACHER))
            self._reference.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._reference) as temporary:
                torch.save(latents.cpu(), temporary)
            self._keep(TEACHER, latents, varied)

    def _sample_all(self, sample: "Sample") -> tuple[torch.Tensor, torch.Tensor]:
        return sample(self._noise, self._text), sample(self._varied, self._varied_text)

    def _keep(self, name: str, latents: torch.Tensor, varied: torch.Tensor) -> None:
        reference = torch.load(self._reference, map_location=self._model.device)
        wanted = self._model.decode(reference).astype(np.float32)
        pictures = self._model.decode(latents)
        seen = Seen(
            latents=_rounded((latents - reference).flatten(1).square().mean(dim=1).sqrt()),
            pixels=_rounded(np.abs(pictures.astype(np.float32) - wanted).mean(axis=(1, 2, 3))),
            met=[
                float(read_caption(caption).items() <= read_picture(picture).items())
                for caption, picture in zip(self._captions, pictures, strict=True)
            ],
            variety=_rounded(_spread(varied)),
        )
        with replacing(self._file(name)) as temporary:
            temporary.write_text(json.dumps(asdict(seen)), encoding="utf-8")

    @property
    def _reference(self) -> Path:
        return self._folder / "reference.pt"

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


Sample = Callable[[torch.Tensor, Text], torch.Tensor]
"""Noise and its encoded captions -> final latents."""


def study(shop: Workshop, *, jobs: int) -> Figures:
    """Record, train, sample, read; return the figures. What is there already is not made again.

    The figures are written after every pair.
    """
    recipes = list(all_recipes())
    wanted = dict.fromkeys(portion for one in recipes for portion in portions(one))
    with ProcessPoolExecutor(jobs, initializer=alone) as pool:
        list(pool.map(partial(judge_base, shop), Wording))
        list(pool.map(partial(record, shop), wanted))
        learn_style(shop)
        list(pool.map(partial(judge_base_in_style, shop), STYLES[1:]))
        for name in pool.map(partial(train, shop), dict.fromkeys(one.taught for one in recipes)):
            print(f"trained {name}", flush=True)  # noqa: T201 - a command's progress
        for recipe in pool.map(partial(judge, shop), recipes):
            print(f"judged {recipe.name}", flush=True)  # noqa: T201 - a command's progress
            keep(shop, recipe)
    return load()


def judge(shop: Workshop, recipe: Recipe) -> Recipe:
    """Sample with a recipe's pair on every bench; it is trained."""
    model = Model(shop.load(run_of(shop, recipe)))
    if recipe.style:
        lay_beneath(shop, model, recipe.style)
    for wording in Wording:
        bench = Bench(shop, wording, model, recipe.style)
        bench.see(recipe.name, partial(model.sample, recipe))
    return recipe


def judge_base(shop: Workshop, wording: Wording, names: Sequence[str] = BASES) -> None:
    """Sample the base along the lists of these names, guided as the teacher is."""
    model = Model(shop.load())
    bench = Bench(shop, wording, model)
    bench.see_teacher()
    for name in names:
        bench.see(f"base-{name}", partial(_walk, model, name))


def judge_base_in_style(shop: Workshop, style: float) -> None:
    """Sample the base with the style's LoRA in it, with TEACHER steps and along DEFAULT's list."""
    model = Model(shop.load())
    lay_beneath(shop, model, style)
    for wording in Wording:
        bench = Bench(shop, wording, model, style)
        bench.see_teacher()
        for name in (DEFAULT.schedule, *BESIDE):
            bench.see(f"base-{name}", partial(_walk, model, name))


def keep(shop: Workshop, *recipes: Recipe) -> None:
    """Write the figures of what was seen of these; the others keep what they have."""
    known = load()
    pairs = {**known.get("pairs", {}), **{one.name: describe_pair(shop, one) for one in recipes}}
    names = [one.name for one in all_recipes()]
    figures = {
        "captions": CAPTIONS,
        "base": {name: _of_base(shop, name) for name in BASES},
        "pairs": {name: pairs[name] for name in names if name in pairs},
    }
    write_json(RESULTS, figures)


def _walk(model: Model, name: str, latents: torch.Tensor, text: Text) -> torch.Tensor:
    return model.follow(latents, (*schedule_of(name).sigmas, 0.0), text, GUIDANCE)[-1]


def _of_base(shop: Workshop, name: str) -> Figures:
    found = {}
    for wording in Wording:
        seen, teacher = (_load(shop, wording, one) for one in (f"base-{name}", TEACHER))
        found[wording.value] = {
            **{
                figure: shown(estimate_mean(seen.row(figure)))
                for figure in ("latents", "pixels", "met")
            },
            "variety": shown(estimate_ratio(seen.row("variety"), teacher.row("variety"))),
        }
    return found


def describe_pair(shop: Workshop, recipe: Recipe) -> Figures:
    """Return the figures of what was seen of a recipe's pair, by wording."""
    found = {}
    for wording in Wording:
        names = (recipe.name, f"base-{recipe.schedule}", TEACHER)
        seen, base, teacher = (_load(shop, wording, one, recipe.style) for one in names)
        found[wording.value] = {
            **{
                figure: {
                    "base": round(float(base.row(figure).mean()), 4),
                    "pair": round(float(seen.row(figure).mean()), 4),
                    "gain": shown(estimate_difference(seen.row(figure), base.row(figure))),
                }
                for figure in ("latents", "pixels", "met")
            },
            "ratio": shown(estimate_ratio(seen.row("latents"), base.row("latents"))),
            "variety": shown(estimate_ratio(seen.row("variety"), teacher.row("variety"))),
            "beside": {
                name: shown(
                    estimate_difference(
                        seen.row("latents"),
                        _load(shop, wording, f"base-{name}", recipe.style).row("latents"),
                    )
                )
                for name in BESIDE
            },
        }
    return found


def _folder(shop: Workshop, wording: Wording, style: float) -> Path:
    name = f"{wording}-style={style:g}" if style else wording.value
    return shop.path / "distilled" / "seen" / name


def _load(shop: Workshop, wording: Wording, name: str, style: float = 0) -> Seen:
    path = _folder(shop, wording, style) / f"{name}.json"
    return Seen(**json.loads(path.read_text(encoding="utf-8")))


def _spread(latents: torch.Tensor) -> torch.Tensor:
    """Return for each caption the mean distance between its pictures' latents: (captions,)."""
    flat = latents.reshape(len(latents) // _SEEDS, _SEEDS, -1)
    apart = torch.cdist(flat, flat) / math.sqrt(flat.shape[-1])
    one, other = torch.triu_indices(_SEEDS, _SEEDS, offset=1)
    return apart[:, one, other].mean(dim=1)


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]
