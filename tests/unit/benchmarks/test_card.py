"""Parts of an hour with a card: what is run and what not, and what is left however it ends."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from benchmarks.card import figures, runner
from benchmarks.card.__main__ import look, main
from benchmarks.card.parts import PARTS, tiny_parts
from benchmarks.card.runner import (
    Facts,
    Finding,
    Folder,
    Outcome,
    Part,
    Session,
    gather,
    start_process,
)
from benchmarks.machine import Machine
from benchmarks.page import render
from benchmarks.records import load_record, load_records, write_record
from benchmarks.result import Column, Result, Row, summarise
from glance.core.device import Device
from glance.runs.settings import Preset

ROOT = Path(__file__).parents[3]
CARD = Machine(
    system="Linux x86_64",
    processor="Fast One",
    cores=16,
    memory_gb=128,
    gpu="NVIDIA H200",
    gpu_memory_gb=151,
)
FACTS = Facts(date="2026-12-24", machine=CARD, versions={"torch": "2.13.0", "driver": "580.159.04"})
A, B, C = (
    Part(name=name, what="", call="x.y", fixed=10.0, system_gb=0.0) for name in ("a", "b", "c")
)


def result(name: str = "card, sampling", *rows: str) -> Result:
    return Result(
        name=name,
        compares="Two things.",
        rounds=1,
        columns=(Column(name="seconds", digits=1),),
        rows=tuple(Row(name=row, figures={"seconds": summarise([2])}) for row in rows or "x"),
        ratios=(),
    )


def found(part: Part, outcome: Outcome = Outcome.ENDED, **more: Any) -> Finding:
    usual = {"date": FACTS.date, "machine": FACTS.machine, "versions": FACTS.versions}
    return Finding(part=part.name, outcome=outcome, **{"seconds": 10.0, **usual, **more})


class Clock:
    """Says what time it is, and lets it pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def session(folder: Path, *parts: Part, seconds: float = 100.0, **more: Any) -> Session:
    return Session(parts=parts, folder=Folder(folder), facts=FACTS, seconds=seconds, **more)


def run(of: Session, clock: Clock, *, takes: float = 10.0) -> list[str]:
    """Run parts that end as they should, each in as many seconds; return which were."""
    names = []

    def start(parts: Sequence[Part], limit: float) -> str | None:
        for part in parts:
            names.append(part.name)
            clock.now += takes
            of.folder.keep(found(part, results=(result(),)))
        return "ended with 0: "

    of.run(start)
    return names


