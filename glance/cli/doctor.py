"""`glance doctor`: does this machine have what a training needs?"""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._options import (
    BaseOption,
    DeviceChoice,
    DeviceOption,
    DevicesOption,
    JsonOption,
    LauncherChoice,
    LauncherOption,
    PresetChoice,
    PresetOption,
    QuietOption,
    VerboseOption,
    find_model,
)
from glance.cli.console import Console
from glance.core.errors import SetupError


def doctor(
    family: Annotated[
        str | None, typer.Option(help="Model family. Default: the model's; flux.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="As for glance train. Default: the family's.", parser=find_model, metavar="<str>"
        ),
    ] = None,
    base: BaseOption = None,
    run: Annotated[Path, typer.Option(help="Where the run would go.")] = Path("runs"),
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 32,
    resolution: Annotated[
        str | None, typer.Option(help="As for glance train. Default: the family's.")
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
    devices: DevicesOption = "0",
    preset: PresetOption = PresetChoice.GB24,
    launcher: LauncherOption = LauncherChoice.SIMPLETUNER,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check what a training needs of this machine, and say how to get what is missing.

    `glance train` does the same before it starts anything. Exit code 3 if something is missing.

    Example: glance doctor --model black-forest-labs/FLUX.1-dev --preset auto
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.core.device import speed
    from glance.core.files import require_possible
    from glance.core.phase import Phase
    from glance.runs.folder import RunFolder
    from glance.training.plan import parse_devices, plan_settings
    from glance.training.preflight import Job, Outcome, examine
    from glance.training.request import Launcher, TrainRequest
    from glance.training.simpletuner.estimates import (
        describe_duration,
        describe_estimate,
        estimate,
        seconds_a_step,
    )

    require_possible(run, "--run")
    resolved, settings = plan_settings(
        TrainRequest(
            image=Path(),
            family=family,
            model=model,
            base=base,
            run=run,
            rank=rank,
            resolution=resolution,
            device=device.value,
            preset=preset.value,
        )
    )
    numbers, models = parse_devices(devices), resolved.hub_models
    job = Job(settings, RunFolder(run), Launcher(launcher.value), models, numbers)
    checks = examine(job)
    for check in checks:
        console.result(f"{check.outcome:7}  {check.name}: {check.message}")
        if check.hint:
            console.result(f"         hint: {check.hint}")
    console.result(describe_estimate(settings))
    pace = speed(settings.device, job.devices[0])
    console.result(describe_duration(settings, len(Phase), pace))
    console.document(
        {
            "checks": [
                {
                    "name": check.name,
                    "outcome": check.outcome.value,
                    "message": check.message,
                    "hint": check.hint,
                }
                for check in checks
            ],
            "estimate": {
                **estimate(settings).to_json(),
                "seconds_a_step": None if pace is None else seconds_a_step(settings, pace),
            },
        }
    )
    if any(check.outcome is Outcome.FAILURE for check in checks):
        raise typer.Exit(SetupError.exit_code)
