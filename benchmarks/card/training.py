"""What training takes: real SimpleTuner on random weights as large as FLUX.1-dev's.

The card's memory is what its driver counts, all processes together: nobody else should be on it.
"""

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch

from benchmarks.card.figures import (
    CARD_GB,
    START,
    STEP,
    SYSTEM_GB,
    TRAINING,
    name_training,
)
from benchmarks.card.models import Situation, write_model
from benchmarks.result import Column, Figure, Ratio, Result, Row, summarise
from benchmarks.rounds import ROOT, SMALL_MODEL
from glance.core.device import Device, cuda_memory, speed
from glance.core.errors import TrainingFailed
from glance.core.events import Event, StageEntered, StepDone
from glance.core.phase import Phase
from glance.runs.settings import TrainSettings
from glance.sampling.prompts import teaching_prompts
from glance.schedule.options import ScheduleOptions
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.execute import run_training
from glance.training.machine import estimate, memory_options, seconds_a_step
from glance.training.plan import TrainingPlan, plan_training
from glance.training.recording import record, run_distillation
from glance.training.request import DistillRequest, Launcher, TrainRequest
from glance.training.simpletuner.config import TARGETS_VARIABLE, receipt_file
from glance.training.simpletuner.runner import Job, ProcessRunner

_PICTURE: Final = ROOT / "data" / "glance.png"
_STEPS: Final = 8
_TINY_RANK: Final = 4
_USUAL_STEPS: Final = 60  # of `glance train`: what a start is compared with
_PATHS: Final = 4
_GIGA: Final = 1e9
_OTHERS: Final = 1e9  # bytes of a card that torch does not have: as `--vram` reckons
_TICK: Final = 0.2  # seconds between two looks at the card
_FRACTION: Final = "per_process_memory_fraction"


def write(here: Situation) -> Iterator[Result]:
    """Write the random model to the disk, once for all that load it from there."""
    began = time.perf_counter()
    write_model(here)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in here.model.rglob("*") if path.is_file())
    columns = {"seconds": seconds, "GB on the disk": size / _GIGA}
    yield Result(
        name="card, the model on the disk",
        compares="Random weights, made on the card and written.",
        rounds=1,
        columns=tuple(Column(name=name, digits=1) for name in columns),
        rows=(Row(name="write", figures={k: summarise([v]) for k, v in columns.items()}),),
        ratios=(),
    )


# --- presets and launchers -----------------------------------------------------------------------


def train_preset(here: Situation, vram: str, launcher: str) -> Iterator[Result]:
    """Train the slow LoRA for some steps on a pretended card of `vram` gigabytes."""
    plan = _plan(here, here.work / "runs" / f"{vram}-{launcher}", vram, Launcher(launcher))
    precision = str(memory_options(plan.settings)["base_model_precision"])
    name = name_training(vram, precision, launcher)
    with _pretending(here, int(vram)) as is_pretended:
        try:
            taken = _train(here, plan)
        except TrainingFailed as exc:
            if "out of memory" not in str(exc):
                raise
            taken = None
    figures = {} if taken is None else taken.figures
    said = _said(plan.settings)
    shown = {quantity: one for quantity, one in said.items() if quantity in figures}
    stages = "" if taken is None else f": {taken.stages}"
    cap = "had as much as such a card has, less 1 GB" if is_pretended else "had the whole card"
    yield Result(
        name=TRAINING,
        compares=f"{_describe_model(here)}, one picture at {plan.settings.resolution} pixels, rank "
        f"{plan.settings.rank}, real SimpleTuner.",
        rounds=1,
        columns=_COLUMNS,
        rows=(Row(name=name, figures=figures, instead="does not fit" if not figures else None),),
        ratios=tuple(
            Ratio(
                name=f"said / measured, {quantity}, {name}",
                figure=summarise([one / figures[quantity].median]),
            )
            for quantity, one in shown.items()
        ),
        notes=(f"{name} {cap}{stages}.",),
    )


@dataclass(frozen=True, slots=True)
class _Taken:
    figures: Mapping[str, Figure]
    stages: str
    """What SimpleTuner said it was doing, and for how long."""


def _plan(here: Situation, run: Path, vram: str, launcher: Launcher) -> TrainingPlan:
    return plan_training(
        TrainRequest(
            image=(_PICTURE,),
            run=run,
            model=str(here.model),
            steps=2 if here.is_tiny else _STEPS,
            rank=_TINY_RANK if here.is_tiny else None,
            resolution=here.side,
            vram=vram,
            device=here.device.value,
            launcher=launcher,
            phases=(Phase.SLOW,),
            restart=True,
        )
    )


