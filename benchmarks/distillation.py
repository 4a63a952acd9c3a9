"""What `glance distill` adds to the base model's own sampling, and to SimpleTuner's own steps."""

import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.result import Column, Goal, Ratio, Result, Row, summarise
from benchmarks.rounds import ROOT, SMALL_MODEL, Conditions, call, interleave
from glance.core.device import Device
from glance.core.events import Event, StepDone
from glance.core.phase import Phase
from glance.schedule.options import ScheduleOptions
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.execute import run_training
from glance.training.recording import record
from glance.training.request import DistillRequest, Launcher
from glance.training.simpletuner.config import TARGETS_VARIABLE, receipt_file
from glance.training.simpletuner.runner import Job, ProcessRunner

_PLAIN: Final = "diffusers alone"
_RECORDED: Final = "glance's recording"
_OWN: Final = "a step of SimpleTuner's own"
_TAUGHT: Final = "a step on recorded targets"
_GOALS: Final = {(_RECORDED, _PLAIN): Goal(at_most=1.05), (_TAUGHT, _OWN): Goal(at_most=1.02)}
_PROMPTS, _QUICK_PROMPTS = 8, 2
_TEACHER_STEPS, _QUICK_TEACHER_STEPS = 50, 4
_STEPS, _QUICK_STEPS = 60, 4


def measure(conditions: Conditions) -> Result:
    """Sample and train with the small model of the package, with and without what glance adds.

    The same prompts are sampled by a loop of diffusers' pipeline and recorded, states and pictures
    written, each in a process of its own and after the imports and the loading. The slow LoRA is
    trained on the same pictures by SimpleTuner as it is, and on recorded targets, on one thread;
    of a step the processor's seconds are taken.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        taught = _plan(conditions, Path(folder) / "taught")
        ways: Mapping[str, Callable[[], float]] = {
            _PLAIN: partial(_sample_apart, conditions, "sample"),
            _RECORDED: partial(_sample_apart, conditions, "record"),
            _OWN: partial(_train, taught, _Untaught),
            _TAUGHT: partial(_train, taught, _Taught),
        }
        rounds = interleave(ways, conditions)
    return Result(
        name="distillation",
        compares="The small model of the package: recording, and the slow LoRA's training.",
        rounds=len(rounds),
        columns=(Column(name="seconds", digits=3, shows_spread=True),),
        rows=tuple(
            Row(name=name, figures={"seconds": summarise(one[name] for one in rounds)})
            for name in ways
        ),
        ratios=tuple(
            Ratio(
                name=f"{name} / {other}",
                figure=summarise(one[name] / one[other] for one in rounds),
                goal=goal,
            )
            for (name, other), goal in _GOALS.items()
        ),
    )


def _plan(conditions: Conditions, run: Path) -> DistillationPlan:
    quick = conditions.is_quick
    plan = plan_distillation(
        DistillRequest(
            model=str(SMALL_MODEL),
            run=run,
            noises=1,
            schedule=ScheduleOptions(
                teacher_steps=_QUICK_TEACHER_STEPS if quick else _TEACHER_STEPS
            ),
            steps=_QUICK_STEPS if quick else _STEPS,
            phases=(Phase.SLOW,),
            device=conditions.device.value,
            launcher=Launcher.DIRECT,
            restart=True,
        )
    )
    count = _QUICK_PROMPTS if quick else _PROMPTS
    return replace(plan, paths=plan.paths[:count])


class _Taught(ProcessRunner):
    """Trains as glance does, on one thread: two that wait for each other spend time as well."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        environment = {**job.environment, "OMP_NUM_THREADS": "1"}
        return super().run(replace(job, environment=environment), on_line)


class _Untaught(_Taught):
    """Lets SimpleTuner train on the pictures, as it would without glance."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        environment = {k: v for k, v in job.environment.items() if k != TARGETS_VARIABLE}
        code = super().run(replace(job, environment=environment), on_line)
        (job.folder / receipt_file(Phase.SLOW)).touch()  # else glance takes no LoRA
        return code


def _train(plan: DistillationPlan, runner: type[_Taught]) -> float:
    """Return the processor's seconds a step of the slow phase, from its first step to its last.

    Not the clock's: other guests of a machine make it jump by more than is asked about.
    """
    spent: list[tuple[int, float]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone):
            spent.append((event.step, _spent_by_trainers()))

    run_training(
        plan.training,
        on_event,
        runner=runner(),
        make_ready=lambda: record(plan, lambda _: None),
    )
    (first, before), *_, (last, after) = spent
    return (after - before) / (last - first)


def _spent_by_trainers() -> float:
    """Return the processor's seconds of all processes below this one so far."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def _sample_apart(conditions: Conditions, way: str) -> float:
    quick = "quick" if conditions.is_quick else "whole"
    command = [sys.executable, "-m", "benchmarks.distillation", way, conditions.device.value, quick]
    return float(call(command, ROOT).splitlines()[-1])


def _sample(way: str, conditions: Conditions) -> float:
    """Return the seconds that sampling all paths takes in this process, once it is loaded."""
    import torch

    from benchmarks.inference.meter import choose_clock
    from glance.sampling.generate import load_planned

    torch.set_num_threads(1)
    clock = choose_clock(conditions.device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plan = _plan(conditions, Path(folder) / "run")
        sampler = load_planned(plan.generation)
        _loop(plan, sampler.pipeline, steps=2)  # first calls are slow
        began = clock()
        if way == "sample":
            _loop(plan, sampler.pipeline, steps=plan.teacher.steps)
        else:
            record(plan, lambda _: None, sampler=sampler)
        return clock() - began


def _loop(plan: DistillationPlan, pipeline: Any, *, steps: int) -> None:
    """Paint the same pictures as anybody would: batches of prompts, one noise each."""
    import torch

    size = plan.generation.batch_size
    for start in range(0, len(plan.paths), size):
        some = [one.settings for one in plan.paths[start : start + size]]
        images = pipeline(
            [one.prompt for one in some],
            num_inference_steps=steps,
            guidance_scale=plan.teacher.guidance,
            width=some[0].width,
            height=some[0].height,
            generator=[torch.Generator("cpu").manual_seed(one.seed) for one in some],
        ).images
        for one, image in zip(some, images, strict=True):
            image.save(plan.run.path.parent / f"{one.seed}.png")


if __name__ == "__main__":
    _, way_asked, device_asked, extent = sys.argv
    asked = Conditions(
        device=Device(device_asked), rounds=1, is_quick=extent == "quick", tell=lambda _: None
    )
    sys.stdout.write(f"{_sample(way_asked, asked)}\n")
