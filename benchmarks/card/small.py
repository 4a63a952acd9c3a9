"""The small model of the package on a card: the same pictures as on the CPU, and better pairs.

What it paints can be read, so that a card's arithmetic is judged by what the pictures show.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

from benchmarks.card.models import Situation, clock_of, write_model
from benchmarks.evidence.distilled.judging import describe_pair, judge, judge_base
from benchmarks.evidence.distilled.recipes import BESIDE, DEFAULT, Recipe
from benchmarks.evidence.distilled.teaching import portions, record, train
from benchmarks.evidence.pairs import Wording
from benchmarks.evidence.workshop import Workshop
from benchmarks.result import Column, Figure, Result, Row, summarise
from benchmarks.rounds import ROOT, SMALL_MODEL
from glance.batch.demo import judge as read
from glance.core.device import Device, Memory, Precision
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import Fit, load_pipeline
from glance.sampling.prompts import judging_prompts
from glance.sampling.settings import SampleSettings, resolve_sample_settings

_SIDE: Final = 64
_MOST_STEPS: Final = 50
_FEW_STEPS: Final = 4
_DEMO: Final = ROOT / "glance" / "assets" / "demo-prompts.jsonl"
_JUDGED: Final = 12


# --- the tests that need a card ------------------------------------------------------------------


def run_tests(here: Situation) -> Iterator[Result]:
    """Run tests/gpu and count; what failed and why is in the part's log."""
    report = here.work / "tests.xml"
    arguments = ["-n", "0", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if here.is_tiny:  # in this process, which has imported what they need
        import pytest

        known = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        pytest.main([f"--rootdir={ROOT}", str(ROOT / "tests" / "gpu"), *arguments, *known])
    else:
        command = [sys.executable, "-m", "pytest", "tests/gpu", *arguments]
        subprocess.run(command, cwd=ROOT, check=False)
    counts = _count(report)
    yield Result(
        name="card, tests/gpu",
        compares="Each way to place and quantise weights, compiled and not, on a tiny model.",
        rounds=1,
        columns=tuple(Column(name=name, digits=0) for name in counts),
        rows=(Row(name="tests", figures={name: summarise([one]) for name, one in counts.items()}),),
        ratios=(),
    )


def _count(report: Path) -> Mapping[str, int]:
    suite = ElementTree.parse(report).find("testsuite")
    assert suite is not None
    found = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = found["failures"] + found["errors"]
    passed = found["tests"] - failed - found["skipped"]
    return {"passed": passed, "failed": failed, "skipped": found["skipped"]}


# --- the same pictures ---------------------------------------------------------------------------


def compare_devices(here: Situation) -> Iterator[Result]:
    """Sample the demo's prompts and others on the CPU and on the card, from the same noise."""
    lines = map(json.loads, _DEMO.read_text(encoding="utf-8").splitlines())
    prompts = [(one["prompt"], one["seed"]) for one in lines]
    prompts += [(text, 1) for text in judging_prompts(2 * _JUDGED, world=True)[1::2]]
    prompts = prompts[:2] if here.is_tiny else prompts
    rows = []
    for steps in (_FEW_STEPS,) if here.is_tiny else (_FEW_STEPS, _MOST_STEPS):
        made = {
            device: _paint(device, prompts, steps)
            for device in dict.fromkeys((Device.CPU, here.device))
        }
        (theirs, slow), (ours, quick) = made[Device.CPU], made[here.device]
        away = [
            np.abs(np.asarray(one).astype(int) - np.asarray(other))
            for one, other in zip(ours, theirs, strict=True)
        ]
        same = sum(
            read(text, one) == read(text, other)
            for (text, _), one, other in zip(prompts, ours, theirs, strict=True)
        )
        met = sum(
            "not" not in read(text, one) for (text, _), one in zip(prompts, ours, strict=True)
        )
        figures = {
            "pictures": summarise([len(prompts)]),
            "read alike": summarise([same]),
            "show all that is named": summarise([met]),
            "levels apart at most": summarise(float(one.max()) for one in away),
            "on average": summarise(float(one.mean()) for one in away),
            "seconds": summarise([quick]),
            "seconds on the CPU": summarise([slow]),
        }
        rows.append(Row(name=f"{steps} steps", figures=figures))
    yield Result(
        name="card, the small model",
        compares="The small model of the package in float32, on the card and on the CPU, from the "
        "same noise: what the pictures show, and the largest difference of each, of 255 levels.",
        rounds=1,
        columns=tuple(
            Column(
                name=name,
                digits={"on average": 2, "seconds": 1, "seconds on the CPU": 1}.get(name, 0),
                shows_spread="apart" in name,
            )
            for name in rows[0].figures
        ),
        rows=tuple(rows),
        ratios=(),
    )


def _paint(device: Device, prompts: list[tuple[str, int]], steps: int) -> tuple[list[Any], float]:
    family, clock = find_family("flux"), clock_of(device)
    fit = Fit(device=device, dtype=Precision.FP32, memory=Memory.FULL)
    loaded = load_pipeline(BaseModel(family, str(SMALL_MODEL)), {}, fit)
    glance = GlancePipeline(loaded.pipeline, switch=loaded.switch)
    images = [_settings(text, seed) for text, seed in prompts]
    list(glance.sample_base(images[:1], steps=1))  # the first is slow
    began = clock()
    batches = list(glance.sample_base(images, steps=steps, batch_size=8))
    return [one.image for batch in batches for one in batch.images], clock() - began


def _settings(prompt: str, seed: int) -> SampleSettings:
    return resolve_sample_settings(
        find_family("flux"), prompt=prompt, seed=seed, width=_SIDE, height=_SIDE
    )


# --- better pairs --------------------------------------------------------------------------------

_LARGE: Final = replace(DEFAULT, loose=384, full=128, rank=32, steps=1000, batch_size=16)
RECIPES: Final[Mapping[str, Recipe]] = {
    "default": DEFAULT,
    "large": _LARGE,
    "rounds": replace(_LARGE, steps=2000, rounds=4),
    "largest": replace(_LARGE, loose=3072, full=1024, steps=8000, rounds=4, lands=True),
}
"""By how much longer they take: what `glance distill` does, then what a CPU has no time for."""
_TINY: Final = Recipe(loose=2, steps=2, batch_size=2, rank=2)


def distil(here: Situation, name: str) -> Iterator[Result]:
    """Teach the small model a pair of four steps, and judge it on captions it has not seen."""
    recipe = _TINY if here.is_tiny else RECIPES[name]
    shop = Workshop(here.work / "evidence", SMALL_MODEL, device=here.device)
    if here.is_tiny:
        write_model(here)
        shop = replace(shop, model=here.model, captions=2)
    for wording in Wording:
        here.tell(f"the base, {wording} captions")
        judge_base(shop, wording, (recipe.schedule, *BESIDE))
    waiting = list(portions(recipe))
    for number, portion in enumerate(waiting):
        here.tell(f"recording, {number + 1} of {len(waiting)}")
        record(shop, portion)
    clock = clock_of(here.device)
    began = clock()
    train(shop, recipe)
    trained = clock() - began
    judge(shop, recipe)
    rows = [
        Row(name=f"{name}, {wording} captions", figures=_figures(found, trained))
        for wording, found in describe_pair(shop, recipe).items()
    ]
    yield Result(
        name="card, pairs of four steps",
        compares=f"The small model of the package, {shop.captions} held-out captions of each "
        "wording: root mean square distance of the final latents to the base's after 50 steps, "
        "and how many pictures show all that is named. In brackets 95 % intervals. Each pair's "
        "recipe is `RECIPES` in benchmarks/card/small.py.",
        rounds=1,
        columns=(
            Column(name=_BASE, digits=3),
            Column(name=_PAIR, digits=3),
            Column(name=_RATIO, digits=2, shows_spread=True),
            Column(name=_BESIDE_10, digits=3, shows_spread=True),
            Column(name=_BASE_MET, digits=1),
            Column(name=_PAIR_MET, digits=1),
            Column(name=_TRAINING, digits=0),
        ),
        rows=tuple(rows),
        ratios=(),
    )


def _figures(found: Mapping[str, Any], trained: float) -> dict[str, Figure]:
    """Return one wording's figures; intervals are what stands for least and greatest."""

    def interval(value: float, low: float, high: float) -> Figure:
        return Figure(median=value, least=low, greatest=high)

    return {
        _BASE: summarise([found["latents"]["base"]]),
        _PAIR: summarise([found["latents"]["pair"]]),
        _RATIO: interval(*found["ratio"]),
        _BESIDE_10: interval(*found["beside"]["own-10"]),
        _BASE_MET: summarise([100 * found["met"]["base"]]),
        _PAIR_MET: summarise([100 * found["met"]["pair"]]),
        _TRAINING: summarise([trained]),
    }


_BASE: Final = "distance, base's 4 steps"
_PAIR: Final = "pair's 4"
_RATIO: Final = "pair / base"
_BESIDE_10: Final = "pair's 4 less the base's 10"
_BASE_MET: Final = "met by base, %"
_PAIR_MET: Final = "by pair, %"
_TRAINING: Final = "seconds of training"
