"""A batch on a real Ray cluster of two nodes, whatever is killed meanwhile."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import states
from fakes.ray_cluster import Running, TwoNodes, wait_for, write_pairs
from fakes.trainer import FakeSimpleTuner

type Start = Callable[..., Running]


@pytest.fixture
def ray(cluster: TwoNodes) -> list[str]:
    return ["--ray", cluster.address]


def counts() -> dict[str, int]:
    record = Path("runs/pics/batch.json")
    return dict(json.loads(record.read_text())["counts"]) if record.exists() else {}


def wait_for_done(number: int) -> None:
    wait_for(lambda: counts().get("done", 0) >= number)


def trained(trainer: FakeSimpleTuner) -> list[str]:
    """Return each start of the trainer: the run, the phase."""
    return [f"{Path(one['cwd']).name} {one['phase']}" for one in trainer.starts]


def completed(name: str) -> list[int]:
    """Return how often each phase of a run was trained to its end."""
    logs = [Path(f"runs/pics/{name}/logs/glance-{phase}.log") for phase in ("slow", "fast")]
    return [log.read_text().count("Training complete") for log in logs]


def test_nothing_is_lost_or_trained_twice_when_worker_driver_foreman_and_node_are_killed(
    cluster: TwoNodes, trainer: FakeSimpleTuner, start: Start, ray: list[str]
) -> None:
    names = write_pairs(20)
    Path("pics/p05.txt").unlink()
    Path("pics/p12.png").write_bytes(b"no image")
    sound = [name for name in names if name not in ("p05", "p12")]
    running = start(*ray)

    wait_for_done(2)
    wait_for(trainer.processes)
    lost = max(cluster.workers(), key=lambda one: len(one.children(recursive=True)))
    left = lost.children(recursive=True)
    for process in (lost, *lost.children()):  # Ray ends both, when it ends a worker
        process.kill()
    wait_for(lambda: not any(process.is_running() for process in left))
    assert left
    wait_for_done(5)
    running.process.kill()
    running.finish()
    running = start(*ray, "--json")
    wait_for_done(8)
    (foreman,) = cluster.foremen()
    foreman.kill()
    wait_for_done(14)
    cluster.kill_node()
    code, out, err = running.finish()
    wait_for(lambda: not cluster.workers() and not cluster.foremen())

    document = json.loads(out)
    assert (code, document["counts"]) == (4, {"done": 18, "refused": 2})
    refused = {job["name"]: job["problems"] for job in document["jobs"] if "problems" in job}
    assert refused.keys() == {"p05", "p12"}
    assert all(states(Path(f"runs/pics/{name}/glance.json")) == ["done"] * 2 for name in sound)
    # none at all: it was killed with all its steps in a checkpoint, and no more was to be trained
    assert {name: completed(name) for name in sound if max(completed(name)) > 1} == {}
    starts = trained(trainer)
    assert len(starts) - len(set(starts)) <= 4  # what was lost went on: 1 + 2 + 1
    assert set(starts) == {f"{name} {phase}" for name in sound for phase in ("slow", "fast")}
    assert not trainer.processes()
    assert all(line.startswith(("warning: job", "  hint: ", "job ")) for line in err.splitlines())


def test_ctrl_c_saves_what_there_is_and_another_node_goes_on(
    cluster: TwoNodes, trainer: FakeSimpleTuner, start: Start, ray: list[str]
) -> None:
    write_pairs(2)
    trainer.behave(slow="endless")
    running = start(*ray)
    wait_for(lambda: len(trainer.starts) == 2 and (trainer.folder / "ready").exists())

    running.process.send_signal(signal.SIGINT)
    code, _, err = running.finish()

    assert (code, trainer.processes()) == (130, []), err
    assert "stopping at the next checkpoints" in err
    assert counts() == {"stopped": 2}
    cluster.kill_node(at_work=False)
    trainer.behave()
    code, _, err = start(*ray).finish()
    assert (code, counts()) == (0, {"done": 2}), err
    # what was sealed on the node that is gone is whole for the other
    begun = [one["cwd"] for one in trainer.starts if one["phase"] == "slow" and not one["resumed"]]
    assert len(begun) == len(set(begun)) == 2


def test_why_a_job_failed_is_told_and_its_logs_lie_beside_the_runs_in_an_object_store(
    trainer: FakeSimpleTuner, objects: Callable[[str], set[str]], start: Start, ray: list[str]
) -> None:
    write_pairs(1)
    trainer.behave(slow="out of memory")
    code, out, _ = start(*ray, "--output", "s3://bucket/ray", "--json").finish()

    document: dict[str, Any] = json.loads(out)
    told = {job["problems"][0]["message"] for job in document["jobs"]}
    assert (code, document["counts"]) == (5, {"failed": 1})
    cause = "the accelerator ran out of memory"
    assert told == {f"the slow phase failed (SimpleTuner returned 1): {cause}"}
    assert {"logs/p00.log", "logs/p00/glance-slow.log", "batch.json"} <= objects("ray")
    trainer.behave()
    code, out, err = start(*ray, "--output", "s3://bucket/ray", "--json").finish()
    document = json.loads(out)
    assert (code, document["counts"]) == (0, {"done": 1}), err
    assert document["jobs"][0]["run"] == "s3://bucket/ray/p00"
    lora = "output/glance-fast/pytorch_lora_weights.safetensors"
    assert {f"p00/{lora}", "p00/glance.json"} <= objects("ray")


def test_an_address_without_a_cluster_is_told_at_once(start: Start) -> None:
    write_pairs(1)

    code, _, err = start("--ray", "127.0.0.1:1").finish()

    assert code == 3
    assert "error: --ray 127.0.0.1:1: no Ray answers there (Connection refused)\n  hint: " in err
