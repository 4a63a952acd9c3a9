"""Both phases at once: two devices, two trainers, one run."""

import signal
from pathlib import Path

import pytest
from fakes.commands import TRAIN, Glance, StartGlance, states
from fakes.runs import RUN, contents, fail, plan_and_train
from fakes.trainer import FakeSimpleTuner, wait_for

from glance.core.events import Event, PhaseFinished, PhaseStarted, StepDone
from glance.core.phase import Phase

pytestmark = pytest.mark.usefixtures("pair")

AT_ONCE = ["--gpu-ids", "0,1"]

type Order = list[tuple[type[Event], Phase]]


def order(events: list[Event]) -> Order:
    kinds = (PhaseStarted, StepDone, PhaseFinished)
    return [(type(event), event.phase) for event in events if isinstance(event, kinds)]


def test_the_second_begins_when_the_first_has_filled_the_caches_and_the_files_are_the_same(
    simpletuner: FakeSimpleTuner,
) -> None:
    def trained() -> dict[str, bytes]:
        files, said = contents(RUN.path), {"logs", "glance.json"}
        return {name: b"" if said & {*Path(name).parts} else files[name] for name in files}

    simpletuner.behave(slow="beside the other")
    told = order(plan_and_train(gpu_ids="0,1"))

    begun = told.index((PhaseStarted, Phase.FAST))
    assert told.index((StepDone, Phase.SLOW)) < begun < told.index((PhaseFinished, Phase.SLOW))
    assert states(RUN.manifest) == ["done", "done"]
    at_once = trained()
    simpletuner.behave()
    told = order(plan_and_train(gpu_ids="1", restart=True))
    assert told.index((PhaseFinished, Phase.SLOW)) < told.index((PhaseStarted, Phase.FAST))
    assert at_once == trained()
    assert all(RUN.log(phase).with_suffix(".debug.log").exists() for phase in Phase)


@pytest.mark.parametrize(
    ("slow", "fast", "ends"),
    [
        ("fail beside the other", "beside the other", ["failed", "done"]),
        ("unknown", "out of memory", ["failed", "failed"]),
    ],
)
def test_one_that_fails_does_not_stop_the_other(
    simpletuner: FakeSimpleTuner, slow: str, fast: str, ends: list[str]
) -> None:
    simpletuner.behave(slow=slow, fast=fast)

    assert "the slow phase failed" in str(fail(gpu_ids="0,1"))

    assert states(RUN.manifest) == ends
    simpletuner.behave()
    plan_and_train(gpu_ids="0,1")
    again = [phase for phase, end in zip(Phase, ends, strict=True) if end == "failed"]
    assert simpletuner.phases[2:] == again
    assert states(RUN.manifest) == ["done", "done"]


def test_a_failure_is_told_while_the_other_goes_on(
    start_glance: StartGlance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="fail beside the other", fast="hang")
    events = Path("events.jsonl")
    running = start_glance(*TRAIN, *AT_ONCE, "--stop-within", "0", "--events", str(events))
    simpletuner.wait_until_ready()
    wait_for(lambda: "the fast phase goes on" in events.read_text())

    running.send(signal.SIGINT)

    code, err = running.finish()
    assert code == 130
    assert "hint: the fast phase goes on; nothing of it is lost" in err
    assert states() == ["failed", "stopped"]
    assert simpletuner.processes() == []


def test_a_first_ctrl_c_waits_for_a_checkpoint_of_both(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="endless", fast="endless")
    events = Path("events.jsonl")
    running = start_glance(*TRAIN, *AT_ONCE, "--events", events)
    wait_for(lambda: events.exists() and '"fast", "step": 1' in events.read_text())

    running.send(signal.SIGINT)

    assert running.finish()[0] == 130
    sealed = Path("runs/cat/output").glob("*/checkpoint-*/glance.seal")
    assert {path.parts[3] for path in sealed} == {"glance-fast", "glance-slow"}
    assert simpletuner.processes() == []
    simpletuner.behave()
    assert invoke(*TRAIN, *AT_ONCE).code == 0
    assert all(start["resumed"] for start in simpletuner.starts[2:])
