"""The study of pairs that the base teaches: its recipes, and that the pages say what it found."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.evidence import report
from benchmarks.evidence.distilled import tables
from benchmarks.evidence.distilled.recipes import (
    BASES,
    BESIDE,
    CENTRE,
    DEFAULT,
    QUESTIONS,
    Layers,
    Recipe,
    all_recipes,
)
from benchmarks.evidence.markdown import fill


class TestRecipes:
    def test_every_pair_has_a_name_of_its_own(self) -> None:
        recipes = list(all_recipes())

        assert len({one.name for one in recipes}) == len(recipes) == len(set(recipes))

    def test_a_name_says_what_differs(self) -> None:
        assert CENTRE.name == "own-4"
        changed = Recipe(schedule="own-2", rank=4, layers=Layers.ATTENTION)
        assert changed.name == "own-2-rank=4-layers=attention"

    def test_strengths_share_their_loras(self) -> None:
        assert replace(CENTRE, strength=0.5).taught == CENTRE
        assert replace(CENTRE, seed=2).taught != CENTRE

    def test_every_base_that_a_pair_is_set_beside_is_sampled(self) -> None:
        assert {*BESIDE, *(one.schedule for one in all_recipes())} <= set(BASES)

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_the_rows_of_a_question_differ_in_words(self, question: str) -> None:
        rows = [tuple(tables.describe(one).values()) for one in QUESTIONS[question]]

        assert len(set(rows)) == len(rows) > 1


class TestPages:
    def test_the_page_of_distilling_holds_the_committed_figures(self) -> None:
        page = tables.PAGE.read_text(encoding="utf-8")

        assert tables.fill(page, tables.load()) == page

    @pytest.mark.parametrize("name", tables.FIGURES)
    def test_every_figure_of_that_page_is_shown(self, name: str) -> None:
        assert f"<!-- figures: {name} -->\n|" in tables.PAGE.read_text(encoding="utf-8")

    def test_a_changed_figure_changes_both_pages(self) -> None:
        figures = json.loads(json.dumps(tables.load()))
        figures["pairs"][DEFAULT.name]["loose"]["ratio"] = [0.111, 0.1, 0.122]
        both = {**report.load(), "distilled": figures}

        for page in (
            tables.fill(tables.PAGE.read_text(encoding="utf-8"), figures),
            report.fill(report.PAGE.read_text(encoding="utf-8"), both),
        ):
            assert "0.11 (0.10 to 0.12)" in page

    def test_what_was_not_measured_is_left_out(self) -> None:
        figures = {**tables.load(), "pairs": {}}

        for make in (*tables.TABLES.values(), *tables.FIGURES.values()):
            rows = make(figures).splitlines()[2:]
            assert rows == [] or make is tables.TABLES["base"]

    def test_every_pair_that_was_measured_is_of_a_recipe(self) -> None:
        assert set(tables.load()["pairs"]) <= {one.name for one in all_recipes()}

    def test_every_figure_lies_in_its_interval(self) -> None:
        for name, wordings in tables.load()["pairs"].items():
            for figure in _intervals(wordings):
                value, low, high = figure
                assert low <= value <= high, name


class TestMarks:
    def test_a_mark_without_an_end_stays(self) -> None:
        page = "<!-- figures: open -->\n\n<!-- table: one -->\nold\n<!-- end -->\n"

        filled = fill(page, {"one": lambda _: "new"}, {})

        assert filled == page.replace("old", "new")

    def test_a_table_that_nobody_knows_is_an_error(self) -> None:
        with pytest.raises(KeyError, match="two"):
            fill("<!-- table: two -->\n<!-- end -->", {}, {})


def _intervals(figures: Mapping[str, Any]) -> list[list[float]]:
    found: list[list[float]] = []
    for one in figures.values():
        if isinstance(one, list):
            found.append(one)
        elif isinstance(one, Mapping):
            found += _intervals(one)
    return found
