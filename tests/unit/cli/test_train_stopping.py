"""`glance train` when somebody ends it, or a process of it, or starts it twice."""

import re
import signal
from pathlib import Path

import pytest
from fakes.commands import TRAIN, Glance, StartGlance, files, states
from fakes.trainer import FakeSimpleTuner, wait_for

REQUESTS = Path("runs/cat/config/glance-slow/requests.json")

pytest_plugins = ["fakes.plugin"]
pytestmark = pytest.mark.usefixtures("pair")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything_and_the_next_run_goes_on(
    start_glance: StartGlance,
    invoke: Glance,
    simpletuner: FakeSimpleTuner,
    number: signal.Signals,
    code: int,
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--phase", "slow", "--quiet", "--stop-within", "0")
    simpletuner.wait_until_ready()
    assert len(simpletuner.processes()) == 3  # supervisor, trainer, worker

    running.send(number)

    assert running.finish() == (code, "stopped: run the same command again to continue\n")
    assert simpletuner.processes() == []
    assert states() == ["stopped", "pending"]
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert [start["resumed"] for start in simpletuner.starts] == [0, 2]
    assert states() == ["done", "pending"]


def test_a_second_ctrl_c_hurries_a_stubborn_trainer(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="stubborn")
    running = start_glance(*TRAIN, "--quiet", "--stop-within", "0")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)
    wait_for((simpletuner.folder / "asked").exists)
    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []
    assert not (simpletuner.folder / "still there").exists()
    assert states() == ["stopped", "pending"]


def test_a_first_ctrl_c_waits_for_a_checkpoint(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="endless")
    running = start_glance(*TRAIN, "--phase", "slow")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)

    code, err = running.finish()
    assert code == 130
    assert "stopping at the next checkpoint, within 60 s; Ctrl-C again: at once\n" in err
    (checkpoint,) = Path("runs/cat/output/glance-slow").glob("checkpoint-*")
    assert (checkpoint / "glance.seal").exists()
    assert not REQUESTS.exists()
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert f"checkpoint-{simpletuner.starts[1]['resumed']}" == checkpoint.name


def test_a_second_ctrl_c_does_not_wait(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")  # no checkpoint ever comes
    running = start_glance(*TRAIN)
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)
    wait_for(
        lambda: "manual_checkpoint" in Path("runs/cat/config/glance-slow/requests.json").read_text()
    )
    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []


def test_a_checkpoint_that_does_not_come_is_not_waited_for_longer(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--stop-within", "0.5")
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    assert simpletuner.processes() == []


@pytest.mark.parametrize("which", ["supervisor", "trainer"])
def test_whichever_process_is_killed_none_is_left_and_the_next_start_goes_on(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner, which: str
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--phase", "slow", "--quiet")
    simpletuner.wait_until_ready()

    for process in simpletuner.processes():
        if ("supervisor.py" in " ".join(process.cmdline())) is (which == "supervisor"):
            process.kill()
            break

    assert running.finish()[0] == 5
    assert simpletuner.processes() == []
    assert states() == ["failed", "pending"]
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert [start["resumed"] for start in simpletuner.starts] == [0, 2]


def test_a_second_training_of_a_run_is_refused(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--stop-within", "0")
    simpletuner.wait_until_ready()
    wait_for(Path("runs/cat/output/glance-slow/checkpoint-2/glance.seal").exists)
    before = files(Path("runs"))

    done = invoke(*TRAIN)

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


def test_the_trainer_of_a_killed_glance_is_waited_for(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="slow death")
    running = start_glance(*TRAIN, "--quiet")
    simpletuner.wait_until_ready()
    running.send(signal.SIGKILL)
    running.finish()
    simpletuner.behave()

    done = invoke(*TRAIN)

    assert done.code == 0, done.err
    assert simpletuner.phases == ["slow", "slow", "fast"]
    assert not Path("runs/cat/glance.lock").exists()


def test_a_trainer_that_ends_slowly_is_waited_for(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="slow death")
    running = start_glance(*TRAIN, "--quiet")
    simpletuner.wait_until_ready()

    running.send(signal.SIGTERM)

    assert running.finish()[0] == 143
    assert (simpletuner.folder / "said goodbye").exists()
    assert "part 4999 of 5000" in Path("runs/cat/logs/glance-slow.log").read_text()


def test_the_tree_does_not_outlive_a_killed_glance(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN, "--phase", "slow", "--quiet")
    simpletuner.wait_until_ready()

    running.send(signal.SIGKILL)

    assert running.finish() == (-signal.SIGKILL, "")
    wait_for(lambda: simpletuner.processes() == [])
    assert states() == ["training", "pending"]
    simpletuner.behave()
    assert invoke(*TRAIN, "--phase", "slow").code == 0
    assert states() == ["done", "pending"]