def _train(
    here: Situation,
    plan: TrainingPlan,
    *,
    runner: ProcessRunner | None = None,
    make_ready: Callable[[], None] | None = None,
) -> _Taken:
    """Train, and return what that took."""
    began = time.monotonic()
    stages: list[tuple[str, float]] = []
    steps: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(time.monotonic())
        elif isinstance(event, StageEntered):
            here.tell(event.label)
            stages.append((event.label, time.monotonic()))

    with _watching_card(here.device) as seen:
        result = run_training(plan, on_event, runner=runner, make_ready=make_ready)
    shutil.rmtree(plan.run.path, ignore_errors=True)
    took = result.manifest.phases[Phase.SLOW].measured
    if len(steps) < 2:  # a pace takes two
        raise RuntimeError(f"SimpleTuner told of {len(steps)} steps")
    pace = (steps[-1] - steps[0]) / (len(steps) - 1)
    start = steps[0] - began
    figures = {
        START: start,
        STEP: pace,
        _SHARE: 100 * start / (start + _USUAL_STEPS * pace),
        **({} if took.peak_bytes is None else {SYSTEM_GB: took.peak_bytes / _GIGA}),
        **({CARD_GB: max(seen) / _GIGA} if seen else {}),
    }
    return _Taken(
        {name: summarise([one]) for name, one in figures.items()}, _tell_stages(stages, steps[0])
    )


def _tell_stages(stages: Sequence[tuple[str, float]], first_step: float) -> str:
    """Say how long each stage lasted of those that took a second, until the first step."""
    lasted: Counter[str] = Counter()
    before = [one for one in stages if one[1] < first_step]
    for (label, at), (_, end) in pairwise([*before, ("", first_step)]):
        lasted[label] += round(end - at)
    return ", ".join(f"{label} {seconds} s" for label, seconds in lasted.items() if seconds)


def _said(settings: TrainSettings) -> dict[str, float]:
    """Return what `--dry-run` says of the same."""
    reckoned, pace = estimate(settings), speed(settings.device)
    return {
        SYSTEM_GB: reckoned.system,
        **({} if reckoned.gpu is None else {CARD_GB: reckoned.gpu}),
        **({} if pace is None else {STEP: seconds_a_step(settings, pace)}),
    }


def _describe_model(here: Situation) -> str:
    if here.is_tiny:
        return "A tiny FLUX with random weights"
    return "FLUX.1-dev's architecture with random weights"


# --- what a distilling step costs ----------------------------------------------------------------


class _Untaught(ProcessRunner):
    """Lets SimpleTuner train on the pictures, as it would without glance."""

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        environment = {k: v for k, v in job.environment.items() if k != TARGETS_VARIABLE}
        code = super().run(replace(job, environment=environment), on_line)
        (job.folder / receipt_file(Phase.SLOW)).touch()  # else glance takes no LoRA
        return code


def compare_steps(here: Situation) -> Iterator[Result]:
    """Train on recorded targets and, with the same pictures, as SimpleTuner does by itself."""
    rows: dict[str, _Taken] = {}
    for name, runner in {_OWN_STEP: _Untaught, _TAUGHT_STEP: ProcessRunner}.items():
        plan = _plan_distillation(here, here.work / "runs" / "teach")
        taken = _train(
            here,
            plan.training,
            runner=runner(),
            make_ready=partial(record, plan, lambda _: None),
        )
        rows[name] = taken
    ratio = rows[_TAUGHT_STEP].figures[STEP].median / rows[_OWN_STEP].figures[STEP].median
    yield Result(
        name="card, a distilling step",
        compares=f"{_describe_model(here)}: the slow LoRA on {_PATHS} recorded paths, with and "
        "without the recorded targets, four samples a step. The start holds the recording.",
        rounds=1,
        columns=_COLUMNS,
        rows=tuple(Row(name=name, figures=one.figures) for name, one in rows.items()),
        ratios=(Ratio(name=f"{_TAUGHT_STEP} / {_OWN_STEP}", figure=summarise([ratio])),),
        notes=tuple(f"{name}: {one.stages}." for name, one in rows.items()),
    )


def _plan_distillation(here: Situation, run: Path) -> DistillationPlan:
    prompts = teaching_prompts(_PATHS, world=here.is_tiny)
    side = here.side
    return plan_distillation(
        DistillRequest(
            prompts=prompts,
            model=str(here.model),
            run=run,
            sizes=(f"{side}x{side}",),
            schedule=ScheduleOptions(teacher_steps=4),
            steps=2 if here.is_tiny else _STEPS,
            rank=_TINY_RANK if here.is_tiny else None,
            batch_size=1 if here.is_tiny else None,
            phases=(Phase.SLOW,),
            device=here.device.value,
            launcher=Launcher.DIRECT,
            compares=False,
            restart=True,
        )
    )


