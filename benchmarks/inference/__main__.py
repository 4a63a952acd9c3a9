"""Runs the rounds and prints the tables."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.inference.report import Round, pictures, ratios, seconds
from benchmarks.inference.ways import WAYS


def main() -> None:
    """Print what each way took, and what that says."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        call("model", str(folder))
        rounds = [run_round(number, folder) for number in range(count)]
        parts = seconds(rounds), ratios(rounds), pictures(folder)
    sys.stdout.write("\n\n".join(parts) + "\n")


def run_round(number: int, folder: Path) -> Round:
    """Run every way once, in an order of the round's own."""
    done: Round = {}
    for way in random.Random(number).sample(list(WAYS), len(WAYS)):
        done[way] = run_way(way, folder)
        sys.stderr.write(f"{number + 1}: {way}: {done[way]['total']:.1f} s\n")
    return done


def run_way(way: str, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own, and return what it measured of itself."""
    measured: dict[str, float] = json.loads(call("ways", way, str(folder)).splitlines()[-1])
    return measured


def call(module: str, *arguments: str) -> str:
    """Run a module of this package on one thread, and return what it printed.

    The model is made by another process too: a child's peak memory is never below what its parent
    held when it was started.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.inference.{module}", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
