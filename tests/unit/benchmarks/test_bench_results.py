"""What benchmarks find: summarised, judged, kept on the disk, shown on the page."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.machine import Machine, describe_machine, installed_versions
from benchmarks.records import Record, keep, load_records
from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from glance.core.device import Device

ROOT = Path(__file__).parents[3]
CPU = Machine(system="Linux x86_64", processor="Fast One", cores=2, memory_gb=25)
GPU = replace(CPU, gpu="NVIDIA H100 80GB HBM3", gpu_memory_gb=85)


def result(name: str = "startup", *, seconds: float = 0.2) -> Result:
    return Result(
        name=name,
        compares="Two things.",
        rounds=3,
        columns=(Column(name="seconds", digits=2, shows_spread=True),),
        rows=(
            Row(
                name="a",
                figures={"seconds": summarise([seconds, 0.1, 9])},
                goal=Goal(at_most=0.25),
            ),
            Row(name="b", figures={"seconds": summarise([0.5], calls=2)}),
        ),
        ratios=(Ratio(name="a / b", figure=summarise([0.4]), goal=Goal(at_least=0.5)),),
    )


def record(*results: Result, date: str = "2026-11-25", machine: Machine = CPU) -> Record:
    return Record(
        date=date,
        machine=machine,
        versions={"torch": "2.13.0"},
        results={one.name: one for one in results},
    )


class TestFigures:
    def test_the_median_is_not_moved_by_an_outlier_and_has_four_digits(self) -> None:
        found = summarise([0.3, 99.0, 0.1])

        assert (found.median, found.least, found.greatest) == (0.3, 0.1, 99)
        assert summarise([1.23456]).median == 1.235

    @pytest.mark.parametrize(("median", "is_met"), [(0.94, False), (1.0, True), (1.06, False)])
    def test_a_goal_has_two_sides(self, median: float, is_met: bool) -> None:
        goal = Goal(at_least=0.95, at_most=1.05)

        assert goal.is_met(summarise([median])) is is_met


class TestRecords:
    def test_benchmarks_of_a_day_share_a_file_and_the_last_of_a_name_counts(
        self, tmp_path: Path
    ) -> None:
        for one in (result(), result("memory"), result(seconds=0.3)):
            keep(record(one), tmp_path)

        (found,) = load_records(tmp_path)
        assert dict(found.results) == {
            "startup": result(seconds=0.3),
            "memory": result("memory"),
        }

    def test_other_versions_or_machines_have_a_file_of_their_own(self, tmp_path: Path) -> None:
        keep(record(result()), tmp_path)
        newer = replace(record(result()), versions={"torch": "2.15.0"})
        slower = record(result(), machine=replace(CPU, processor="Slow One"))

        names = [keep(one, tmp_path).name for one in (newer, slower, newer)]

        assert names == [f"2026-11-25-cpu.{number}.json" for number in (2, 3, 2)]


class TestMachine:
    def test_it_says_what_it_is_and_not_whose(self, tmp_path: Path) -> None:
        here = replace(record(), machine=describe_machine(Device.CPU))
        here = replace(here, versions=installed_versions())

        text = keep(here, tmp_path).read_text()

        assert (here.machine.kind, here.machine.gpu) == ("cpu", None)
        stack = {"glance", "python", "torch", "diffusers", "simpletuner"}
        assert set(installed_versions()) == stack
        assert "/" not in text
        assert "\\" not in text
        assert platform.node() not in [str(one) for one in json.loads(text)["machine"].values()]


class TestPage:
    def test_it_shows_what_is_committed(self) -> None:
        assert page.PAGE.read_text(encoding="utf-8") == page.render(load_records())

    def test_committed_results_hold_no_path(self) -> None:
        for one in load_records():
            assert "/work" not in repr(one)
            assert str(Path.home()) not in repr(one)
            assert str(ROOT) not in repr(one)

    def test_figures_stand_beside_their_goals(self) -> None:
        shown = page.render_result(result())

        assert "| a | 0.20 (0.10 to 9.00) | at most 0.25: met |" in shown
        assert "| b | 2 x, 0.50 |  |" in shown
        assert "| a / b | 0.400 | 0.400 | 0.400 | at least 0.5: **missed** |" in shown

    def test_kinds_of_machines_stand_apart(self) -> None:
        shown = page.render([record(result(), machine=GPU), record(result())])

        assert shown.index("## CPU, 2026-11-25") < shown.index("## NVIDIA H100 80GB HBM3, 2026")
        assert shown.count("### startup") == 2
        assert "NVIDIA H100 80GB HBM3 (85 GB), Fast One, 2 cores, 25 GB of memory" in shown
