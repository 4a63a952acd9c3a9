"""The supervisor as a process of its own, above trees that do not want to end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.trainer import PATIENCE, find_processes, wait_for

from glance.training.simpletuner import supervisor

TREE = Path(__file__).parents[3] / "support/fakes/tree.py"
HASTY = """
import sys
from glance.training.simpletuner import supervisor
supervisor.GRACE_SECONDS = 0.2
sys.exit(supervisor.main(sys.argv[1:]))
"""

type Supervised = subprocess.Popen[bytes]
type Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command under the supervisor, or under `variant` of it."""
    started: list[Supervised] = []

    def start(*command: str, variant: str | None = None) -> Supervised:
        script = ["-I", str(supervisor.__file__)] if variant is None else ["-c", variant]
        started.append(
            subprocess.Popen(
                [sys.executable, *script, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return started[-1]

    yield start
    for below in find_processes(str(tmp_path)):
        below.kill()
    for process in started:
        with process:  # it is waited for, and its pipes are closed
            process.kill()


@pytest.fixture
def start_tree(start: Start, tmp_path: Path) -> Iterator[Start]:
    """Start the supervisor above three generations, and wait until all are up; none may stay."""

    def start_tree(*modes: str, variant: str | None = None) -> Supervised:
        tree = [sys.executable, "-I", "-S", str(TREE), str(tmp_path), "2", *modes]
        process = start(*tree, variant=variant)
        wait_for((tmp_path / "up-2").exists)
        return process

    yield start_tree
    assert find_processes(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -KILL $$", 137),  # as shells count a death by a signal
        ("kill -TERM $$; sleep 600", 143),  # it does not inherit the handlers
        ("read line || exit 3", 3),  # it reads nothing from the lifeline
    ],
)
def test_the_exit_code_is_the_commands_own(start: Start, script: str, code: int) -> None:
    assert start("sh", "-c", script).wait(PATIENCE) == code


def test_a_command_that_cannot_be_started_is_named(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "simpletuner"
    program.write_text("#!/nowhere/python\n", encoding="utf-8")
    program.chmod(0o755)

    process = start(str(program))

    out, _ = process.communicate(timeout=PATIENCE)
    assert out.decode() == f"cannot start {program}: No such file or directory\n"
    assert process.returncode == 127


@pytest.mark.parametrize(
    ("modes", "end", "code"),
    [
        *(((), f"send {number}", 143) for number in ("SIGTERM", "SIGINT", "SIGHUP")),
        (("stubborn",), "send SIGTERM", 143),  # after the grace
        (("stubborn",), "close the lifeline", 143),
        (("leaving",), "", 7),  # what a finished command forgot
        (("leaving", "stubborn"), "", 7),
    ],
)
def test_every_generation_ends(
    start_tree: Start, modes: tuple[str, ...], end: str, code: int
) -> None:
    process = start_tree(*modes, variant=HASTY if modes else None)

    if end.startswith("send"):
        process.send_signal(signal.Signals[end.split()[1]])
    elif end:
        assert process.stdin is not None
        process.stdin.close()

    assert process.wait(PATIENCE) == code


def test_a_second_sigterm_ends_the_grace(start_tree: Start) -> None:
    process = start_tree("stubborn", variant=HASTY.replace("0.2", "600"))

    def ends_when_asked_again() -> bool:
        process.terminate()
        return process.poll() is not None

    wait_for(ends_when_asked_again)


def test_stopped_processes_are_ended_too(start_tree: Start, tmp_path: Path) -> None:
    process = start_tree(variant=HASTY)
    for below in find_processes(str(TREE)):
        if below.pid != process.pid and str(tmp_path) in below.cmdline():
            os.kill(below.pid, signal.SIGSTOP)

    process.terminate()

    assert process.wait(PATIENCE) == 143


def test_where_it_is_killed_itself_its_command_is_told_to_end(start: Start, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    script = f"trap 'touch {ended}; exit' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    process = start("sh", "-c", script)
    wait_for((tmp_path / "up").exists)

    process.kill()

    wait_for(ended.exists)