class TestWhatIsRun:
    def test_what_has_ended_is_not_run_again_unless_that_is_asked(self, tmp_path: Path) -> None:
        clock = Clock()
        first = run(session(tmp_path, A, B, clock=clock), clock)
        again = run(session(tmp_path, A, B, C, again=["b"], clock=clock), clock)

        assert (first, again) == (["a", "b"], ["b", "c"])

    def test_what_was_not_asked_for_stays_in_the_record(self, tmp_path: Path) -> None:
        clock = Clock()
        run(session(tmp_path, A, B, clock=clock), clock)

        assert run(session(tmp_path, A, B, C, clock=clock, only=["c"]), clock) == ["c"]
        (record,) = load_records(tmp_path)
        assert [row.name for row in record.results["card"].rows] == ["a", "b", "c"]

    def test_nothing_starts_that_cannot_end_in_the_time_left(self, tmp_path: Path) -> None:
        clock, told = Clock(), list[str]()
        long = replace(B, fixed=95.0)
        one = session(tmp_path, A, long, C, clock=clock, tell=told.append)

        assert run(one, clock) == ["a", "c"]  # and a shorter one still does
        assert "b: left out: about 95 s, and 90 are left" in told

    def test_what_others_took_corrects_what_is_expected(self, tmp_path: Path) -> None:
        clock = Clock()
        one = session(tmp_path, A, B, C, clock=clock, seconds=60)

        assert run(one, clock, takes=40) == ["a"]  # ten were expected, and the next takes forty
        assert one.expect(B) == 40

    def test_a_slower_card_takes_longer(self, tmp_path: Path) -> None:
        one = session(tmp_path, replace(A, work=20.0))
        one.facts = replace(FACTS, pace=3.0)

        assert one.expect(one.parts[0]) == 70

    def test_what_is_missing_is_said(self, tmp_path: Path) -> None:
        parts = (
            replace(A, needs=("no_such_package", "json")),
            replace(B, after="a"),
            replace(C, system_gb=1e6),
            replace(C, name="d", disk_gb=1e9),
        )
        one, told = session(tmp_path, *parts), []
        one.tell = told.append

        assert run(one, Clock()) == []
        assert told[:2] == [
            "a: left out: it needs no_such_package",
            "b: left out: it comes after a",
        ]
        assert "GB of system memory, and there are" in told[2]
        assert "GB of the disk, and there are" in told[3]

    def test_one_that_did_not_end_in_its_time_gets_more_or_is_left_out(
        self, tmp_path: Path
    ) -> None:
        one = session(tmp_path, A, seconds=100)
        one.folder.keep(found(A, Outcome.STOPPED, limit=60.0))

        assert one.expect(A) == 90
        assert one.hindrance(A, left=80.0) == "left out: about 90 s, and 80 are left"

    def test_what_failed_is_not_tried_again_by_itself(self, tmp_path: Path) -> None:
        one = session(tmp_path, A)
        one.folder.keep(found(A, Outcome.FAILED, reason="ValueError: no"))

        assert one.hindrance(A, left=80.0) == "failed already (ValueError: no)"


FAKE = """
import json, os, subprocess, sys, time
folder, how, *names = sys.argv[1:]
for name in names:
    path = os.path.join(folder, "parts", name + ".json")
    document = json.load(open(path))
    match json.loads(how).get(name):
        case "hangs":
            command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
            child = subprocess.Popen(command, start_new_session=True)
            open(os.path.join(folder, name + ".pid.new"), "w").write(str(child.pid))
            os.rename(os.path.join(folder, name + ".pid.new"), os.path.join(folder, name + ".pid"))
            time.sleep(600)
        case "dies":
            print("the flux capacitor is missing")
            sys.exit(3)
    document.update(outcome="ended", seconds=0.1)
    with open(path + ".new", "w") as file:
        json.dump(document, file)
    os.rename(path + ".new", path)
"""


def fake(folder: Path, **how: str) -> runner.Start:
    """Return what starts processes that do what is said of each part, and else end well."""
    command = [sys.executable, "-S", "-c", FAKE, str(folder), json.dumps(how)]
    return start_process(command, Folder(folder), {})


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.05)
    return False


class TestProcesses:
    def test_a_part_whose_time_is_over_is_ended_with_its_tree(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runner, "_ENDING", 0.5)
        quick = [replace(part, fixed=1.0) for part in (A, B, C)]
        one = session(tmp_path, *quick, seconds=4)

        one.run(fake(tmp_path, b="hangs"))

        assert gone(int((tmp_path / "b.pid").read_text()))
        outcomes = {part.name: one.folder.finding(part.name) for part in quick}
        assert outcomes["a"].outcome is Outcome.ENDED
        assert outcomes["b"].outcome is Outcome.STOPPED
        assert outcomes["b"].limit < 4
        assert outcomes["c"] is None

    def test_a_part_that_ends_by_itself_without_a_word_has_failed(self, tmp_path: Path) -> None:
        one = session(tmp_path, A, B)

        one.run(fake(tmp_path, a="dies"))

        failed, ended = (one.folder.finding(name) for name in "ab")
        assert failed.reason == "ended with 3: the flux capacitor is missing"
        assert failed.outcome is Outcome.FAILED
        assert ended.outcome is Outcome.ENDED

    def test_killed_it_leaves_what_has_ended_and_no_process_and_goes_on(
        self, tmp_path: Path
    ) -> None:
        script = (
            "import sys\n"
            f"sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}\n"
            "from pathlib import Path\n"
            "from test_card import A, B, C, fake, session\n"
            "folder = Path(sys.argv[1])\n"
            "session(folder, A, B, C).run(fake(folder, b='hangs'))\n"
        )
        running = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
        while not (tmp_path / "b.pid").exists():
            assert running.poll() is None
            time.sleep(0.05)

        running.kill()
        running.wait()

        assert gone(int((tmp_path / "b.pid").read_text()))
        one = session(tmp_path, A, B, C)
        outcomes = [one.folder.finding(part.name) for part in one.parts]
        assert [outcomes[0].outcome, outcomes[1].outcome] == [Outcome.ENDED, Outcome.UNFINISHED]
        assert outcomes[2] is None
        one.run(fake(tmp_path))
        assert [one.folder.finding(part.name).outcome for part in one.parts] == [Outcome.ENDED] * 3


