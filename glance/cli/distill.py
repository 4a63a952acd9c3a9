"""`glance distill`: the base model teaches two LoRAs to take its many steps in few."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._options import (
    BaseOption,
    DeviceChoice,
    DeviceOption,
    DevicesOption,
    DryRunOption,
    EventsOption,
    FamilyOfModelOption,
    FastTimestepsOption,
    JsonOption,
    LauncherChoice,
    LauncherOption,
    MemoryOption,
    ModelOption,
    OverridesOption,
    PhaseChoice,
    PhaseOption,
    PresetChoice,
    PresetOption,
    QuietOption,
    RestartOption,
    ScheduleOption,
    SlowTimestepsOption,
    StopWithinOption,
    TrainingSeedOption,
    TrustOption,
    VerboseOption,
)
from glance.cli._plans import distillation_rows, show_plan
from glance.cli.console import Console
from glance.core.device import Memory, Quantize

if TYPE_CHECKING:
    pass


def distill(
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What a picture shows; repeatable. Default: 64 varied ones of ours."),
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="Many of them: a text file, one a line, or .jsonl.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Families that edit: the picture to begin with.")
    ] = None,
    family: FamilyOfModelOption = None,
    model: ModelOption = None,
    base: BaseOption = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/ and the model's name.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="WxH of the pictures; repeatable: one pair for all. Default: the family's."
        ),
    ] = None,
    schedule: ScheduleOption = "own",
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    slow_steps: Annotated[
        int | None, typer.Option(help="Steps of the slow phase, for own, auto, optimal: 2.")
    ] = None,
    fast_steps: Annotated[int | None, typer.Option(help="Steps of the fast phase: 2.")] = None,
    noises: Annotated[int, typer.Option(help="Pictures a prompt and size.")] = 2,
    teacher_steps: Annotated[
        int | None, typer.Option(help="Steps that the base model takes: 50.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Of the base model. Default: the family's.")
    ] = None,
    teacher_lora: Annotated[
        list[str] | None,
        typer.Option(
            help="A LoRA that the base model paints with: file, folder, or owner/repo:file; "
            "repeatable."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps a phase.")] = 400,
    batch_size: Annotated[int, typer.Option(help="Samples a training step.")] = 4,
    rank: Annotated[int, typer.Option(help="LoRA rank, and alpha.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: 2e-4; 1e-3 for small models.")
    ] = None,
    seed: TrainingSeedOption = 1,
    phase: PhaseOption = PhaseChoice.BOTH,
    device: DeviceOption = DeviceChoice.AUTO,
    devices: DevicesOption = "0",
    preset: PresetOption = PresetChoice.GB24,
    memory: MemoryOption = Memory.AUTO,
    quantize: Annotated[
        Quantize, typer.Option(help="Of the base model while it is recorded.")
    ] = Quantize.NONE,
    overrides: OverridesOption = None,
    keep_recording: Annotated[
        bool, typer.Option("--keep-recording", help="Leave the recorded states in the run.")
    ] = False,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Do not paint at the end what the pair is worth.")
    ] = False,
    dry_run: DryRunOption = False,
    restart: RestartOption = False,
    launcher: LauncherOption = LauncherChoice.SIMPLETUNER,
    trust: TrustOption = False,
    stop_within: StopWithinOption = 60.0,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Let the base model teach itself: two LoRAs that take its 50 steps in few.

    It needs no picture. The base model's own way from noise to picture is recorded for some
    prompts, its guidance included, and SimpleTuner trains both LoRAs to go it in a few steps. At
    the end the pair is compared with the base model on prompts that it has not learnt from. The
    same command again continues where it stopped.

    Examples:

    glance distill --model black-forest-labs/FLUX.1-dev --device cuda --dry-run

    glance distill --size 1024x1024 --size 832x1216 --device cuda --dry-run
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.schedule.options import ScheduleOptions
    from glance.training.distillation.plan import plan_distillation
    from glance.training.request import DistillRequest, Launcher

    plan = plan_distillation(
        DistillRequest(
            prompts=tuple(prompt or ()),
            prompt_file=prompt_file,
            reference=reference,
            family=family,
            model=model,
            base=base,
            run=run,
            sizes=tuple(size or ()),
            schedule=ScheduleOptions(
                name=schedule,
                slow_timesteps=slow_timesteps,
                fast_timesteps=fast_timesteps,
                slow_steps=slow_steps,
                fast_steps=fast_steps,
                teacher_steps=teacher_steps,
            ),
            noises=noises,
            guidance=guidance,
            teacher_loras=tuple(teacher_lora or ()),
            steps=steps,
            batch_size=batch_size,
            rank=rank,
            learning_rate=learning_rate,
            seed=seed,
            phases=phase.phases,
            device=device.value,
            devices=devices,
            preset=preset.value,
            memory=memory,
            quantize=quantize,
            overrides=tuple(overrides or ()),
            keep_recording=keep_recording,
            compares=not no_compare,
            restart=restart,
            launcher=Launcher(launcher.value),
            trust=trust,
            stop_within=stop_within,
        )
    )
    if dry_run:
        for warning in plan.training.warnings:
            console.warn(warning)
        show_plan(console, distillation_rows(plan), plan.to_json())
        return
    from glance.training.distillation.execute import run_distillation

    with console.progress(events) as on_event:
        result = run_distillation(plan, on_event)
    console.result(str(plan.run.path))
    for line in result.training.summarise():
        console.note(line)
    if result.report is not None:
        console.note(f"the sheet to look at: {result.report.sheet}")
        console.result(result.report.verdict.sentence)
    console.document(result.to_json())
    if result.training.manifest.is_finished:
        console.note(f'next: glance infer --run {quote(str(plan.run.path))} --prompt "..."')
