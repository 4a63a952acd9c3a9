"""`glance batch train` and `glance batch plan` as users meet them."""

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import SMALL, Glance, StartGlance, states
from fakes.trainer import FakeSimpleTuner, wait_for
from PIL import Image

COMMON = ["--device", "cpu", *SMALL]
TRAIN = ["batch", "train", "pics", "--no-sheet", *COMMON]
NAMES = ["a", "b", "c"]
BROKEN = "b"


@pytest.fixture(autouse=True)
def pictures(simpletuner: FakeSimpleTuner) -> None:
    """Three images, one of which has no caption; and what stands for the trainer."""
    Path("pics").mkdir()
    for name in NAMES:
        image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        image.putpixel((0, 0), (ord(name), 0, 0))
        image.save(f"pics/{name}.png")
        if name != BROKEN:
            Path(f"pics/{name}.txt").write_text(f"a gradient, {name}\n")


def record(place: str = "runs/pics/batch.json") -> dict[str, Any]:
    return dict(json.loads(Path(place).read_text()))


def states_of(document: dict[str, Any]) -> list[str]:
    return [job["state"] for job in document["jobs"]]


def trained(simpletuner: FakeSimpleTuner) -> list[str]:
    """Which runs' trainers were started, phase by phase."""
    return [f"{Path(one['cwd']).name} {one['phase']}" for one in simpletuner.starts]


def test_all_are_trained_but_the_broken_one_and_none_twice(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = glance(*TRAIN, "--json", "--events", "events.jsonl")

    assert done.code == 4
    assert "job 2 (b) refused: there is no caption" in done.err.lower() or "pics/b.txt" in done.err
    assert states_of(done.document) == ["done", "refused", "done"]
    assert done.document == {**record(), "sheets": []}
    assert done.document["counts"] == {"done": 2, "refused": 1}
    assert trained(simpletuner) == ["a slow", "a fast", "c slow", "c fast"]
    assert all(states(Path(f"runs/pics/{name}/glance.json")) == ["done", "done"] for name in "ac")
    events = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
    assert [e["job"] for e in events if e["event"] == "JobOver"] == [1, 3]
    assert {e["job"] for e in events if e["event"] == "StepDone"} == {1, 3}

    Path("pics/b.txt").write_text("a gradient, b\n")
    again = glance(*TRAIN, "--json")

    assert (again.code, states_of(again.document)) == (0, ["done"] * 3)
    assert trained(simpletuner)[4:] == ["b slow", "b fast"]


def test_one_that_fails_stops_no_other_and_says_why(
    glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="out of memory")
    jobs = [{"image": "pics/a.png", "phase": "slow"}, {"image": "pics/c.png", "phase": "fast"}]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))

    done = glance("batch", "train", "jobs.jsonl", "--no-sheet", *COMMON)

    assert done.code == 5
    assert states_of(record("runs/jobs/batch.json")) == ["failed", "done"]
    assert "the accelerator ran out of memory" in done.out
    assert "1 done, 1 failed: runs/jobs" in done.out


def test_ctrl_c_saves_what_there_is_and_the_same_command_goes_on(
    start_glance: StartGlance, glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="endless")
    running = start_glance(*TRAIN)
    simpletuner.wait_until_ready()

    running.send(signal.SIGINT)

    code, err = running.finish()
    assert (code, simpletuner.processes()) == (130, [])
    assert "stopping at the next checkpoints" in err
    assert states_of(record()) == ["stopped", "refused", "waiting"]
    simpletuner.behave()
    assert states_of(glance(*TRAIN, "--json").document) == ["done", "refused", "done"]
    assert simpletuner.starts[1]["resumed"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_no_process_is_left_and_the_same_command_goes_on(
    start_glance: StartGlance, glance: Glance, simpletuner: FakeSimpleTuner, number: signal.Signals
) -> None:
    simpletuner.behave(fast="hang")
    running = start_glance(*TRAIN)
    simpletuner.wait_until_ready()

    running.send(number)
    running.finish()
    wait_for(lambda: not simpletuner.processes())
    simpletuner.behave()
    done = glance(*TRAIN, "--json")

    assert states_of(done.document) == ["done", "refused", "done"]
    assert trained(simpletuner) == ["a slow", "a fast", "a fast", "c slow", "c fast"]


def test_one_batch_at_a_time_in_a_folder(
    start_glance: StartGlance, invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    running = start_glance(*TRAIN)
    simpletuner.wait_until_ready()

    second = invoke(*TRAIN)

    assert second.code == 4
    assert "batch runs/pics is being run by process" in second.err
    running.send(signal.SIGTERM)
    running.finish()


def test_a_plan_prints_lines_that_train_the_same(
    invoke: Glance, glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    plan = invoke("batch", "plan", "pics", *COMMON)
    assert (plan.code, len(plan.out.splitlines())) == (4, 2)

    for line in plan.out.splitlines():
        program, *words = shlex.split(line)
        assert (program, glance(*words).code) == ("glance", 0)

    done = invoke(*TRAIN, "--json")
    assert states_of(done.document) == ["done", "refused", "done"]
    assert len(simpletuner.starts) == 4
    assert done.document["jobs"][0]["losses"] == {"slow": pytest.approx(0.3839, abs=1e-4)} | {
        "fast": pytest.approx(0.3839, abs=1e-4)
    }


def test_a_dry_run_writes_nothing(invoke: Glance) -> None:
    before = sorted(Path().rglob("*"))

    done = invoke(*TRAIN, "--dry-run", "--json")

    assert states_of(done.document) == ["waiting", "refused", "waiting"]
    assert sorted(Path().rglob("*")) == before
