"""`glance import`: a run from two LoRAs of another trainer."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from glance.cli._options import (
    BaseOption,
    CaptionOption,
    FamilyOfModelOption,
    FastTimestepsOption,
    JsonOption,
    QuietOption,
    ReferenceOption,
    SlowTimestepsOption,
    VerboseOption,
    find_model,
)
from glance.cli.console import Console


def import_(
    slow_lora: Annotated[
        str | None, typer.Option(help="Trained slow LoRA: file, folder, or owner/repo:file.")
    ] = None,
    fast_lora: Annotated[str | None, typer.Option(help="Trained fast LoRA.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="What the LoRAs were trained with, where the files have lost it."),
    ] = None,
    drop_text_encoder: Annotated[
        bool,
        typer.Option("--drop-text-encoder", help="Leave a text encoder's keys out of the LoRAs."),
    ] = False,
    schedule: Annotated[
        str | None,
        typer.Option(help="What the LoRAs were trained on: guide, paper, auto, or a .json file."),
    ] = None,
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    family: FamilyOfModelOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model. Default: what the files say.", parser=find_model, metavar="<str>"
        ),
    ] = None,
    base: BaseOption = None,
    image: Annotated[
        Path | None, typer.Option(help="The image that the pair was trained on, if it is known.")
    ] = None,
    caption: CaptionOption = None,
    reference: ReferenceOption = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to make. Default: runs/ and the image's name, or the LoRAs'."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of it, touch nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a finished run of two LoRAs that others trained.

    Its folder is printed. The files themselves are only read.

    Example: glance import --slow-lora slow.safetensors --fast-lora fast.safetensors --alpha 128
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.interop.importing import ImportRequest, plan_import, run_import
    from glance.schedule.options import ScheduleOptions

    plan = plan_import(
        ImportRequest(
            slow_lora=slow_lora,
            fast_lora=fast_lora,
            alpha=alpha,
            drops_text=drop_text_encoder,
            schedule=ScheduleOptions(
                name=schedule, slow_timesteps=slow_timesteps, fast_timesteps=fast_timesteps
            ),
            family=family,
            model=model,
            base=base,
            image=image,
            caption=caption,
            reference=reference,
            run=run,
        )
    )
    if not dry_run:
        run_import(plan)
    for warning in plan.warnings:
        console.warn(warning)
    for phase, lora in plan.loras.items():
        console.note(f"{phase}: {lora.folded}")
    path = quote(str(plan.run.path))
    console.note(f"{'would make' if dry_run else 'made'} {path}, a finished run")
    if not dry_run:
        console.note(f'next: glance infer --run {path} --prompt "..."')
    console.result(str(plan.run.path))
    console.document(plan.to_json())
