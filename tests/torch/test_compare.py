"""Comparing with a tiny model: what is sampled, kept and measured."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.comparisons import read_figures, write_caption
from PIL import Image

from glance.core.events import Event, Noted
from glance.core.phase import Phase
from glance.evaluation.cache import ImageCache
from glance.evaluation.compare import compare_pair, plan_comparison, run_comparison, try_pair
from glance.evaluation.comparison import Comparison
from glance.evaluation.report import Report
from glance.evaluation.request import JUDGED, CompareRequest, Variant
from glance.runs.folder import RunFolder
from glance.sampling.generate import load_planned, run_generation
from glance.sampling.pipeline.similarity import measure_likeness
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest

PROMPTS = ("a hill", "a sea")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def compare(run: Path, events: list[Event] | None = None, **asked: Any) -> Comparison:
    usual = {"seeds": (3,), "teacher_steps": 6, "device": "cpu"}
    request = CompareRequest(run, PROMPTS, **{**usual, **asked})
    return run_comparison(plan_comparison(request), ([] if events is None else events).append)


def pixels(comparison: Comparison) -> list[bytes]:
    return [cell.image.tobytes() for row in comparison.rows for cell in row.cells.values()]


def sampled(comparison: Comparison) -> set[Variant]:
    return {v for row in comparison.rows for v, cell in row.cells.items() if not cell.was_cached}


def test_each_variant_is_what_infer_makes_and_is_counted(run_folder: Path) -> None:
    events: list[Event] = []

    comparison = compare(run_folder, events)

    assert [row.prompt for row in comparison.rows] == list(PROMPTS)
    for row in comparison.rows:
        assert list(row.cells) == list(Variant)
        assert len({cell.image.tobytes() for cell in row.cells.values()}) == len(Variant)
        assert all(cell.seconds is not None for cell in row.cells.values())
    for variant in (Variant.BASE, Variant.SLOW_ONLY, Variant.BOTH):
        request = InferRequest(
            prompts=PROMPTS[1:], run=run_folder, device="cpu", seeds=(3,), loras=variant.loras
        )
        with Image.open(run_generation(plan_generation(request), lambda _: None).images[0]) as made:
            assert comparison.rows[1].cells[variant].image.tobytes() == made.tobytes()
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert notes[1].startswith("image 1 of 10: base, 10 steps, seed 3, ")
    assert notes[-1] == "image 10 of 10: base, 6 steps, seed 3, 0 s left"


def test_the_second_time_only_what_changed_is_sampled(run_folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    first = compare(run_folder)
    second = compare(run_folder, events)

    assert (sampled(first), sampled(second), events) == (set(Variant), set(), [])
    assert pixels(first) == pixels(second)
    for one, other in zip(first.rows, second.rows, strict=True):
        assert all(cell.seconds is None for cell in other.cells.values())
        assert other.cells[Variant.BOTH].figures == one.cells[Variant.BOTH].figures

    guided = compare(run_folder, base_guidance=(9.0, 9.0))
    assert sampled(guided) == {Variant.BASE}
    base, other = (run.rows[0].cells[Variant.BASE] for run in (first, guided))
    assert base.image.tobytes() != other.image.tobytes()
    assert sampled(compare(run_folder, teacher_steps=7)) == {Variant.TEACHER}

    another = RunFolder(tmp_path / "other")  # pair of the same model
    shutil.copytree(run_folder, another.path)
    shutil.copy(another.lora(Phase.SLOW), another.lora(Phase.FAST))
    assert sampled(compare(another.path)) == {Variant.FAST_ONLY, Variant.BOTH}

    key = plan_comparison(CompareRequest(run_folder, PROMPTS, seeds=(3,), device="cpu"))
    victim = ImageCache().folder / f"images/{key.rows[0].cells[Variant.BOTH].key}.npz"
    victim.write_bytes(victim.read_bytes()[:-40])
    mended = compare(run_folder)
    assert [cell.was_cached for row in mended.rows for cell in row.cells.values()].count(False) == 1
    assert pixels(first) == pixels(mended)


def test_the_second_time_the_verdict_is_the_same_and_nothing_is_sampled(run_folder: Path) -> None:
    def judge() -> tuple[Report, list[str]]:
        request = CompareRequest(
            run_folder, PROMPTS, count=4, variants=JUDGED, teacher_steps=6, device="cpu"
        )
        events: list[Event] = []
        report = compare_pair(plan_comparison(request), events.append)
        return report, [one.message for one in events if isinstance(one, Noted)]

    first, sampling = judge()
    second, silence = judge()

    assert silence == []
    assert [note.startswith("loading ") for note in sampling].count(True) == 1
    assert first.verdict == second.verdict
    verdict = first.verdict
    assert verdict.variety is not None
    assert verdict.variety["base"] > 0
    assert verdict.worth_steps in range(2, 7)
    # the distance between the pair's image and six steps of the base, sampled by themselves
    infer = InferRequest(prompts=PROMPTS[:1], run=run_folder, device="cpu", seeds=(2,))
    planned = plan_generation(infer)
    sampler = load_planned(planned)
    pair = sampler.sample_one(planned.settings).images[0].final
    (teacher,) = sampler.sample_base([planned.settings], steps=6)
    latents = float((pair - teacher.images[0].final).square().mean().sqrt())
    cell = first.comparison.rows[2].cells[Variant.BOTH]
    assert cell.figures["latents"] == pytest.approx(latents, rel=1e-2)


def test_a_trial_writes_sheet_and_figures_into_the_run(run_folder: Path) -> None:
    write_caption(run_folder, "a grey circle")

    trial = try_pair(RunFolder(run_folder), lambda _: None)

    folder = run_folder / "images/compare"
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width == 4 * 168 + 8  # the sample, and three ways to sample
    prompts = [row["prompt"] for row in read_figures(folder)["rows"]]
    assert prompts == ["a grey circle", "a bowl of fruit on a wooden table"]
    assert trial.verdict.sentence.startswith("2 images prove little")


def test_psnr_is_that_of_the_mean_squared_error_and_ssim_tells_blur_from_light() -> None:
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    blurred = image.resize((16, 12)).resize((64, 48))
    lighter = image.point(lambda value: min(255, value + 10))

    soft, light, same = (measure_likeness(one, image) for one in (blurred, lighter, image.copy()))

    error = np.mean((np.asarray(image, float) - np.asarray(blurred, float)) ** 2)
    assert soft["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert soft["ssim"] < 0.5 < 0.9 < light["ssim"]
    assert same == {"psnr": 100.0, "ssim": pytest.approx(1.0, abs=1e-5)}
