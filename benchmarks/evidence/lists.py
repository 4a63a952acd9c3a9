"""Which few steps: the guide's, the model's own, the searched, even ones, at equal numbers.

Two figures of each list: how far the base model's latents end from its own fifty steps, and what
the checker reads in its pictures, without LoRAs and with a pair that was trained on the list.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.findings import Desk, Figures, shown
from benchmarks.evidence.measuring import (
    GUIDANCES,
    TEXT_TOKENS,
    Bench,
    alone,
    keep_reference,
)
from benchmarks.evidence.observations import CAPTIONS
from benchmarks.evidence.optimal import find_lists, open_base
from benchmarks.evidence.pairs import LISTS, SAMPLES, Recipe, Wording, pairs_of_lists
from benchmarks.evidence.sampling import images_of
from benchmarks.evidence.schedules import COMPARED, ENDED, FREE, load_schedules
from benchmarks.evidence.training import train_all
from benchmarks.evidence.workshop import Workshop
from glance.core.files import replacing
from glance.evaluation.comparison import estimate_difference, estimate_mean

_NAMES = (*COMPARED, *FREE, *ENDED)


def study(shop: Workshop, *, jobs: int) -> Figures:
    """Search, train, sample, read; return the figures. What is there already is not made again."""
    find_lists(shop, tokens=TEXT_TOKENS)
    _measure_trajectories(shop)
    train_all(shop, list(pairs_of_lists()), jobs=jobs)
    with ProcessPoolExecutor(jobs, initializer=alone) as pool:
        pool.submit(_measure_base, shop).result()
        for name in pool.map(partial(_measure_pair, shop), pairs_of_lists()):
            print(f"measured {name}", flush=True)  # noqa: T201 - a command's progress
    return _find(shop)


def _bench(shop: Workshop) -> Bench:
    return Bench(shop, Wording.LOOSE, GUIDANCES[0])


def _measure_base(shop: Workshop) -> None:
    bench = _bench(shop)
    pipeline = shop.load()
    keep_reference(bench, pipeline)
    bench.observe("base-50", bench.reference)
    for name in _NAMES:
        schedule = load_schedules()[name]
        bench.observe(f"base-{name}", partial(bench.sample, pipeline, schedule, loras=()))


def _measure_pair(shop: Workshop, pair: tuple[Recipe, int]) -> str:
    recipe, number = pair
    bench, schedule = _bench(shop), load_schedules()[recipe.schedule]
    pipeline = shop.load(shop.run(recipe, number))
    make = partial(bench.sample, pipeline, schedule)
    bench.observe(f"pair-{recipe.name}-{number}", make)
    return f"{recipe.name}-{number}"


def _measure_trajectories(shop: Workshop) -> None:
    """Keep of every list how far each held-out caption's latents end from fifty steps.

    Guided as glance does, and as the fifty steps are: alike in both phases.
    """
    path = _errors_path(shop)
    schedules = load_schedules()
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [name for name in _NAMES if name not in kept or _alike(name) not in kept]
    if not missing:
        return
    from glance.sampling.pipeline.trajectory import distances, walk

    pictures = images_of(_bench(shop).captions, GUIDANCES[0])
    model, teacher = open_base(shop, pictures, tokens=TEXT_TOKENS)
    for name in missing:
        one = schedules[name]
        sigmas = [value / 1000 for value in (*one.slow_timesteps, *one.fast_timesteps)]
        for label, split in ((name, len(one.slow_timesteps)), (_alike(name), len(sigmas))):
            latents = walk(model.velocity, teacher, sigmas, split)
            away = distances(latents, teacher.points[-1])
            kept[label] = [round(float(value), 5) for value in away]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")


def _errors_path(shop: Workshop) -> Path:
    return shop.path / "trajectories" / "errors.json"


def _find(shop: Workshop) -> Figures:
    desk = Desk(_bench(shop))
    kept = json.loads(_errors_path(shop).read_text(encoding="utf-8"))
    errors = {name: np.array([values]) for name, values in kept.items()}
    pairs = {recipe.schedule: recipe for recipe in LISTS}
    return {
        "captions": CAPTIONS,
        "samples": SAMPLES,
        "lists": {
            name: {
                "timesteps": _listed(name),
                "error": shown(estimate_mean(errors[name])),
                "beside_auto": shown(estimate_difference(errors[name], errors[_auto(name)])),
                "error_alike": shown(estimate_mean(errors[_alike(name)])),
                "base": desk.base(name),
                **({"pair": desk.pair(pairs[name])} if name in pairs else {}),
            }
            for name in _NAMES
        },
    }


def _alike(name: str) -> str:
    return f"{name}, guided alike"


def _auto(name: str) -> str:
    return f"auto-{name.split('-')[1]}"


def _listed(name: str) -> Mapping[str, list[float]]:
    schedule = load_schedules()[name]
    return {"slow": list(schedule.slow_timesteps), "fast": list(schedule.fast_timesteps)}
