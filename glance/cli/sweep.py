"""`glance sweep`: one pair with several settings, a run each, side by side."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._options import (
    BaseOption,
    CaptionOption,
    DeviceChoice,
    DeviceOption,
    DevicesOption,
    EventsOption,
    FamilyOfModelOption,
    JsonOption,
    LauncherChoice,
    LauncherOption,
    PresetChoice,
    PresetOption,
    QuietOption,
    ReferenceOption,
    VerboseOption,
    find_model,
)
from glance.console import Console, format_table

if TYPE_CHECKING:
    from glance.sweep import SweepPlan, SweepResult


def sweep(
    image: Annotated[Path, typer.Option(help="The picture to train on.")],
    caption: CaptionOption = None,
    reference: ReferenceOption = None,
    rank: Annotated[str, typer.Option(help="LoRA ranks, comma separated.")] = "32",
    learning_rate: Annotated[
        str | None,
        typer.Option(help="Comma separated. Default: the method's for the family."),
    ] = None,
    steps: Annotated[str, typer.Option(help="Training steps a phase, comma separated.")] = "60",
    schedule: Annotated[
        str, typer.Option(help="As in glance train, comma separated: seed,auto.")
    ] = "seed",
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="What each pair paints at the end; repeatable. Default: the caption, and a "
            "neutral one.",
            show_default=False,
        ),
    ] = None,
    picture_seed: Annotated[
        list[int] | None,
        typer.Option(help="Seed of the noise it paints from; repeatable. Default: 0."),
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Train only, paint and compare nothing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs. Default: runs/, the picture's name, -sweep."),
    ] = None,
    family: FamilyOfModelOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub id, diffusers folder, or .safetensors file. Default: family's.",
            parser=find_model,
            metavar="<str>",
        ),
    ] = None,
    base: BaseOption = None,
    resolution: Annotated[
        str | None, typer.Option(help="Side of the training area, as in glance train.")
    ] = None,
    crop: Annotated[str, typer.Option(help="As in glance train: whole, center, corner.")] = "whole",
    seed: Annotated[int, typer.Option(help="Training seed of all points, at least 1.")] = 1,
    device: DeviceOption = DeviceChoice.AUTO,
    devices: DevicesOption = "0",
    preset: PresetOption = PresetChoice.GB24,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Further SimpleTuner option; repeatable."),
    ] = None,
    launcher: LauncherOption = LauncherChoice.SIMPLETUNER,
    stop_within: Annotated[
        float,
        typer.Option(min=0, help="Seconds that a first Ctrl-C waits for a checkpoint."),
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the points and what they take, touch nothing.")
    ] = False,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train one pair with several settings, and show what came of each side by side.

    Every combination of --rank, --learning-rate, --steps and --schedule becomes a run of its own
    in one folder, named by what varies: `glance infer --run` and `glance train --run` take it. At
    the end there are a table, sweep.json and a sheet of pictures. The same command again
    continues, and skips what is done; a point that fails does not stop the others.

    Examples:

    glance sweep --image data/glance.png --rank 4,16 --learning-rate 1e-4,5e-4

    glance sweep --image data/glance.png --device cuda --steps 60,120 --dry-run
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.simpletuner.command import Launcher
    from glance.sweep import SweepRequest, plan_sweep, run_sweep
    from glance.training.request import TrainRequest

    shared = TrainRequest(
        image=image,
        caption=caption,
        reference=reference,
        family=family,
        model=model,
        base=base,
        resolution=resolution,
        crop=crop,
        seed=seed,
        device=device.value,
        devices=devices,
        preset=preset.value,
        overrides=tuple(overrides or ()),
        launcher=Launcher(launcher.value),
        stop_within=stop_within,
    )
    plan = plan_sweep(
        SweepRequest(
            shared=shared,
            ranks=rank,
            learning_rates=learning_rate,
            steps=steps,
            schedules=schedule,
            output=output,
            prompts=tuple(prompt or ()),
            picture_seeds=tuple(picture_seed or ()),
            pictures=not no_pictures,
        )
    )
    if dry_run:
        _show_plan(console, plan)
        return
    with console.progress(events) as on_event:
        result = run_sweep(plan, on_event)
    _show_result(console, result)
    if result.failures:
        voice = Console(quiet=quiet)  # stdout has its document already
        for failure in result.failures:
            voice.error(failure)
        raise typer.Exit(result.failures[0].exit_code)


def _show_plan(console: Console, plan: "SweepPlan") -> None:
    from glance.device import speed
    from glance.pace import format_duration

    for warning in plan.warnings:
        console.warn(warning)
    first = plan.points[0].training
    pace = speed(first.settings.device, first.devices[0])
    seconds = plan.seconds(pace)
    header, *rows = plan.rows()
    console.result(str(plan.folder))
    console.result(format_table(header, rows))
    console.note(f"{len(rows)} points, {plan.starts} starts of SimpleTuner to go")
    console.note(
        "estimate: how long a step takes is not known for this device and model"
        if seconds is None
        else f"estimate: all steps take {format_duration(seconds)}; each start comes on top"
    )
    console.document(plan.to_json(pace))


def _show_result(console: Console, result: "SweepResult") -> None:
    header, *rows = result.rows()
    console.result(format_table(header, rows))
    if result.sheet is not None:
        console.result(str(result.sheet))
    console.document(result.to_json())
    if result.sheet is not None:
        console.note("a few pictures are no ranking: look at the sheet, and try the pairs yourself")
    done = [point.point for point in result.points if point.failure is None]
    if done:
        edited = " --reference x.png" if done[0].training.pair.reference else ""
        path = quote(str(done[0].run.path))
        console.note(f'next: glance infer --run {path} --prompt "..."{edited}')
