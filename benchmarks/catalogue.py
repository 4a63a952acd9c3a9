"""Which benchmarks there are, how long they take, and how each is started."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import batch, batch_infer, batch_ray, distillation, memory, startup, training
from benchmarks.inference import measure as inference
from benchmarks.result import Result
from benchmarks.rounds import Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One whose result joins the record of the day."""

    summary: str
    rounds: int
    takes: str
    """On two cores, all rounds."""
    measure: Callable[[Conditions], Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class LongBenchmark:
    """One that takes hours and writes a page of its own."""

    summary: str
    takes: str
    """On two cores."""
    page: str
    needs_work: bool
    """Whether it keeps what it has made in a folder, to go on from there."""
    takes_rounds: bool

    def command(self, name: str, *, work: Path | None, rounds: int | None) -> list[str]:
        """Return the command line that runs it."""
        options = ["--work", str(work)] if self.needs_work else []
        if self.takes_rounds and rounds is not None:
            options.append(str(rounds))
        return [sys.executable, "-m", f"benchmarks.{name}", *options]


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "startup": Benchmark(
        summary="commands that load no model, next to Python alone",
        rounds=11,
        takes="20 seconds",
        measure=startup.measure,
    ),
    "inference": Benchmark(
        summary="sampling by glance, by the guide and by hand, part by part",
        rounds=5,
        takes="15 minutes",
        measure=inference.measure,
    ),
    "memory": Benchmark(
        summary="memory and time of a training, against what --dry-run says",
        rounds=1,
        takes="5 minutes",
        measure=memory.measure,
    ),
    "distillation": Benchmark(
        summary="recording, next to plain sampling; steps on recorded targets, next to others",
        rounds=5,
        takes="25 minutes",
        measure=distillation.measure,
    ),
    "training": Benchmark(
        summary="glance train, next to SimpleTuner's own two commands",
        rounds=5,
        takes="20 minutes",
        measure=training.measure,
    ),
    "batch": Benchmark(
        summary="glance batch train, next to its trainings one after the other",
        rounds=3,
        takes="15 minutes",
        measure=batch.measure,
    ),
    "batch_ray": Benchmark(
        summary="glance batch train on a Ray of one node, next to this machine's queue",
        rounds=3,
        takes="15 minutes",
        measure=batch_ray.measure,
    ),
    "batch_infer": Benchmark(
        summary="glance batch infer, next to glance infer for each run",
        rounds=3,
        takes="5 minutes",
        measure=batch_infer.measure,
    ),
}
LONG: Final[Mapping[str, LongBenchmark]] = {
    "evidence": LongBenchmark(
        summary="what pairs, trained and distilled, do to the small model of the package",
        takes="5 hours",
        page="docs/evidence.md",
        needs_work=True,
        takes_rounds=False,
    ),
    "reliability": LongBenchmark(
        summary="trainings that are killed or find the disk full, and are run again",
        takes="two hours",
        page="docs/reliability.md",
        needs_work=False,
        takes_rounds=True,
    ),
}


def describe_all() -> str:
    """Return a line for each benchmark."""
    lines = [
        f"{name:11}  {one.takes:10}  {one.rounds:2} x        {one.summary}"
        for name, one in BENCHMARKS.items()
    ]
    lines += [
        f"{name:11}  {one.takes:10}  with --all  {one.summary}; writes {one.page}"
        for name, one in LONG.items()
    ]
    return "\n".join(lines)
