"""Comparing with a tiny model: what is sampled, kept and measured."""

import shutil
from pathlib import Path

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


def compare(run: Path, *, steps: int = 6, events: list[Event] | None = None) -> Comparison:
    request = CompareRequest(run, PROMPTS, seeds=(3,), teacher_steps=steps, device="cpu")
    return run_comparison(plan_comparison(request), ([] if events is None else events).append)


def pixels(comparison: Comparison) -> list[bytes]:
    return [cell.image.tobytes() for row in comparison.rows for cell in row.cells.values()]


def sampled(comparison: Comparison) -> set[Variant]:
    return {v for row in comparison.rows for v, cell in row.cells.items() if not cell.was_cached}


def test_each_variant_makes_a_picture_of_its_own(run_folder: Path) -> None:
    comparison = compare(run_folder)

    assert [row.prompt for row in comparison.rows] == list(PROMPTS)
    for row in comparison.rows:
        assert list(row.cells) == list(Variant)
        assert len({cell.image.tobytes() for cell in row.cells.values()}) == len(Variant)
        assert all(cell.seconds is not None for cell in row.cells.values())


@pytest.mark.parametrize("variant", [Variant.BASE, Variant.SLOW_ONLY, Variant.BOTH])
def test_a_variant_is_what_infer_makes(run_folder: Path, variant: Variant) -> None:
    request = InferRequest(
        prompts=PROMPTS[1:], run=run_folder, device="cpu", seeds=(3,), loras=variant.loras
    )
    with Image.open(run_generation(plan_generation(request), lambda _: None).images[0]) as made:
        expected = made.tobytes()

    assert compare(run_folder).rows[1].cells[variant].image.tobytes() == expected


def test_the_second_time_everything_is_there(run_folder: Path) -> None:
    events: list[Event] = []
    first = compare(run_folder)

    second = compare(run_folder, events=events)

    assert (sampled(first), sampled(second)) == (set(Variant), set())
    assert pixels(first) == pixels(second)
    assert [row.to_json()["variants"]["both"]["ssim"] for row in first.rows] == [
        row.to_json()["variants"]["both"]["ssim"] for row in second.rows
    ]
    assert all(cell.seconds is None for row in second.rows for cell in row.cells.values())
    assert events == []


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
    latents = final_latents(run_folder, PROMPTS[0], 2)
    cell = first.comparison.rows[2].cells[Variant.BOTH]
    assert cell.figures["latents"] == pytest.approx(latents, rel=1e-2)


def final_latents(run: Path, prompt: str, seed: int) -> float:
    """Return the distance between the pair's and six steps of the base, sampled by themselves."""
    infer = InferRequest(prompts=(prompt,), run=run, device="cpu", seeds=(seed,))
    planned = plan_generation(infer)
    sampler = load_planned(planned)
    pair = sampler.sample_one(planned.settings).images[0].final
    (teacher,) = sampler.sample_base([planned.settings], steps=6)
    return float((pair - teacher.images[0].final).square().mean().sqrt())


def test_batches_change_hardly_a_figure(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = compare(run_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(run_folder / "elsewhere"))
    request = CompareRequest(
        run_folder, PROMPTS, seeds=(3,), teacher_steps=6, device="cpu", batch_size=2
    )

    together = run_comparison(plan_comparison(request), lambda _: None)

    assert sampled(together) == set(Variant)
    for one, other in zip(alone.rows, together.rows, strict=True):
        found = [other.cells[variant].figures["latents"] for variant in list(Variant)[1:]]
        assert found == pytest.approx(
            [one.cells[variant].figures["latents"] for variant in list(Variant)[1:]], rel=1e-2
        )


def test_guidance_of_its_own_changes_the_base_and_not_the_pair(run_folder: Path) -> None:
    first = compare(run_folder)
    request = CompareRequest(
        run_folder, PROMPTS, seeds=(3,), teacher_steps=6, device="cpu", base_guidance=(9.0, 9.0)
    )

    second = run_comparison(plan_comparison(request), lambda _: None)

    assert sampled(second) == {Variant.BASE}
    base, other = (run.rows[0].cells[Variant.BASE] for run in (first, second))
    assert base.image.tobytes() != other.image.tobytes()


def test_more_steps_of_the_teacher_sample_only_the_teacher(run_folder: Path) -> None:
    compare(run_folder)

    again = compare(run_folder, steps=7)

    assert sampled(again) == {Variant.TEACHER}


def test_another_pair_of_the_same_model_samples_only_its_own(
    run_folder: Path, tmp_path: Path
) -> None:
    compare(run_folder)
    other = RunFolder(tmp_path / "other")
    shutil.copytree(run_folder, other.path)
    shutil.copy(other.lora(Phase.SLOW), other.lora(Phase.FAST))

    again = compare(other.path)

    assert sampled(again) == {Variant.FAST_ONLY, Variant.BOTH}


def test_a_damaged_picture_is_sampled_again(run_folder: Path) -> None:
    first = compare(run_folder)
    victim = max(ImageCache().folder.glob("images/*"))
    victim.write_bytes(victim.read_bytes()[:-40])

    second = compare(run_folder)

    cells = [cell for row in second.rows for cell in row.cells.values()]
    assert [cell.was_cached for cell in cells].count(False) == 1
    assert pixels(first) == pixels(second)


def test_pictures_are_counted_as_they_are_sampled(run_folder: Path) -> None:
    events: list[Event] = []

    compare(run_folder, events=events)

    notes = [event.message for event in events if isinstance(event, Noted)]
    assert notes[1].startswith("image 1 of 10: base, 10 steps, seed 3, ")
    assert notes[-1] == "image 10 of 10: base, 6 steps, seed 3, 0 s left"


class TestTrial:
    @pytest.fixture
    def trial(self, run_folder: Path) -> Report:
        write_caption(run_folder, "a grey circle")
        return try_pair(RunFolder(run_folder), lambda _: None)

    def test_it_writes_sheet_and_figures_into_the_run(
        self, trial: Report, run_folder: Path
    ) -> None:
        folder = run_folder / "images/compare"
        with Image.open(folder / "sheet.png") as sheet:
            assert sheet.width == 4 * 168 + 8  # the sample, and three ways to sample
        assert [row["prompt"] for row in read_figures(folder)["rows"]] == [
            "a grey circle",
            "a bowl of fruit on a wooden table",
        ]

    def test_two_pictures_prove_little(self, trial: Report) -> None:
        assert trial.verdict.sentence.startswith("2 pictures prove little")
        assert trial.verdict.distance.interval is None


class TestSimilarity:
    def test_psnr_is_that_of_the_mean_squared_error(self) -> None:
        one, other = (Image.effect_noise((32, 48), sigma) for sigma in (20, 60))

        found = measure_likeness(one, other)

        error = np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)
        assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)

    def test_the_same_picture_has_the_largest_figures(self) -> None:
        picture = Image.radial_gradient("L").convert("RGB")

        found = measure_likeness(picture, picture.copy())

        assert found == {"psnr": 100.0, "ssim": pytest.approx(1.0, abs=1e-5)}

    def test_blur_and_light_are_told_apart_by_ssim(self) -> None:
        picture = Image.effect_noise((64, 64), 60).convert("RGB")
        blurred = picture.resize((16, 16)).resize((64, 64))
        lighter = picture.point(lambda value: min(255, value + 10))

        soft, light = (measure_likeness(one, picture)["ssim"] for one in (blurred, lighter))

        assert soft < 0.5 < 0.9 < light
