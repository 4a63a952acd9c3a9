"""`glance import`: a run from SimpleTuner's configs, or from two LoRAs of another trainer."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._options import (
    BaseOption,
    CaptionOption,
    DeviceChoice,
    DeviceOption,
    FamilyOfModelOption,
    FastTimestepsOption,
    JsonOption,
    PresetChoice,
    PresetOption,
    QuietOption,
    ReferenceOption,
    SlowTimestepsOption,
    VerboseOption,
    find_model,
)
from glance.cli.console import Console

if TYPE_CHECKING:
    from glance.interop.importing.request import ImportPlan


def import_(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder that holds SimpleTuner's configs of both phases."),
    ] = None,
    slow_config: Annotated[
        Path | None, typer.Option(help="The slow phase's config, where it is not found.")
    ] = None,
    fast_config: Annotated[Path | None, typer.Option(help="The fast phase's config.")] = None,
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
        Path | None, typer.Option(help="The picture. Default: the data backend's only one.")
    ] = None,
    caption: CaptionOption = None,
    reference: ReferenceOption = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder to make. Default: runs/ and the picture's name.")
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
    preset: PresetOption = PresetChoice.GB24,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Prepare a training though the LoRAs are trained.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of it, touch nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a run of SimpleTuner's configs, or of two LoRAs that others trained.

    Configs whose LoRAs are not trained yet become a run that is ready to train: its `glance train`
    command line is printed. Trained LoRAs become a finished run: its folder is printed. What glance
    does otherwise than the files say is told on stderr. The files themselves are only read.

    Examples:

    glance import my-simpletuner-folder

    glance import --slow-lora slow.safetensors --fast-lora fast.safetensors --alpha 128 --dry-run
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.interop.importing.execute import run_import
    from glance.interop.importing.plan import plan_import
    from glance.interop.importing.request import ImportRequest

    plan = plan_import(
        ImportRequest(
            folder=folder,
            slow_config=slow_config,
            fast_config=fast_config,
            slow_lora=slow_lora,
            fast_lora=fast_lora,
            alpha=alpha,
            drops_text=drop_text_encoder,
            schedule=schedule,
            slow_timesteps=slow_timesteps,
            fast_timesteps=fast_timesteps,
            family=family,
            model=model,
            base=base,
            image=image,
            caption=caption,
            reference=reference,
            run=run,
            device=device.value,
            preset=preset.value,
            retrain=retrain,
        )
    )
    if not dry_run:
        run_import(plan)
    _tell(console, plan, is_made=not dry_run)
    console.result(plan.result)
    console.document(plan.to_json())


def _tell(console: Console, plan: "ImportPlan", *, is_made: bool) -> None:
    from glance.interop.importing.request import PairImport

    for remark in plan.remarks:
        console.note(remark.sentence())
    for warning in plan.warnings:
        console.warn(warning)
    path = quote(str(plan.run.path))
    made = "made" if is_made else "would make"
    if isinstance(plan, PairImport):
        for phase, lora in plan.loras.items():
            console.note(f"{phase}: {lora.folded}")
        console.note(f"{made} {path}, a finished run")
        if is_made:
            console.note(f'next: glance infer --run {path} --prompt "..."')
    else:
        console.note(f"{made} {path}, ready to train with:")