class TestRecord:
    def test_rows_of_one_table_are_joined_and_what_did_not_end_is_told(
        self, tmp_path: Path
    ) -> None:
        folder = Folder(tmp_path)
        folder.keep(found(A, results=(result("card, ways to fit", "one"),)))
        folder.keep(found(B, results=(result("card, ways to fit", "two"),)))
        folder.keep(found(C, Outcome.FAILED, reason="OSError: /home/somebody is full"))

        record = gather([A, B, C], folder)

        assert [row.name for row in record.results["card, ways to fit"].rows] == ["one", "two"]
        told = {row.name: row for row in record.results["card"].rows}
        assert told["a"].figures["seconds"].median == 10
        assert told["c"].instead == "failed OSError"
        assert "somebody" not in repr(record)

    def test_it_is_kept_after_every_part_and_is_what_the_benchmarks_page_shows(
        self, tmp_path: Path
    ) -> None:
        clock = Clock()
        one = session(tmp_path, A, clock=clock)
        run(one, clock)

        path = tmp_path / "card-2026-12-24-nvidia-h200.json"

        assert [load_record(path)] == load_records(tmp_path)
        shown = render(load_records(tmp_path))
        assert "## NVIDIA H200, 2026-12-24" in shown
        assert "driver 580.159.04" in shown


