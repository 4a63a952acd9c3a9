"""The real runner with small commands: what reaches the log, the caller, and nobody."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.trainer import find_processes, wait_for

from glance.training.simpletuner.runner import Job, JobEnded, ProcessRunner

SECRET = "hf_" + "Xy7" * 12

type Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "trainer.log"


@pytest.fixture
def run(tmp_path: Path, log: Path) -> Iterator[Run]:
    """Run a Python program, return its exit code and the lines that were handed on."""

    def run(program: str, *secrets: str, **environment: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path)]
        lines: list[str] = []
        job = Job(command, tmp_path, environment, log, secrets)
        return ProcessRunner().run(job, lines.append), lines

    yield run
    assert find_processes(str(tmp_path)) == []


def test_lines_reach_the_caller_and_the_log_which_is_continued(run: Run, log: Path) -> None:
    code, lines = run("import sys; print('one'); print('two', file=sys.stderr, flush=True)")

    assert (code, sorted(lines)) == (0, ["one", "two"])
    assert sorted(log.read_text().splitlines()) == ["one", "two"]
    run("print('again')")
    assert log.read_text().endswith("\nagain\n")


def test_environment_and_folder_are_the_jobs_and_no_more(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIXED_PRECISION", "fp8")
    program = """
import os
print(sorted(set(os.environ) - {'LC_CTYPE'}))
print(os.getcwd())
print(os.environ['PWD'])
"""
    _, lines = run(program, COLOUR="red")

    assert lines == ["['COLOUR', 'GLANCE_JOB', 'PWD']", str(tmp_path), str(tmp_path)]


def test_the_exit_code_is_handed_on(run: Run) -> None:
    assert run("import sys; sys.exit(3)") == (3, [])
    killed_supervisor, _ = run("import os; os.kill(os.getppid(), 9)")
    assert killed_supervisor == 137  # as a shell tells it


def test_a_progress_bar_becomes_lines_and_empty_ones_go(run: Run) -> None:
    _, lines = run(r"print('\rstep 1\rstep 2\r\n\n  \r\nend')")

    assert lines == ["step 1", "step 2", "end"]


def test_bytes_that_are_no_text_are_logged_as_they_are(run: Run, log: Path) -> None:
    _, lines = run(r"import sys; sys.stdout.buffer.write(b'caf\xe9 \xff\n')")

    assert lines == ["caf\ufffd \ufffd"]
    assert log.read_bytes() == b"caf\xe9 \xff\n"


def test_a_line_without_end_comes_in_bounded_pieces(run: Run) -> None:
    _, lines = run("print('=' * 1_000_000, end='')")

    assert max(map(len, lines)) < 100_000
    assert "".join(lines) == "=" * 1_000_000


def test_a_flood_arrives_whole(run: Run, log: Path) -> None:
    code, lines = run("for number in range(50): print(('#' * 999 + '\\n') * 1000, end='')")

    assert (code, len(lines), log.stat().st_size) == (0, 50_000, 50_000_000)


@pytest.mark.parametrize(
    ("program", "secrets", "line"),
    [
        (f"print('token={SECRET}, {SECRET}')", [SECRET], "token=***, ***"),
        (f"print('a  b {SECRET}.')", [f" {SECRET}\n", "  "], "a  b ***."),
        (r"import sys; sys.stdout.buffer.write(b'<\xffkey>')", ["\udcffkey"], "<***>"),
    ],
    ids=["twice", "without the space around it", "no text"],
)
def test_secrets_are_masked_in_the_log_and_for_the_caller(
    run: Run, log: Path, program: str, secrets: list[str], line: str
) -> None:
    assert run(program, *secrets) == (0, [line])
    assert log.read_text() == f"{line}\n"


def test_a_secret_that_straddles_two_pieces_is_masked(run: Run, log: Path) -> None:
    half = len(SECRET) // 2
    program = f"""
import sys, time
for text in '=' * 20_000 + '{SECRET[:half]}', '{SECRET[half:]}':
    sys.stdout.write(text)
    sys.stdout.flush()
    time.sleep(0.1)  # long enough to be read by itself
"""
    _, lines = run(program, SECRET)

    assert "".join(lines) == "=" * 20_000 + "***"
    assert log.read_text().replace("\n", "") == "=" * 20_000 + "***"


def test_last_words_are_heard_where_the_caller_fails_and_no_process_is_left(
    run: Run, log: Path, tmp_path: Path
) -> None:
    program = """
import signal, sys, time
def say_much(*_):
    print(('#' * 99 + '\\n') * 10_000 + 'the end', flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, say_much)
print('up', flush=True)
time.sleep(600)
"""

    job = Job([sys.executable, "-I", "-S", "-c", program, str(tmp_path)], tmp_path, {}, log)
    with pytest.raises(ZeroDivisionError):
        ProcessRunner().run(job, lambda _: 1 / 0)

    assert log.read_text().endswith("\nthe end\n")


AT_THE_GATE = """
import json, os, socket, sys
if 'GLANCE_GATE' in os.environ:
    print('#' * 200_000 if 'floods' in os.environ else 'up', flush=True)
    open('up', 'w').close()
    if 'ends' in os.environ:
        sys.exit(1)
    gate = socket.socket(fileno=int(os.environ['GLANCE_GATE']))
    os.environ.update(json.loads(gate.makefile().readline() or sys.exit()))
    gate.sendall(b'.')
print(os.environ['said'], os.getcwd(), flush=True)
"""


@pytest.fixture
def prepared(tmp_path: Path, log: Path) -> Iterator[Callable[..., tuple[ProcessRunner, Job]]]:
    """Prepare a job, in a folder of its own, and wait until it is up."""
    room = tmp_path / "room"
    room.mkdir()

    def prepare(**environment: str) -> tuple[ProcessRunner, Job]:
        command = [sys.executable, "-I", "-S", "-c", AT_THE_GATE, str(tmp_path)]
        runner, job = ProcessRunner(), Job(command, tmp_path, {"said": "", **environment}, log)
        runner.prepare(job, room)
        if "floods" not in environment:
            wait_for((room / "up").exists)
        return runner, replace(job, environment={**job.environment, "said": "now"})

    yield prepare
    assert find_processes(str(tmp_path)) == []


@pytest.mark.parametrize("how", ["", "floods", "ends"])
def test_what_was_prepared_goes_on_or_is_started_anew(
    prepared: Callable[..., tuple[ProcessRunner, Job]], tmp_path: Path, log: Path, how: str
) -> None:
    runner, job = prepared(**{how or "waits": ""})
    lines: list[str] = []
    assert runner.processes(job) == []

    assert runner.run(job, lines.append) == 0

    where = tmp_path if how == "ends" else tmp_path / "room"
    assert lines[-1] == f"now {where}"
    assert len("".join(lines[:-1])) == (200_000 if how == "floods" else 2)
    assert log.read_text().splitlines() == lines


@pytest.mark.parametrize("how", ["", "floods"])
def test_nothing_is_left_of_what_is_dismissed(
    prepared: Callable[..., tuple[ProcessRunner, Job]], tmp_path: Path, how: str
) -> None:
    runner, job = prepared(**{how or "waits": ""})
    assert find_processes(str(tmp_path))

    runner.dismiss()

    assert find_processes(str(tmp_path)) == []
    runner.end()
    runner.prepare(job, tmp_path)
    with pytest.raises(JobEnded):
        runner.run(job, lambda _: None)
