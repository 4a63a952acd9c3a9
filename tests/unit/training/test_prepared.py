"""The second phase's process starts with the first one's and waits: --launcher direct."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.commands import TRAIN, StartGlance, replaced, states
from fakes.runs import FAST, RUN, SLOW, fail, make_plan
from fakes.trainer import FakeSimpleTuner, wait_for

from glance.core.events import Event, PhaseFinished, StepDone
from glance.core.phase import Phase
from glance.training import machine
from glance.training.execute import run_training
from glance.training.simpletuner.runner import Job, ProcessRunner

DIRECT = {"model": "small-flux", "launcher": "direct"}  # one whose size is known
COMMAND = [*replaced(TRAIN, model="small-flux"), "--launcher", "direct"]


@pytest.fixture(autouse=True)
def script(simpletuner: FakeSimpleTuner, monkeypatch: pytest.MonkeyPatch, pair: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(simpletuner.lay_out_script()))


def processes(where: Path) -> list[psutil.Process]:
    """Which of this user's run in that folder or below it, glance itself aside."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(where.resolve())
        except (psutil.Error, OSError):
            continue
        if inside:
            found.append(process)
    return found


def left() -> list[psutil.Process]:
    return processes(RUN.path)


def waiting() -> list[psutil.Process]:
    """The supervisor first, then what it has started."""
    return sorted(processes(RUN.path / "config/glance-fast"), key=psutil.Process.create_time)


def train(on: type[Event], act: Any, **changes: Any) -> list[Event]:
    """Train, and do something at the first event of the slow phase of that kind."""
    told: list[Event] = []

    def hear(event: Event) -> None:
        if isinstance(event, on) and not any(isinstance(one, on) for one in told):
            act()
        told.append(event)

    run_training(make_plan(**DIRECT, **changes), hear)
    return told


@pytest.mark.parametrize("is_hasty", [False, True], ids=["", "what it imports begins with CUDA"])
def test_it_waits_for_its_turn_and_trains_then(
    simpletuner: FakeSimpleTuner, is_hasty: bool
) -> None:
    simpletuner.behave(slow="beside one that waits")
    cuda, room = simpletuner.folder / "cuda", RUN.path / "config/glance-fast"
    seen: list[Any] = []

    def look() -> None:
        (supervisor, trainer) = waiting()
        seen[:] = [supervisor.ppid(), trainer.pid, cuda.exists(), (room / "debug.log").exists()]

    if is_hasty:
        (simpletuner.folder / "hasty-glance-fast").touch()
    told = train(PhaseFinished, look)

    slow, fast = simpletuner.starts
    assert seen == [os.getpid(), fast["pid"], False, True]
    assert cuda.exists() is is_hasty
    assert fast["cwd"] == slow["cwd"] == str(RUN.path.resolve())
    steps = [event.step for event in told if isinstance(event, StepDone) and event.phase is FAST]
    assert steps == [1, 2, 3, 4, 5]
    assert "GLANCE_GATE" not in fast["environment"]
    assert states() == ["done", "done"]
    for phase in Phase:
        log = RUN.log(phase).with_suffix(".debug.log")
        assert log.read_text() == f"everything of {phase}, twice\n"
    assert not list(RUN.path.glob("**/debug.log"))
    assert left() == []


@pytest.mark.parametrize("which", ["supervisor", "trainer"])
def test_where_it_is_killed_the_phase_starts_as_any_other(
    simpletuner: FakeSimpleTuner, which: str
) -> None:
    simpletuner.behave(slow="beside one that waits")
    pids: list[int] = []

    def kill() -> None:
        found = waiting()
        pids.extend(process.pid for process in found)
        found[which == "trainer"].kill()
        psutil.wait_procs(found[1:])

    train(StepDone, kill)

    assert simpletuner.starts[1]["pid"] not in pids
    assert (simpletuner.phases, states()) == (["slow", "fast"], ["done", "done"])
    assert left() == []


def test_it_ends_with_a_first_phase_that_fails(simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="fail beside one that waits")

    fail(**DIRECT)

    assert (simpletuner.phases, states()) == (["slow"], ["failed", "pending"])
    assert left() == []
    assert not list(RUN.path.glob("**/debug.log"))


@pytest.mark.parametrize(
    ("behaviour", "number", "code"),
    [
        ("hang", signal.SIGINT, 130),
        ("endless", signal.SIGINT, 130),  # it waits for a checkpoint
        ("hang", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_however_glance_ends_it_ends(
    start_glance: StartGlance,
    simpletuner: FakeSimpleTuner,
    behaviour: str,
    number: signal.Signals,
    code: int,
) -> None:
    simpletuner.behave(slow=behaviour)
    running = start_glance(*COMMAND, "--stop-within", "60" if behaviour == "endless" else "0")
    simpletuner.wait_until_ready()
    wait_for((simpletuner.folder / "waits").exists)
    assert len(waiting()) == 2

    running.send(number)

    assert running.finish()[0] == code
    wait_for(lambda: left() == [])
    assert simpletuner.phases == ["slow"]


class Unprepared(ProcessRunner):
    def prepare(self, job: Job, folder: Path) -> None:
        raise AssertionError("nothing is to wait here")


@pytest.mark.parametrize(
    "changes",
    [
        {"phases": (SLOW,)},
        {"gpu_ids": "0,1"},
        {"launcher": "simpletuner"},
        {"launcher": "direct"},  # there is no memory for it
    ],
)
def test_nothing_waits_in_vain(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    if changes == {"launcher": "direct"}:
        monkeypatch.setattr(machine, "system_memory", lambda: 2_900_000_000)

    run_training(make_plan(**{**DIRECT, **changes}), lambda _: None, runner=Unprepared())

    assert states()[0] == "done"
