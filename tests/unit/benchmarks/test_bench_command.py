"""`python -m benchmarks`: what it takes, that it runs, and how rounds are run."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import parse
from benchmarks.catalogue import BENCHMARKS, LONG
from benchmarks.page import PAGE
from benchmarks.records import FOLDER
from benchmarks.rounds import Conditions, call, interleave
from glance.core.device import Device

ROOT = Path(__file__).parents[3]


def conditions(*, rounds: int = 3, is_quick: bool = False) -> Conditions:
    return Conditions(device=Device.CPU, rounds=rounds, is_quick=is_quick, tell=lambda line: None)


def kept() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (PAGE, *FOLDER.glob("*"))}


class TestRounds:
    def test_each_way_is_run_once_a_round_in_changing_order(self) -> None:
        order: list[str] = []
        ways = {name: lambda name=name: order.append(name) for name in "abcd"}

        rounds = interleave(ways, conditions(rounds=4))

        turns = [tuple(order[at : at + 4]) for at in range(0, 16, 4)]
        assert [sorted(turn) for turn in turns] == [["a", "b", "c", "d"]] * 4
        assert len(set(turns)) > 1
        assert [set(one) for one in rounds] == [set("abcd")] * 4

    @pytest.mark.parametrize(("is_quick", "times"), [(False, 3), (True, 2)])
    def test_what_runs_beforehand_is_not_measured(self, is_quick: bool, times: int) -> None:
        runs: list[int] = []

        def way() -> int:
            runs.append(len(runs))
            return runs[-1]

        rounds = interleave({"a": way}, conditions(rounds=2, is_quick=is_quick), first=["a"])

        assert [one["a"] for one in rounds] == [times - 2, times - 1]

    def test_a_command_that_fails_is_told_with_its_last_words(self) -> None:
        with pytest.raises(RuntimeError, match="ended with 3:\nwhy"):
            call([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])


class TestOptions:
    def test_the_long_ones_are_asked_for_and_only_takes_several(self) -> None:
        assert parse([]).only == list(BENCHMARKS)
        assert parse(["--all", "--work", "x"]).only == [*BENCHMARKS, *LONG]
        assert parse(["--only", "memory", "reliability"]).only == ["memory", "reliability"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--all"], "evidence needs --work"),
            (["--only", "reliability", "--quick"], "has no quick run"),
            (["--rounds", "0"], "at least 1"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_measured(
        self, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            parse(arguments)

        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_a_quick_run_shows_its_tables_and_keeps_nothing() -> None:
    before = kept()

    done = run("--quick", "--only", "startup")

    for command in ("python -c pass", "glance --help", "glance train --dry-run"):
        assert f"\n| `{command}` | " in done.stdout
    assert "nothing was kept" in done.stderr
    assert kept() == before
