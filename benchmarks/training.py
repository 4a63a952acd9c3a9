"""What glance adds to a training, and what a direct start saves, side by side.

`uv run python -m benchmarks.training [ROUNDS]`. Each round trains both phases of the small model of
the package three times, in a new order: with SimpleTuner's two commands by hand, in a folder that
holds the files which `glance train --dry-run` shows; with `glance train`; and with `glance train
--launcher direct`. Figures are medians of seconds, and of the ratio to SimpleTuner's in the same
round. About three minutes a round on two cores.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from glance.device import Device
from glance.files import write_json
from glance.run import RunFolder
from glance.sample import stage_sample
from glance.schedule import Phase
from glance.simpletuner.command import (
    Launcher,
    Start,
    build_command,
    build_environment,
    find_program,
)
from glance.training.plan import plan_training
from glance.training.request import TrainingPlan, TrainRequest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "glance" / "assets"
STEPS = 10
GLANCE = (
    *(sys.executable, "-m", "glance", "train", "--image", str(ASSETS / "sunset.png"), "--quiet"),
    *("--model", str(ASSETS / "small-flux"), "--device", "cpu", "--resolution", "64"),
    *("--steps", str(STEPS), "--rank", "4", "--run", "run"),
)


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ways: dict[str, Callable[[Path], None]] = {
        "SimpleTuner's two commands": by_hand,
        "glance train": lambda folder: call(GLANCE, folder),
        "glance train --launcher direct": lambda folder: call(
            (*GLANCE, "--launcher", "direct"), folder
        ),
    }
    seconds: list[dict[str, float]] = []
    order = list(ways)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        seconds.append({})
        for name in order:
            seconds[-1][name] = measure(ways[name])
            sys.stderr.write(f"{number + 1}: {name}: {seconds[-1][name]:.1f} s\n")
    lines = ["| training | seconds | ratio |", "|---|---|---|"]
    for name in ways:
        median = statistics.median(one[name] for one in seconds)
        ratio = statistics.median(one[name] / one["SimpleTuner's two commands"] for one in seconds)
        lines.append(f"| {name} | {median:.1f} | {ratio:.3f} |")
    sys.stdout.write("\n".join(lines) + "\n")


def measure(train: Callable[[Path], None]) -> float:
    """Return the seconds that one training takes, in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    try:
        began = time.perf_counter()
        train(folder)
        return time.perf_counter() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def call(command: tuple[str, ...], folder: Path) -> None:
    """Run a command in a folder."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def by_hand(folder: Path) -> None:
    """What somebody does who has the files and knows how SimpleTuner is started."""
    plan = make_plan(folder)
    run = plan.run.path
    for name, content in plan.files.items():
        write_json(run / name, content)
    plan.run.data.mkdir()
    stage_sample(plan.sample, plan.run.data, plan.run.references)
    program = find_program(Launcher.SIMPLETUNER)
    for phase in Phase:
        start = Start(
            phase=phase,
            launcher=Launcher.SIMPLETUNER,
            program=program,
            device=Device.CPU,
            mixed_precision="no",
            webhook="",
            needs_hub=False,
        )
        subprocess.run(
            [str(program), *build_command(phase)[1:]],
            cwd=run,
            env=build_environment(os.environ, start),
            check=True,
            capture_output=True,
        )
        assert RunFolder(run).lora(phase).exists()


def make_plan(folder: Path) -> TrainingPlan:
    """Plan what all three train."""
    return plan_training(
        TrainRequest(
            image=ASSETS / "sunset.png",
            run=folder / "run",
            model=str(ASSETS / "small-flux"),
            steps=STEPS,
            rank=4,
            resolution=64,
            device=Device.CPU,
        )
    )


if __name__ == "__main__":
    main()
