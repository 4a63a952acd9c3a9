"""What Ray adds to a batch: on one node that trains one pair at a time, next to this machine's
queue.

`uv run python -m benchmarks.batch_ray` instead kills one: twenty pairs, two of them without a
caption, by real SimpleTuner on a Ray of two nodes. A worker, then `glance` itself, then a node are
killed with SIGKILL at random moments. It prints what became of the jobs as JSON.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.batch import count_made, write_pairs
from benchmarks.ray_nodes import Nodes
from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import SMALL_MODEL, Conditions, call, interleave
from glance.core.device import Device, cpu_cores

_LOCAL: Final = "glance batch train"
_RAY: Final = "glance batch train --ray"
_GOAL: Final = Goal(at_most=1.05)
_PAIRS, _QUICK_PAIRS = 4, 1
_STEPS, _QUICK_STEPS = 10, 2
_BROKEN: Final = (6, 13)
"""Which pairs have no caption."""
_BETWEEN: Final = (20.0, 90.0)
"""Seconds between what is killed and what is killed next."""
_LINGERS: Final = 20.0
"""Seconds that what is left of somebody who was killed may take to end."""


def measure(conditions: Conditions) -> Result:
    """Train some pairs of the small model of the package by both, one at a time, with all cores.

    The cluster is there before, as it is for whoever has one; that it is joined counts.
    """
    pairs = _QUICK_PAIRS if conditions.is_quick else _PAIRS
    steps = _QUICK_STEPS if conditions.is_quick else _STEPS
    nodes = Nodes(cpu_cores(), {})
    try:
        train = partial(_seconds, pairs, _options(steps))
        ways: Mapping[str, Callable[[], float]] = {
            _LOCAL: train,
            _RAY: partial(train, "--ray", nodes.address),
        }
        rounds = interleave(ways, conditions, first=[_LOCAL, _RAY])
    finally:
        nodes.close()
    ratio = summarise(one[_RAY] / one[_LOCAL] for one in rounds)
    return Result(
        name="batch_ray",
        compares=f"{pairs} pairs of the small model of the package, {steps} steps each.",
        rounds=len(rounds),
        columns=(Column(name="seconds", digits=1, shows_spread=True),),
        rows=tuple(
            Row(name=name, figures={"seconds": summarise(one[name] for one in rounds)})
            for name in ways
        ),
        ratios=(Ratio(name=f"{_RAY} / {_LOCAL}", figure=ratio, goal=_GOAL),),
    )


def _options(steps: int) -> tuple[str, ...]:
    return (
        *("--model", str(SMALL_MODEL), "--device", Device.CPU.value, "--resolution", "64"),
        *("--steps", str(steps), "--rank", "4", "--launcher", "direct", "--no-sheet"),
    )


def _command(*options: str) -> list[str]:
    return [sys.executable, "-m", "glance", "batch", "train", "pairs", "--quiet", *options]


def _seconds(pairs: int, options: tuple[str, ...], *more: str) -> float:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_pairs(Path(folder, "pairs"), pairs)
        began = time.perf_counter()
        call(_command(*options, *more), Path(folder))
        return time.perf_counter() - began


# --- killed at random -----------------------------------------------------------------------------


def kill_at_random(*, pairs: int, seed: int) -> dict[str, Any]:
    """Train pairs of which two are broken, kill whatever can be, and return what became of them."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, _two_nodes() as nodes:
        folder = Path(name)
        write_pairs(folder / "pairs", pairs)
        for number in _BROKEN:
            (folder / f"pairs/pair-{number:02}.txt").unlink()
        command = _command(*_options(5), "--ray", nodes.address)
        killed, left, began = [], 0, time.monotonic()

        def start() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)

        process = start()
        for kill in (_kill_worker, _kill_driver, _kill_node):
            time.sleep(chance.uniform(*_BETWEEN))
            below = kill(nodes, process)
            killed.append(f"{kill.__name__[6:]} after {time.monotonic() - began:.0f} s")
            _, alive = psutil.wait_procs(below, timeout=_LINGERS)
            left += len(alive)
            if process.poll() is not None:
                process = start()
        code = process.wait()
        record = json.loads((folder / "runs/pairs/batch.json").read_text(encoding="utf-8"))
        return {
            "exit_code": code,
            "counts": record["counts"],
            "refused": [job["name"] for job in record["jobs"] if job["state"] == "refused"],
            "killed": killed,
            "processes_left": left,
            "loras_made": count_made(folder),
            "seconds": round(time.monotonic() - began),
        }


@contextmanager
def _two_nodes() -> Iterator[Nodes]:
    nodes = Nodes(1, {"OMP_NUM_THREADS": str(max(1, cpu_cores() // 2))})
    try:
        nodes.add({})
        yield nodes
    finally:
        nodes.close()


def _kill_worker(nodes: Nodes, _: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Kill a worker that trains; return what runs below it."""
    workers = _wait_for(nodes.workers)
    worker = max(workers, key=lambda one: len(one.children(recursive=True)))
    below = worker.children(recursive=True)
    worker.kill()
    return list(below)


def _kill_driver(_: Nodes, process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    process.kill()
    process.wait()
    return []


def _kill_node(nodes: Nodes, _: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Kill a node that trains; return what runs on it."""
    _wait_for(nodes.is_at_work)
    below = nodes.list_processes()
    nodes.kill()
    return below


def _wait_for[T](find: Callable[[], T]) -> T:
    while not (found := find()):
        time.sleep(0.1)
    return found


def main() -> None:
    """Kill a batch on Ray, and print what became of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20261129)
    given = parser.parse_args()
    result = kill_at_random(pairs=given.pairs, seed=given.seed)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
