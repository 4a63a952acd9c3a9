"""What it costs to start a command that loads no model, next to Python alone.

`uv run python benchmarks/startup.py [ROUNDS]`. The commands run in turn, round by round, so that
a machine whose speed drifts treats them alike; figures are medians of seconds and of the
difference to `python -c pass` in the same round.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = (sys.executable, "-c", "pass")
GLANCE = (sys.executable, "-m", "glance")
COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": PYTHON,
    "glance --help": (*GLANCE, "--help"),
    "glance schedule": (*GLANCE, "schedule"),
    "glance check": (*GLANCE, "check", "data/glance.png"),
    "glance train --dry-run": (
        *(*GLANCE, "train", "--image", "data/glance.png"),
        *("--device", "cuda", "--dry-run"),
    ),
}


def run(command: tuple[str, ...]) -> float:
    """Return the seconds that one start takes."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for command in COMMANDS.values():
        run(command)  # a first one to fill the disk's cache
    seconds = [{name: run(command) for name, command in COMMANDS.items()} for _ in range(rounds)]
    lines = ["| command | seconds | above Python |", "|---|---|---|"]
    for name in COMMANDS:
        median = statistics.median(one[name] for one in seconds)
        above = statistics.median(one[name] - one["python -c pass"] for one in seconds)
        lines.append(f"| `{name}` | {median:.3f} | {above:.3f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
