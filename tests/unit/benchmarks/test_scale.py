"""The simulation of many pairs: what it reads of a real batch, and what follows from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import JobCost, read_batch, replace_costs, simulate


def tell(job: int, *events: tuple[float, str], code: int = 0) -> list[dict[str, Any]]:
    return [
        {"time": time, "event": name, "job": job}
        | ({"end": {"exit_code": code}} if name == "JobOver" else {})
        for time, name in events
    ]


def test_a_real_batch_is_taken_apart(tmp_path: Path) -> None:
    phases = [(8, "StepDone"), (10, "StepDone"), (11, "PhaseFinished")]
    phases += [(18, "StepDone"), (21, "StepDone"), (22, "PhaseFinished")]
    events = [
        *tell(1, (0, "JobStarted"), *phases, (25, "JobOver")),
        *tell(2, (5, "JobStarted"), (9, "JobOver"), code=5),
        *tell(3, (20, "JobStarted"), (30, "StepDone"), (31, "PhaseFinished"), (40, "JobOver")),
        {"time": 1, "event": "Noted"},
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, events)))

    batch = read_batch(path)

    # 8 to the first step, 10 -> 18 to the second phase's; 2 and 3 between steps; 21 -> 25 after
    assert batch.costs == (JobCost(16, 5, 4), JobCost(10, 0, 10))
    assert (batch.wall, batch.workers) == (40, 2)


def test_jobs_go_to_whoever_is_free_and_losses_cost_steps_and_starts() -> None:
    costs = [JobCost(10, 80, 10)]

    alone = simulate(costs, jobs=10, workers=1, losses=0, seed=1)
    four = simulate(costs, jobs=10, workers=4, losses=0, seed=1)
    lossy = simulate(costs, jobs=1000, workers=4, losses=3.6, seed=1)

    assert (alone.wall, alone.start_share) == (1000, pytest.approx(0.1))
    assert (four.wall, four.worker_hours) == (300, alone.worker_hours)
    # a loss in a tenth of the jobs, each about 14 seconds of a hundred
    assert 0.005 < lossy.lost_share < 0.03


def test_another_models_start_and_step_stand_in_for_these() -> None:
    costs = replace_costs([JobCost(10, 20, 1), JobCost(30, 20, 1)], start=100, step=2, steps=60)

    assert costs == [JobCost(100, 240, 1), JobCost(300, 240, 1)]
