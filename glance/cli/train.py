"""`glance train`: from one picture and its caption to two LoRAs."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._options import (
    BaseOption,
    CaptionOption,
    CropOption,
    DeviceChoice,
    DeviceOption,
    DevicesOption,
    DryRunOption,
    EventsOption,
    FamilyOfModelOption,
    FastStepsOption,
    FastTimestepsOption,
    JsonOption,
    LauncherChoice,
    LauncherOption,
    ModelOption,
    OverridesOption,
    PhaseChoice,
    PhaseOption,
    PresetChoice,
    PresetOption,
    QuietOption,
    ReferenceOption,
    ResolutionOption,
    RestartOption,
    ScheduleOption,
    SlowStepsOption,
    SlowTimestepsOption,
    StopWithinOption,
    TeacherStepsOption,
    TrainingSeedOption,
    TrustOption,
    VerboseOption,
)
from glance.cli._plans import show_plan, training_rows
from glance.cli.console import Console
from glance.core.events import EventSink, Noted

if TYPE_CHECKING:
    from glance.evaluation.report import Report
    from glance.training.execute import TrainingResult


def train(
    image: Annotated[Path, typer.Option(help="The picture to train on.")],
    caption: CaptionOption = None,
    reference: ReferenceOption = None,
    family: FamilyOfModelOption = None,
    model: ModelOption = None,
    base: BaseOption = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: runs/ and the picture's name."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps a phase.")] = 60,
    rank: Annotated[int, typer.Option(help="LoRA rank; alpha is 4 times it.")] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Default: the method's for the family."),
    ] = None,
    resolution: ResolutionOption = None,
    crop: CropOption = "whole",
    seed: TrainingSeedOption = 1,
    schedule: ScheduleOption = "guide",
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    slow_steps: SlowStepsOption = None,
    fast_steps: FastStepsOption = None,
    teacher_steps: TeacherStepsOption = None,
    phase: PhaseOption = PhaseChoice.BOTH,
    device: DeviceOption = DeviceChoice.AUTO,
    devices: DevicesOption = "0",
    preset: PresetOption = PresetChoice.GB24,
    sample_every: Annotated[
        int | None,
        typer.Option(help="Let SimpleTuner paint every so many steps, with one LoRA. Takes time."),
    ] = None,
    sample_prompt: Annotated[
        str | None, typer.Option(help="What it paints. Default: the caption.")
    ] = None,
    overrides: OverridesOption = None,
    dry_run: DryRunOption = False,
    restart: RestartOption = False,
    launcher: LauncherOption = LauncherChoice.SIMPLETUNER,
    trust: TrustOption = False,
    stop_within: StopWithinOption = 60.0,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="At the end, paint with the pair and without: did it help?"),
    ] = False,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train the slow and the fast LoRA with SimpleTuner.

    Everything lands in a run folder. The same command again continues where it stopped and skips
    what is done. Ctrl-C stops at the next checkpoint, a second one at once.

    Examples:

    glance train --image data/glance.png

    glance train --image data/glance.png --device cuda --dry-run
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.schedule.options import ScheduleOptions
    from glance.training.plan import plan_training
    from glance.training.request import Launcher, TrainRequest

    plan = plan_training(
        TrainRequest(
            image=image,
            caption=caption,
            reference=reference,
            run=run,
            family=family,
            model=model,
            base=base,
            steps=steps,
            rank=rank,
            learning_rate=learning_rate,
            resolution=resolution,
            crop=crop,
            seed=seed,
            schedule=ScheduleOptions(
                name=schedule,
                slow_timesteps=slow_timesteps,
                fast_timesteps=fast_timesteps,
                slow_steps=slow_steps,
                fast_steps=fast_steps,
                teacher_steps=teacher_steps,
            ),
            phases=phase.phases,
            device=device.value,
            devices=devices,
            preset=preset.value,
            sample_every=sample_every,
            sample_prompt=sample_prompt,
            overrides=tuple(overrides or ()),
            restart=restart,
            launcher=Launcher(launcher.value),
            trust=trust,
            stop_within=stop_within,
        )
    )
    if dry_run:
        for warning in plan.warnings:
            console.warn(warning)
        show_plan(console, training_rows(plan), plan.to_json())
        return
    from glance.training.execute import run_training

    with console.progress(events) as on_event:
        result = run_training(plan, on_event)
        console.result(str(result.run.path))
        for line in result.summarise():
            console.note(line)
        for samples in filter(Path.is_dir, map(result.run.samples, plan.phases)):
            console.note(f"what SimpleTuner painted while it trained: {samples}")
        report = _try_pair(result, on_event) if compare else None
    compared = {} if report is None else {"comparison": report.to_json()}
    console.document({**result.to_json(), **compared})
    if report is not None:
        console.note(f"the sheet to look at: {report.sheet}")
        console.result(report.verdict.sentence)
    if result.manifest.is_finished:
        edited = " --reference x.png" if plan.reference else ""
        path = quote(str(result.run.path))
        console.note(f'next: glance infer --run {path} --prompt "..."{edited}')
        console.note("fewer steps, with a gain that can be measured: glance distill --help")


def _try_pair(result: "TrainingResult", on_event: EventSink) -> "Report | None":
    """Compare the pair with its base model; None while a phase is still to be trained."""
    if not result.manifest.is_finished:
        on_event(Noted("there is no pair to compare yet: one phase is still to be trained"))
        return None
    from glance.evaluation.compare import try_pair

    return try_pair(result.run, on_event)