class TestCommand:
    def test_a_dry_run_tells_every_part_and_writes_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--dry-run", "--minutes", "8", "--output", str(tmp_path / "out")]) == 0

        shown = capsys.readouterr().out
        assert [line.split()[0] for line in shown.splitlines()[:-1:2]] == [
            part.name for part in PARTS
        ]
        assert "of 8 minutes" in shown
        assert not (tmp_path / "out").exists()

    def test_without_a_card_only_what_is_tiny_is_measured(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("benchmarks.card.__main__.is_present", lambda _: False)

        assert main(["--minutes", "8"]) == 2
        assert "--tiny" in capsys.readouterr().err

    def test_the_card_and_its_driver_are_told_by_their_own_tool(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text('#!/bin/sh\necho "$@" > asked\necho "NVIDIA H200, 580.159.04"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
        monkeypatch.setattr("benchmarks.card.__main__.cuda_memory", lambda: 150_754_820_096)

        facts = look(Device.CUDA)

        assert (facts.machine.gpu, facts.machine.gpu_memory_gb) == ("NVIDIA H200", 151)
        assert facts.versions["driver"] == "580.159.04"
        assert Path("asked").read_text().strip().endswith("--id=3")

    def test_a_folder_of_another_card_is_not_added_to(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Folder(tmp_path).keep(found(PARTS[0], is_tiny=True))

        assert main(["--tiny", "--output", str(tmp_path)]) == 2
        assert "holds figures of NVIDIA H200" in capsys.readouterr().err

    def test_what_is_tiny_and_what_is_not_share_no_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Folder(tmp_path).keep(found(PARTS[0]))

        assert main(["--tiny", "--output", str(tmp_path)]) == 2
        assert "holds figures of a whole one" in capsys.readouterr().err

    def test_parts_have_names_of_their_own_and_come_after_what_they_need(self) -> None:
        names = [part.name for part in PARTS]

        assert len(set(names)) == len(names)
        assert all(part.after in names[:number] for number, part in enumerate(PARTS) if part.after)
        assert {part.call for part in tiny_parts(Device.CUDA)} == {part.call for part in PARTS}


def made_up(*rows: Row, name: str = figures.TRAINING, columns: Sequence[str] = ()) -> Result:
    return Result(
        name=name,
        compares="A model.",
        rounds=1,
        columns=tuple(Column(name=one, digits=1) for one in columns),
        rows=rows,
        ratios=(),
    )


def row(name: str, values: dict[str, float], instead: str | None = None) -> Row:
    shown = {key: summarise([value]) for key, value in values.items()}
    return Row(name=name, figures=shown, instead=instead)


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    path = ROOT / "scripts" / "render_docs.py"
    spec = importlib.util.spec_from_file_location("render_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def records(tmp_path: Path) -> list[Any]:
    """What somebody has measured, as a file of results."""
    int8 = figures.name_training("24", "int8-quanto", "direct")
    bf16 = figures.name_training("48", "no_change", "direct")
    taken = {figures.CARD_GB: 19.4, figures.SYSTEM_GB: 51.2, figures.STEP: 0.61, figures.START: 75}
    modes = ("GB after loading", "GB at the peak")
    of_card = gather([A], _kept(tmp_path / "parts"))
    record = replace(
        of_card,
        results={
            figures.TRAINING: made_up(row(int8, taken), row(bf16, {}, "does not fit")),
            figures.MODES: made_up(
                row("`--quantize 8bit --offload full`", {"GB after loading": 17.2}, "does not fit"),
                name=figures.MODES,
                columns=modes,
            ),
            figures.COMPILING: made_up(
                *(row(name, {figures.TEN_STEPS: value}) for name, value in _COMPILED.items()),
                name=figures.COMPILING,
            ),
        },
    )
    write_record(record, tmp_path / "card-2026-12-24-nvidia-h200.json")
    return load_records(tmp_path)


_COMPILED = {"not compiled": 3.0, "first": 80.0, "next": 2.5}


def _kept(path: Path) -> Folder:
    folder = Folder(path)
    folder.keep(found(A))
    return folder


class TestPages:
    def test_measured_figures_stand_beside_the_estimates_with_the_card(
        self, pages: ModuleType, records: list[Any]
    ) -> None:
        page = pages.memory(records)

        (line,) = (one for one in page.splitlines() if one.startswith("| `flux` | no"))
        assert "; **19.4 + 51.2** |" in line
        assert "; **does not fit** |" in line
        assert "NVIDIA H200, 151 GB, 2026-12-24 (torch 2.13.0, driver 580.159.04)" in page
        assert "| NVIDIA H200 | 0.61 | 75 |" in page
        assert "Unproven" not in page

    def test_without_any_they_say_that_they_are_estimates(self, pages: ModuleType) -> None:
        for text in (pages.memory([]), pages.sampling_memory([])):
            assert "**Unproven: glance has run none of th" in text

    def test_ways_to_fit_a_model_are_a_table_of_the_card(
        self, pages: ModuleType, records: list[Any]
    ) -> None:
        page = pages.sampling_memory(records)

        assert "| `--quantize 8bit --offload full` | 17.2 | does not fit |" in page
        assert "Measured on NVIDIA H200, 151 GB" in page
        assert "took 3.00 s, compiled 2.50, and 80 the first time" in page
        assert "Unproven" not in page
        assert "not measured on a GPU" not in page

    def test_the_newest_card_of_its_kind_counts(self, records: list[Any]) -> None:
        old = replace(records[0], date="2026-12-01")

        of_card, _ = figures.find_training([records[0], old], Preset.GB24)

        assert of_card.date == "2026-12-24"
