"""What many pairs take: a simulation of a batch, from what a real one told.

    glance batch train pictures/ --events events.jsonl
    uv run python -m benchmarks.scale events.jsonl --jobs 10 1000 100000 --workers 1 8 64

Each job of the simulation takes what a drawn one of the real batch took: its start (until the first
step of a phase, both phases), its steps, and the rest. A worker takes the next job when it is free;
it is lost at the rate of `--losses` an hour, with the steps since the last checkpoint, and another
takes the job up after a start. `--start`, `--step` and `--rest` put another model's seconds in
place of these, as docs/memory.md estimates them.

With `--check` the same number of jobs is simulated on the same number of workers as the real batch
had, and its wall time printed beside the real one's; with `--first 4` its first four jobs have to
tell what all of them took.
"""

import argparse
import heapq
import json
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_HOUR: Final = 3600.0
_DRAWS: Final = 20
"""Simulations of which the median is told."""


@dataclass(frozen=True, slots=True)
class JobCost:
    """What one job took, in seconds."""

    start: float
    """From its beginning, and from the end of a phase, to the first step of the next."""
    steps: float
    rest: float
    """From the last step on: saving, checking, comparing."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.start + self.steps + self.rest


@dataclass(frozen=True, slots=True)
class Batch:
    """A real batch, as its events tell it."""

    costs: tuple[JobCost, ...]
    wall: float
    """Seconds from the first job's beginning to the last one's end."""
    workers: int
    """How many jobs ran at once, at most."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated batch takes."""

    wall: float
    worker_hours: float
    start_share: float
    """Of the workers' time, what was no step and nothing after one."""
    lost_share: float
    """Of the workers' time, what was done twice."""


def read_batch(path: Path) -> Batch:
    """Return what a file of `--events` tells of the jobs that ended well."""
    times: dict[int, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        times.setdefault(event["job"], []).append(event) if "job" in event else None
    costs, spans = [], []
    for events in times.values():
        over = events[-1]
        if over["event"] != "JobOver" or over["end"]["exit_code"]:
            continue
        costs.append(_cost(events))
        spans.append((events[0]["time"], over["time"]))
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    running, most = 0, 0
    for _, change in edges:
        running += change
        most = max(most, running)
    wall = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return Batch(tuple(costs), wall, most)


def _cost(events: Sequence[dict[str, Any]]) -> JobCost:
    start = steps = 0.0
    mark = events[0]["time"]
    begun: float | None = None
    for event in events:
        if event["event"] == "StepDone":
            if begun is None:
                begun = event["time"]
                start += begun - mark
            last = event["time"]
        elif event["event"] == "PhaseFinished" and begun is not None:
            steps += last - begun
            mark, begun = last, None
    return JobCost(start, steps, events[-1]["time"] - mark)


def simulate(
    costs: Sequence[JobCost], *, jobs: int, workers: int, losses: float, seed: int
) -> Outcome:
    """Return what `jobs` jobs take on `workers` workers, each lost `losses` times an hour.

    A loss costs the steps since the last checkpoint, half a tenth of them on average, and a start.
    """
    chance = random.Random(seed)
    free = [0.0] * min(workers, jobs)
    starts = lost = busy = 0.0
    for _ in range(jobs):
        cost = chance.choice(costs)
        taken, again = cost.seconds, 0.0
        if losses:
            while chance.expovariate(losses / _HOUR) < taken - again:
                again += cost.start + cost.steps * chance.random() / 10
        starts, lost, busy = starts + cost.start, lost + again, busy + taken + again
        heapq.heappush(free, heapq.heappop(free) + taken + again)
    return Outcome(max(free), busy / _HOUR, starts / busy, lost / busy)


def typical(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the medians."""
    every = list(outcomes)
    names = ("wall", "worker_hours", "start_share", "lost_share")
    return Outcome(*(statistics.median(getattr(one, name) for one in every) for name in names))


def replace_costs(
    costs: Sequence[JobCost],
    *,
    start: float | None,
    step: float | None,
    steps: int,
    rest: float | None = None,
) -> list[JobCost]:
    """Return the costs of another model, spread as these; its start, step and rest in seconds."""
    usual = JobCost(
        statistics.mean(one.start for one in costs),
        statistics.mean(one.steps for one in costs),
        0.0,
    )
    by_start = 1.0 if start is None else 2 * start / usual.start
    by_step = 1.0 if step is None else 2 * steps * step / usual.steps
    return [
        JobCost(one.start * by_start, one.steps * by_step, one.rest if rest is None else rest)
        for one in costs
    ]


def main() -> None:
    """Print a line for each number of jobs and workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=Path)
    parser.add_argument("--jobs", type=int, nargs="+", default=[10, 1000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--losses", type=float, default=0.0, help="of a worker, an hour")
    parser.add_argument("--start", type=float, help="seconds to the first step of a phase")
    parser.add_argument("--step", type=float, help="seconds")
    parser.add_argument("--steps", type=int, default=60, help="of a phase, for --step")
    parser.add_argument("--rest", type=float, help="seconds after the last step")
    parser.add_argument("--check", action="store_true", help="simulate the real batch itself")
    parser.add_argument("--first", type=int, help="draw from so many of the batch's jobs alone")
    given = parser.parse_args()
    batch = read_batch(given.events)
    another = {name: getattr(given, name) for name in ("start", "step", "steps", "rest")}
    costs = replace_costs(batch.costs[: given.first], **another)
    if given.check:
        jobs, workers = [len(batch.costs)], [batch.workers]
        print(f"real: {len(batch.costs)} jobs, {batch.workers} at once: {batch.wall:.0f} s")  # noqa: T201
    else:
        jobs, workers = given.jobs, given.workers
    print("jobs  workers  wall h  worker h  start  twice")  # noqa: T201
    for many in jobs:
        for hands in workers:
            draws = _DRAWS if many <= 10_000 else 1
            one = typical(
                simulate(costs, jobs=many, workers=hands, losses=given.losses, seed=seed)
                for seed in range(draws)
            )
            print(  # noqa: T201
                f"{many:,}  {hands}  {one.wall / _HOUR:,.3f}  {one.worker_hours:,.2f}  "
                f"{one.start_share:.0%}  {one.lost_share:.1%}"
            )


if __name__ == "__main__":
    main()
