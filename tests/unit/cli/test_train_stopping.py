"""`glance train` when somebody ends it, or a process of it, or starts it twice."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.commands import TRAIN, Glance, StartGlance, files, states
from fakes.trainer import FakeSimpleTuner, RunningGlance, wait_for

type Begin = Callable[..., RunningGlance]
type GoesOn = Callable[[], int]

REQUESTS = Path("runs/cat/config/glance-slow/requests.json")
SLOW = [*TRAIN, "--phase", "slow"]


@pytest.fixture
def begin(start_glance: StartGlance, simpletuner: FakeSimpleTuner, pair: Path) -> Begin:
    """Start the slow phase with a trainer that behaves so, and wait until it is at work."""

    def begin(behaviour: str, *flags: str) -> RunningGlance:
        simpletuner.behave(slow=behaviour)
        running = start_glance(*SLOW, *flags)
        simpletuner.wait_until_ready()
        return running

    return begin


@pytest.fixture
def goes_on(invoke: Glance, simpletuner: FakeSimpleTuner) -> GoesOn:
    """Start the slow phase again, to its end; return the step from which it went on."""

    def start() -> int:
        simpletuner.behave()
        done = invoke(*SLOW)
        assert (done.code, states()) == (0, ["done", "pending"]), done.err
        return int(simpletuner.starts[-1]["resumed"])

    return start


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything_and_the_next_run_goes_on(
    begin: Begin, goes_on: GoesOn, simpletuner: FakeSimpleTuner, number: signal.Signals, code: int
) -> None:
    running = begin("hang", "--quiet", "--stop-within", "0")
    assert len(simpletuner.processes()) == 3  # supervisor, trainer, worker

    running.send(number)

    assert running.finish() == (code, "stopped: run the same command again to continue\n")
    assert (simpletuner.processes(), states()) == ([], ["stopped", "pending"])
    assert goes_on() == 2


def test_a_second_ctrl_c_hurries_a_stubborn_trainer(
    begin: Begin, simpletuner: FakeSimpleTuner
) -> None:
    running = begin("stubborn", "--stop-within", "0")

    running.send(signal.SIGINT)
    wait_for((simpletuner.folder / "asked").exists)
    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert (simpletuner.processes(), states()) == ([], ["stopped", "pending"])
    assert not (simpletuner.folder / "still there").exists()


def test_a_first_ctrl_c_waits_for_a_checkpoint(begin: Begin, goes_on: GoesOn) -> None:
    running = begin("endless")

    running.send(signal.SIGINT)

    code, err = running.finish()
    assert code == 130
    assert "stopping at the next checkpoint, within 60 s; Ctrl-C again: at once\n" in err
    (checkpoint,) = Path("runs/cat/output/glance-slow").glob("checkpoint-*")
    assert (checkpoint / "glance.seal").exists()
    assert not REQUESTS.exists()
    assert checkpoint.name == f"checkpoint-{goes_on()}"


@pytest.mark.parametrize("patience", ["60", "0.5"])
def test_a_checkpoint_that_does_not_come_is_waited_for_no_longer_than_asked(
    begin: Begin, simpletuner: FakeSimpleTuner, patience: str
) -> None:
    running = begin("hang", "--stop-within", patience)

    running.send(signal.SIGINT)
    if patience == "60":
        wait_for(lambda: "manual_checkpoint" in REQUESTS.read_text())
        running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []


@pytest.mark.parametrize("which", ["supervisor", "trainer"])
def test_whichever_process_is_killed_none_is_left_and_the_next_start_goes_on(
    begin: Begin, goes_on: GoesOn, simpletuner: FakeSimpleTuner, which: str
) -> None:
    running = begin("hang", "--quiet")

    for process in simpletuner.processes():
        if ("supervisor.py" in " ".join(process.cmdline())) is (which == "supervisor"):
            process.kill()
            break

    assert running.finish()[0] == 5
    assert (simpletuner.processes(), states()) == ([], ["failed", "pending"])
    assert goes_on() == 2


def test_a_second_training_of_a_run_is_refused(begin: Begin, invoke: Glance) -> None:
    running = begin("hang", "--stop-within", "0")
    wait_for(Path("runs/cat/output/glance-slow/checkpoint-2/glance.seal").exists)
    before = files(Path("runs"))

    done = invoke(*SLOW)

    assert done.code == 4
    assert re.match(
        r"error: run runs/cat is being trained by process \d+, since 20\S+\n"
        r"  hint: wait for it, end it, or give another --run\n",
        done.err,
    )
    assert files(Path("runs")) == before
    running.send(signal.SIGINT)
    assert running.finish()[0] == 130
    assert not Path("runs/cat/glance.lock").exists()


@pytest.mark.parametrize("behaviour", ["hang", "slow death"])
def test_the_tree_of_a_killed_glance_ends_and_is_waited_for(
    begin: Begin, goes_on: GoesOn, simpletuner: FakeSimpleTuner, behaviour: str
) -> None:
    running = begin(behaviour, "--quiet")

    running.send(signal.SIGKILL)

    assert running.finish() == (-signal.SIGKILL, "")
    assert states() == ["training", "pending"]
    goes_on()
    assert (simpletuner.processes(), simpletuner.phases) == ([], ["slow", "slow"])
    assert not Path("runs/cat/glance.lock").exists()