# --- the demo's pair -----------------------------------------------------------------------------


def distil_small(here: Situation) -> Iterator[Result]:
    """Distil the small model of the package by `glance distill`, and say what the pair is worth."""
    prompts = teaching_prompts(2 if here.is_tiny else 128, world=True)
    run = here.work / "runs" / "small"
    shutil.rmtree(run, ignore_errors=True)
    began = time.perf_counter()
    plan = plan_distillation(
        DistillRequest(
            prompts=prompts,
            model=str(SMALL_MODEL),
            run=run,
            device=here.device.value,
            launcher=Launcher.DIRECT,
            schedule=ScheduleOptions(teacher_steps=4 if here.is_tiny else None),
            steps=2 if here.is_tiny else None,
            rank=_TINY_RANK if here.is_tiny else None,
            batch_size=1 if here.is_tiny else None,
            compares=not here.is_tiny,
        )
    )
    report = run_distillation(plan, lambda _: None).report
    seconds = time.perf_counter() - began
    figures = {"seconds": summarise([seconds])}
    notes: tuple[str, ...] = ()
    if report is not None:
        verdict = report.verdict.to_json()["distance"]
        figures |= {name: summarise([verdict[name]]) for name in ("base", "pair")}
        low, high = verdict["interval"]
        figures["difference"] = Figure(median=verdict["difference"], least=low, greatest=high)
        notes = (f"On the card: {report.verdict.sentence}",)
    shutil.rmtree(run, ignore_errors=True)
    yield Result(
        name="card, the small model distilled",
        compares="`glance distill --model small-flux`, all of it, the start of both trainings too.",
        rounds=1,
        columns=tuple(
            Column(name=name, digits=0 if name == "seconds" else 3, shows_spread=name[0] == "d")
            for name in figures
        ),
        rows=(Row(name="a pair of four steps", figures=figures),),
        ratios=(),
        notes=notes,
    )


# --- a pretended card ----------------------------------------------------------------------------


@contextmanager
def _pretending(here: Situation, gibibytes: int) -> Iterator[bool]:
    """Let torch have no more in processes started inside than a card of that size has.

    Yields whether that can be done: not on a card of that size, nor by an older torch.
    """
    share = _share(here, gibibytes)
    if share is None:
        yield False
        return
    name = "PYTORCH_CUDA_ALLOC_CONF"
    before = os.environ.get(name)
    os.environ[name] = ",".join(filter(None, (before, f"{_FRACTION}:{share:.4f}")))
    try:
        yield True
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _share(here: Situation, gibibytes: int) -> float | None:
    if here.device is not Device.CUDA:
        return None
    total, wanted = cuda_memory() or 0, gibibytes * 2**30 - _OTHERS
    try:
        torch._C._accelerator_setAllocatorSettings(f"{_FRACTION}:1.0")
    except (AttributeError, ValueError):
        return None
    return wanted / total if wanted < total else None


@contextmanager
def _watching_card(device: Device) -> Iterator[list[float]]:
    """Fill the list with the bytes in use above what they were at first, as the driver counts."""
    seen: list[float] = []
    program = shutil.which("nvidia-smi")
    if device is not Device.CUDA or program is None:
        yield seen
        return
    number = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    query = ("--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={number}")
    looking = subprocess.Popen(
        [program, *query, f"--loop-ms={_TICK * 1000:.0f}"], stdout=subprocess.PIPE, text=True
    )

    def look() -> None:
        assert looking.stdout is not None
        at_first: float | None = None
        for line in looking.stdout:
            with suppress(ValueError):  # "[N/A]"
                used = float(line) * 2**20
                at_first = used if at_first is None else at_first
                seen.append(used - at_first)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        looking.terminate()
        looking.wait()
        watcher.join(timeout=1)


_SHARE: Final = f"the start, % of {_USUAL_STEPS} steps and it"
_OWN_STEP: Final = "a step of SimpleTuner's own"
_TAUGHT_STEP: Final = "a step on recorded targets"
_COLUMNS: Final = (
    Column(name=START, digits=0),
    Column(name=STEP, digits=2),
    Column(name=_SHARE, digits=0),
    Column(name=CARD_GB, digits=1),
    Column(name=SYSTEM_GB, digits=1),
)
