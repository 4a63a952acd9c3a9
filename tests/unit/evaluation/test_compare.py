"""Comparing without a model: what is planned, kept, told and drawn; sampling is in tests/torch."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fakes.comparisons import (
    fake_likeness,
    fill_cache,
    fill_worth,
    make_cell,
    make_comparison,
    make_figures,
    make_row,
    write_caption,
)
from fakes.models import make_model
from fakes.pairs import write_lora, write_run
from PIL import Image
from safetensors.numpy import save_file

from glance.core.device import Quantize
from glance.core.errors import RunError, SettingsError, SetupError, UsageError
from glance.core.events import Event, Noted, Warned
from glance.core.files import cache_folder
from glance.core.phase import Phase
from glance.evaluation.cache import CachedImage, ImageCache
from glance.evaluation.compare import ComparisonPlan, compare_pair, plan_comparison, run_comparison
from glance.evaluation.comparison import Row, judge
from glance.evaluation.report import MOST_ROWS, draw_grid, save_sheet, write_report
from glance.evaluation.request import CompareRequest, Variant
from glance.sampling.request import ExtraLora

RUN = Path("runs/cat")
LATENTS = np.arange(8, dtype=np.float16).reshape(1, 4, 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_likeness(monkeypatch)


def keys(run: Path = RUN, **changes: object) -> dict[Variant, str]:
    request = CompareRequest(**{"run": run, "prompts": ("a hill",), "device": "cpu", **changes})
    cells = plan_comparison(request).rows[0].cells
    return {variant: one.key for variant, one in cells.items()}


def differing(one: dict[Variant, str], other: dict[Variant, str]) -> set[Variant]:
    return {variant for variant in Variant if one[variant] != other[variant]}


def guidance(**changes: object) -> dict[Variant, tuple[float, float]]:
    request = CompareRequest(RUN, ("a",), device="cpu", **changes)
    cells = plan_comparison(request).rows[0].cells
    return {
        variant: (one.settings.slow_guidance, one.settings.fast_guidance)
        for variant, one in cells.items()
    }


class TestPlan:
    def test_the_newest_runs_caption_is_used_if_nothing_is_said(self) -> None:
        write_run(RUN)
        write_caption(RUN, "a grey circle")

        plan = plan_comparison(CompareRequest(device="cpu"))

        assert [row.settings.prompt for row in plan.rows] == ["a grey circle"]
        assert plan.sample == RUN / "data/x.png"
        assert plan.folder == RUN / "images/compare"
        assert plan.generation.notes[0] == "using the newest finished run, runs/cat"

    def test_without_a_run_or_its_caption_it_says_what_infer_says(self) -> None:
        with pytest.raises(RunError, match=r"there is no finished run under \./runs"):
            plan_comparison(CompareRequest(device="cpu"))
        write_run(RUN)

        with pytest.raises(RunError, match="caption cannot be read") as refused:
            plan_comparison(CompareRequest(run=RUN, device="cpu"))

        assert refused.value.problems[0].hint == 'say what to generate: --prompt "..."'

    def test_a_style_beneath_both_has_a_folder_of_its_own(self) -> None:
        write_run(RUN)
        style = write_lora(Path("style.safetensors"), fill=5)
        asked = {"run": RUN, "prompts": ("a",), "device": "cpu"}

        beneath, teachers = (
            plan_comparison(CompareRequest(**asked, extra_loras=(one,)))
            for one in (f"{style}:0.5", ExtraLora(style, 0.5, with_pair=False))
        )

        assert beneath.folder == RUN / "images/compare-style"
        assert teachers.folder == RUN / "images/compare"
        assert not {one.key for one in beneath.cells} & {one.key for one in teachers.cells}


class TestKeys:
    def test_pairs_of_one_model_share_what_no_lora_made(self) -> None:
        write_run(RUN)
        other = write_run(Path("elsewhere/dog"))
        for lora in other.path.rglob("*.safetensors"):
            write_lora(lora, fill=2.0)

        assert len(set(keys().values())) == len(Variant)
        assert differing(keys(), keys(other.path)) == set(Variant) - {Variant.TEACHER, Variant.BASE}

    def test_a_lora_counts_only_where_it_works(self) -> None:
        run = write_run(RUN)
        before = keys()
        write_lora(run.lora(Phase.SLOW), fill=3.0)

        assert differing(before, keys()) == {Variant.SLOW_ONLY, Variant.BOTH}

    @pytest.mark.parametrize(
        ("change", "changed"),
        [
            ({"seeds": (1,)}, set(Variant)),
            ({"prompts": ("b",)}, set(Variant)),
            ({"quantize": Quantize.FP8}, set(Variant)),
            ({"extra_loras": ("runs/cat/output/glance-slow:0.5",)}, set(Variant)),
            ({"teacher_steps": 20}, {Variant.TEACHER}),
            ({"teacher_guidance": 4.0}, {Variant.TEACHER}),
            ({"base_guidance": (4.0, 4.0)}, {Variant.BASE}),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_each_counts_for_pixels(self, change: dict[str, object], changed: set[Variant]) -> None:
        write_run(RUN)

        assert differing(keys(), keys(**change)) == changed

    def test_the_base_of_a_distilled_pair_is_guided_as_its_teacher_was(self) -> None:
        run = write_run(RUN)
        usual = guidance()
        manifest = json.loads(run.manifest.read_text())
        manifest["settings"]["teacher"] = {
            "prompts": ["a mill"], "noises": 1, "sizes": [[64, 64]], "steps": 50,
            "guidance": 5.0, "slow_guidance": 1.0, "fast_guidance": 1.0,
        }  # fmt: skip
        run.manifest.write_text(json.dumps(manifest))

        found, asked = guidance(), guidance(base_guidance=(2.0, 3.0))

        assert usual[Variant.TEACHER] == (3.5, 3.5), "the slow phase's throughout"
        assert usual[Variant.BASE] == usual[Variant.BOTH] == (3.5, 1.0)
        assert found[Variant.TEACHER] == found[Variant.BASE] == (5.0, 5.0)
        assert found[Variant.BOTH] == (1.0, 1.0)
        assert asked[Variant.BASE] == (2.0, 3.0)

    def test_weights_that_changed_in_place_are_another_model(self) -> None:
        write_run(RUN, model=os.path.relpath(make_model(Path("model")), RUN))
        weights = Path("model/transformer/diffusion_pytorch_model.safetensors")
        save_file({"weight": np.zeros(75_000, np.float32)}, weights)
        before, status = keys(), weights.stat()
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))

        assert differing(before, keys()) == set(Variant)


class TestCache:
    def test_it_lies_where_caches_of_this_user_lie(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
        named = cache_folder()
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/home/her")

        assert named == Path("/elsewhere/glance")
        assert cache_folder() == Path("/home/her/.cache/glance")

    @pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
    def test_a_damaged_image_counts_as_none(self, damage: str) -> None:
        cache = ImageCache()
        image = Image.radial_gradient("L").convert("RGB")
        cache.keep("a", CachedImage(image, LATENTS))
        found = cache.find("a")
        assert found is not None
        assert found.image.tobytes() == image.tobytes()
        assert np.array_equal(found.latents, LATENTS)
        (path,) = cache.folder.glob("images/*")
        content = path.read_bytes()
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :]
        path.write_bytes({"cut": content[:half], "flipped": flipped}.get(damage, b""))
        if damage == "other":
            np.savez(path, pixels=np.zeros(3))

        assert cache.find("a") is None

    def test_what_was_used_longest_ago_goes_first(self) -> None:
        cache = ImageCache()
        for age, key in enumerate("abc"):
            cache.keep(key, CachedImage(Image.new("RGB", (8, 8)), LATENTS))
            (path,) = cache.folder.glob(f"*/{key}.*")
            os.utime(path, (1000 - age, 1000 - age))
        cache.find("c")

        cache.trim(limit=2 * path.stat().st_size)

        assert sorted(path.name for path in cache.folder.glob("*/*")) == ["a.npz", "c.npz"]

    def test_a_cache_that_cannot_be_written_is_said_once_and_stops_nothing(self) -> None:
        events: list[Event] = []
        cache_folder().parent.mkdir()
        cache_folder().write_text("a file is in the way")
        cache = ImageCache(events.append)

        for key in "ab":
            cache.keep(key, CachedImage(Image.new("RGB", (8, 8)), LATENTS))

        assert cache.find("a") is None
        assert len(events) == 1
        assert isinstance(events[0], Warned)
        assert "set XDG_CACHE_HOME" in str(events[0].hint)

    def test_a_run_from_the_cache_samples_nothing(self) -> None:
        write_run(RUN)
        plan = plan_comparison(CompareRequest(RUN, ("a hill",), device="cpu"))
        fill_cache(plan)

        comparison = run_comparison(plan, lambda _: None)

        cells = comparison.rows[0].cells
        assert [cell.was_cached for cell in cells.values()] == [True] * len(Variant)
        assert [cell.seconds for cell in cells.values()] == [None] * len(Variant)
        assert [cell.steps for cell in cells.values()] == [50, 10, 10, 10, 10]
        assert cells[Variant.BOTH].figures == pytest.approx(make_figures(0.8))
        assert cells[Variant.TEACHER].figures == {}


class TestVerdictOfACachedRun:
    def fill(
        self, seeds: tuple[int, ...], *, pair: float = 0.2, **changes: object
    ) -> ComparisonPlan:
        write_run(RUN)
        request = CompareRequest(RUN, ("a", "b"), seeds=seeds, device="cpu", **changes)
        plan = plan_comparison(request)
        fill_cache(plan, pair=pair)
        return plan

    def test_it_is_written_down_with_all_its_figures(self) -> None:
        plan = self.fill((0, 1, 2, 3))
        fill_worth(plan)

        report = compare_pair(plan, lambda _: None)

        assert list(report.document)[-1] == "verdict"
        verdict = report.document["verdict"]
        assert verdict["variety"] == {"base": 1.6667, "pair": 1.5333}
        assert verdict["worth_steps"] == 5  # the first n with 0.99 / n <= 0.2
        assert verdict["images"] == 8

    @pytest.mark.parametrize(("distance", "steps"), [(0.6, 2), (0.083, 12), (0.05, 20), (0, 50)])
    def test_worth_is_the_fewest_steps_that_come_as_near(self, distance: float, steps: int) -> None:
        plan = self.fill((0, 1, 2, 3), pair=distance)
        fill_worth(plan)

        assert compare_pair(plan, lambda _: None).verdict.worth_steps == steps

    def test_worth_is_not_looked_for_below_eight_pictures_nor_unasked(self) -> None:
        assert not self.fill((0, 1, 2)).finds_worth
        assert not self.fill((0, 1, 2, 3), finds_worth=False).finds_worth

    def test_pictures_of_different_prompts_have_no_variety(self) -> None:
        assert compare_pair(self.fill((7,)), lambda _: None).verdict.variety is None

    def test_variants_that_it_needs_must_be_there(self) -> None:
        plan = self.fill((0,), variants=(Variant.TEACHER, Variant.BOTH))

        with pytest.raises(UsageError, match="no verdict without base"):
            compare_pair(plan, lambda _: None)


@pytest.mark.parametrize(
    ("rows", "headline", "size"),
    [
        (2, "", (6, 0, 2)),
        (MOST_ROWS + 5, "", (6, 0, MOST_ROWS)),
        (1, "it helps, " * 20, (6, 2, 1)),
    ],
    ids=["all of it", "it ends somewhere", "a headline"],
)
def test_the_sheet_has_a_row_a_prompt_and_the_sample_in_front(
    pair: Path, rows: int, headline: str, size: tuple[int, int, int]
) -> None:
    comparison = make_comparison(*[make_row()] * rows)

    save_sheet(comparison, pair, Path("sheet.png"), headline=headline)
    save_sheet(comparison, None, Path("plain.png"), headline=headline)

    columns, lines, shown = size
    with Image.open("sheet.png") as sheet, Image.open("plain.png") as plain:
        assert sheet.width == columns * 168 + 8 == plain.width + 168
        assert sheet.height == lines * 18 + shown * (34 + 160 + 75 + 8)


def test_a_wide_picture_keeps_its_shape_on_the_sheet() -> None:
    cell = make_cell(Variant.BASE, image=Image.new("RGB", (64, 32), "red"))

    save_sheet(make_comparison(Row("a", 0, {Variant.BASE: cell})), None, Path("sheet.png"))

    with Image.open("sheet.png") as sheet:
        column = [sheet.getpixel((88, 34 + y)) for y in range(160)]
    assert column.count((255, 0, 0)) == 80


def test_a_sheet_of_many_is_drawn_smaller_and_without_what_cannot_be_read() -> None:
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (320, 320), colour).save(f"{name}.png")
    Path("half.png").write_bytes(Path("red.png").read_bytes()[:100])
    places = {"red": Path("red.png"), "a long name, that is": Path("half.png")}
    few = {name: [place, Path("blue.png")] for name, place in places.items()}
    many = {f"run {number}": [Path("red.png")] * MOST_ROWS for number in range(24)}

    draw_grid(["a hill", "a mill"], {**few, "none": [Path("gone.png")] * 2}, Path("few.png"))
    draw_grid(["a hill"] * MOST_ROWS, many, Path("many.png"))

    with Image.open("few.png") as sheet, Image.open("many.png") as large:
        assert sheet.width == 3 * 328 + 8
        middles = [sheet.getpixel((8 + 328 * at + 160, 34 + 160)) for at in range(3)]
        assert middles == [(255, 0, 0), (255, 255, 255), (255, 255, 255)]
        assert sheet.getpixel((8 + 160, sheet.height // 2 + 34 + 160)) == (0, 0, 255)
        assert large.width * large.height < Image.MAX_IMAGE_PIXELS


def test_a_folder_that_cannot_be_written_is_said() -> None:
    write_run(RUN)
    plan = plan_comparison(CompareRequest(RUN, ("a",), device="cpu", output=Path("out")))
    Path("out").write_text("a file is in the way")

    with pytest.raises(SetupError, match="cannot write") as refused:
        write_report(
            make_comparison(), judge(make_comparison()), plan.folder, facts={}, sample=None
        )

    assert str(refused.value.problems[0].hint).startswith("give --output a folder")


class TestLookingAgain:
    """A comparison never takes the pictures of another one away."""

    def compare(self, *prompts: str, **changes: object) -> tuple[Path, list[str]]:
        if not RUN.exists():
            write_run(RUN)
        plan = plan_comparison(CompareRequest(RUN, prompts, device="cpu", **changes))
        fill_cache(plan)
        events: list[Event] = []
        report = compare_pair(plan, events.append)
        return report.folder, [one.message for one in events if isinstance(one, Noted)]

    def prompts(self, folder: Path) -> list[str]:
        figures = json.loads((folder / "compare.json").read_text())
        return [row["prompt"] for row in figures["rows"]]

    def files(self, folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def test_fewer_prompts_leave_the_earlier_pictures_in_a_folder_of_their_own(self) -> None:
        folder, _ = self.compare("a", "b")
        before = self.files(folder)

        _, said = self.compare("b")

        kept = folder / "earlier-1"
        assert self.files(kept) == before
        assert said == [f"the comparison that was there before is kept in {kept}"]
        assert (self.prompts(folder), self.prompts(kept)) == (["b"], ["a", "b"])
        assert len(list(folder.glob("pictures/*.png"))) == len(Variant)

    def test_the_same_or_more_take_its_place_and_each_other_has_its_number(self) -> None:
        folder, _ = self.compare("a")
        _, again = self.compare("a")
        _, more = self.compare("b", "a")
        assert (again, more) == ([], [])
        assert self.prompts(folder) == ["b", "a"]
        assert not list(folder.glob("earlier-*"))

        for prompt in "cd":
            self.compare(prompt)

        assert [self.prompts(folder / f"earlier-{n}") for n in (1, 2)] == [["b", "a"], ["c"]]

    @pytest.mark.parametrize("damage", ["pixels", "figures", "no figures"])
    def test_what_cannot_be_told_to_be_the_same_is_kept(self, damage: str) -> None:
        folder, _ = self.compare("a")
        if damage == "pixels":  # made with another guidance, of which compare.json says nothing
            Image.new("RGB", (64, 64), "red").save(folder / "pictures/1-both.png")
        elif damage == "figures":
            (folder / "compare.json").write_text("{}")
        else:
            (folder / "compare.json").unlink()

        self.compare("a")

        assert (folder / "earlier-1/pictures/1-both.png").is_file()

    def test_what_is_not_ours_stays_where_it_is(self) -> None:
        folder, _ = self.compare("a")
        (folder / "pictures/holiday.png").write_bytes(b"theirs")
        (folder / "notes.txt").write_text("theirs")

        self.compare("b")

        assert (folder / "pictures/holiday.png").read_bytes() == b"theirs"
        assert (folder / "notes.txt").is_file()
        assert not (folder / "earlier-1/pictures/holiday.png").exists()


class TestBounds:
    def test_more_pictures_than_a_comparison_holds_are_refused(self) -> None:
        write_run(RUN)

        with pytest.raises(SettingsError, match="2,001 prompts and noises, each sampled in 5 ways"):
            plan_comparison(CompareRequest(RUN, ("a",), count=2001, device="cpu"))
        with pytest.raises(SettingsError, match="--count 100000000: 100,000,000 images in all"):
            plan_comparison(CompareRequest(RUN, ("a",), count=100_000_000, device="cpu"))

    @pytest.mark.parametrize("steps", [1, 1001, 100_000_000])
    def test_a_teacher_has_as_many_steps_as_there_are_noise_levels(self, steps: int) -> None:
        with pytest.raises(SettingsError, match=f"--teacher-steps {steps}: .* from 2 to 1,000"):
            plan_comparison(CompareRequest(run=RUN, teacher_steps=steps))
