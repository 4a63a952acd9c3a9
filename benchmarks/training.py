"""What glance adds to SimpleTuner's two commands, and what a direct start saves."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import PICTURE, SMALL_MODEL, Conditions, call, interleave
from glance.core.files import write_json
from glance.core.phase import Phase
from glance.runs.sample import stage_sample
from glance.training.machine import find_program
from glance.training.plan import TrainingPlan, plan_training
from glance.training.request import Launcher, TrainRequest
from glance.training.simpletuner.config import build_command
from glance.training.simpletuner.process import build_environment

_BY_HAND: Final = "SimpleTuner's two commands"
_GLANCE: Final = "glance train"
_DIRECT: Final = "glance train --launcher direct"
_GOALS: Final = {_GLANCE: Goal(at_most=1.05), _DIRECT: Goal(at_most=0.45)}
_WITHOUT_PINNING: Final = """import torch

if not torch.accelerator.is_available():
    torch.Tensor.pin_memory = lambda self, *args, **kwargs: self
"""
"""All that SimpleTuner 4.10 needs of others, as a sitecustomize: it cannot train on a CPU else."""
_RANK, _RESOLUTION = 4, 64
_STEPS, _QUICK_STEPS = 10, 2


def measure(conditions: Conditions) -> Result:
    """Train both phases of the small model of the package three times a round.

    With SimpleTuner's two commands by hand, in a folder that holds the files which `glance train
    --dry-run` shows, and with nothing of glance's in its process; with `glance train`; and with
    `glance train --launcher direct`.
    """
    steps = _QUICK_STEPS if conditions.is_quick else _STEPS
    command = _command(conditions, steps)
    ways: Mapping[str, Callable[[], float]] = {
        _BY_HAND: partial(_seconds, partial(_train_by_hand, conditions, steps)),
        _GLANCE: partial(_seconds, partial(call, command)),
        _DIRECT: partial(_seconds, partial(call, (*command, "--launcher", "direct"))),
    }
    rounds = interleave(ways, conditions, first=[_DIRECT])
    ratios = (
        Ratio(
            name=f"{name} / {_BY_HAND}",
            figure=summarise(one[name] / one[_BY_HAND] for one in rounds),
            goal=goal,
        )
        for name, goal in _GOALS.items()
    )
    return Result(
        name="training",
        compares=f"Both phases of the small model of the package, {steps} steps each.",
        rounds=len(rounds),
        columns=(Column(name="seconds", digits=1, shows_spread=True),),
        rows=tuple(
            Row(name=name, figures={"seconds": summarise(one[name] for one in rounds)})
            for name in ways
        ),
        ratios=tuple(ratios),
    )


def _seconds(train: Callable[[Path], object]) -> float:
    """Return the seconds that one training takes, in a folder of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.perf_counter()
        train(Path(folder))
        return time.perf_counter() - began


def _command(conditions: Conditions, steps: int) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "glance", "train", "--image", str(PICTURE), "--quiet"),
        *("--model", str(SMALL_MODEL), "--device", conditions.device.value, "--run", "run"),
        *("--resolution", str(_RESOLUTION), "--steps", str(steps), "--rank", str(_RANK)),
    )


def _train_by_hand(conditions: Conditions, steps: int, folder: Path) -> None:
    """Do what somebody does who has the files and knows how SimpleTuner is started."""
    plan = plan_training(
        TrainRequest(
            image=(PICTURE,),
            run=folder / "run",
            model=str(SMALL_MODEL),
            steps=steps,
            rank=_RANK,
            resolution=_RESOLUTION,
            device=conditions.device.value,
        )
    )
    run = plan.run
    for name, content in plan.files.items():
        write_json(run.path / name, content)
    for sample in plan.samples:
        stage_sample(sample, plan.stage(sample))
    for phase in Phase:
        _run_by_hand(plan, phase, conditions)


def _run_by_hand(plan: TrainingPlan, phase: Phase, conditions: Conditions) -> None:
    program = find_program(Launcher.SIMPLETUNER)
    environment = build_environment(
        os.environ,
        phase=phase,
        launcher=Launcher.SIMPLETUNER,
        program=program,
        device=conditions.device,
        model=plan.model_elsewhere,
        mixed_precision=plan.trainer_config(phase)["mixed_precision"],
        seed=plan.settings.seed,
        webhook="",
        needs_hub=False,
    )
    shim = plan.run.path / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(_WITHOUT_PINNING)
    command = [str(program), *build_command(phase)[1:]]
    call(command, plan.run.path, {**environment, "PYTHONPATH": str(shim)})
    if not plan.run.lora(phase).exists():
        raise RuntimeError(f"SimpleTuner's {phase} phase by hand left no LoRA")
