"""The benchmark behind docs/evidence.md: its arithmetic, and that the page says what it found."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.evidence import report
from benchmarks.evidence.distilled import recipes as distilled
from benchmarks.evidence.distilled import tables
from benchmarks.evidence.distilled.recipes import (
    BASES,
    BESIDE,
    CENTRE,
    DEFAULT,
    all_recipes,
)
from benchmarks.evidence.markdown import fill
from benchmarks.evidence.observations import Observations, captions_of
from benchmarks.evidence.pairs import QUESTIONS, Wording, all_pairs
from benchmarks.evidence.schedules import shifted_sigmas, uniform_sigmas
from glance.evaluation.comparison import estimate_mean, estimate_ratio
from glance.evaluation.small_world.world import held_out_scenes, is_held_out, read_caption


class TestIntervals:
    def test_an_interval_holds_the_truth_about_as_often_as_it_says(self) -> None:
        random = np.random.default_rng(3)
        hits = 0
        for _ in range(40):
            found = estimate_mean((random.random((1, 100)) < 0.8).astype(float))
            hits += found.low <= 0.8 <= found.high
        assert 34 <= hits <= 40

    def test_a_ratio_is_paired_and_what_has_no_value_is_left_out(self) -> None:
        values = np.random.default_rng(0).random((1, 30))

        found = estimate_ratio(values, values)

        assert (found.value, found.low, found.high) == (1, 1, 1)
        assert estimate_mean(np.array([[1.0, np.nan, 1.0, 1.0, 1.0, 1.0]])).value == 1


class TestSchedules:
    def test_the_models_own_is_what_diffusers_computes(self) -> None:
        # FluxPipeline at 64x64, four steps: measured with set_timesteps(mu=0.459375)
        assert shifted_sigmas(4) == pytest.approx((1.0, 0.8261, 0.6129, 0.3454), abs=1e-4)
        assert uniform_sigmas(4) == (1, 0.75, 0.5, 0.25)


class TestRecipes:
    def test_every_pair_is_trained_once_and_has_a_name_of_its_own(self) -> None:
        pairs, taught = list(all_pairs()), list(all_recipes())

        assert len({(recipe.name, number) for recipe, number in pairs}) == len(pairs)
        assert len({one.name for one in taught}) == len(taught) == len(set(taught))
        assert replace(CENTRE, strength=0.5).taught == CENTRE  # strengths share their LoRAs
        assert replace(CENTRE, seed=2).taught != CENTRE
        assert {*BESIDE, *(one.schedule for one in taught)} <= set(BASES)
        assert set(tables.load()["pairs"]) <= {one.name for one in taught}

    def test_the_rows_of_a_question_differ(self) -> None:
        for recipes in QUESTIONS.values():  # in one thing
            assert len({recipe.name for recipe in recipes}) == len(recipes)
            assert len({recipe.schedule for recipe in recipes}) == 1
            assert sum(recipe.changes == {} for recipe in recipes) == 1
        for taught in distilled.QUESTIONS.values():  # in words
            rows = [tuple(tables.describe(one).values()) for one in taught]
            assert len(set(rows)) == len(rows) > 1


class TestObservations:
    def test_the_captions_are_of_scenes_nobody_was_trained_on(self) -> None:
        full, loose = captions_of(Wording.FULL), captions_of(Wording.LOOSE)

        assert len(full) == len(loose) == 200
        assert all(len(read_caption(caption)) == 8 for caption in full)
        assert all(1 <= len(read_caption(caption)) <= 8 for caption in loose)
        assert all(
            read_caption(vague).items() <= read_caption(whole).items()
            for vague, whole in zip(loose, full, strict=True)
        )
        assert all(is_held_out(scene) for scene in held_out_scenes(200, seed=5))

    def test_met_whole_and_pulled(self) -> None:
        facts = held_out_scenes(1)[0].facts
        part = {name: facts[name] for name in ("time", "light", "ground")}
        seen = Observations([facts, part, {}], [0.0, 1.0, 2.0])
        caption = f"a landscape over the {facts['ground']}"

        assert seen.met([caption] * 3).tolist() == [[1, 1, 0]]
        assert seen.readable().tolist() == [[1, 0, 0]]
        words = " ".join(facts.values())
        pulled = seen.pull([caption, caption, words], words)[0]
        assert pulled[:2] == pytest.approx([1, 2 / 7])
        assert np.isnan(pulled[2])  # nothing was left open


def figures() -> Any:
    return json.loads(json.dumps(dict(report.load())))


class TestPages:
    def test_they_hold_the_committed_figures_in_every_table(self) -> None:
        for of, names, mark in (
            (report, report.TABLES, "<!-- table: {} -->"),
            (tables, tables.FIGURES, "<!-- figures: {} -->\n|"),
        ):
            page = of.PAGE.read_text(encoding="utf-8")
            assert of.fill(page, of.load()) == page
            assert [name for name in names if mark.format(name) not in page] == []

    def test_a_changed_figure_changes_them(self) -> None:
        changed = figures()
        changed["benches"]["loose"]["3.5/1.0"]["base"]["50"]["met"] = [0.123, 0.1, 0.2]
        changed["distilled"]["pairs"][DEFAULT.name]["loose"]["ratio"] = [0.111, 0.1, 0.122]

        page = report.fill(report.PAGE.read_text(encoding="utf-8"), changed)
        other = tables.fill(tables.PAGE.read_text(encoding="utf-8"), changed["distilled"])

        assert "12.3 (10.0 to 20.0)" in page
        assert "0.11 (0.10 to 0.12)" in page
        assert "0.11 (0.10 to 0.12)" in other

    def test_a_mark_without_an_end_stays_and_a_strange_one_is_an_error(self) -> None:
        page = "<!-- figures: open -->\n\n<!-- table: one -->\nold\n<!-- end -->\n"

        assert fill(page, {"one": lambda _: "new"}, {}) == page.replace("old", "new")
        with pytest.raises(KeyError, match="two"):
            fill("<!-- table: two -->\n<!-- end -->", {}, {})
