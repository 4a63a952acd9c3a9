"""`glance doctor`: does this machine have what a training needs?"""

from dataclasses import replace
from pathlib import Path

import typer

from glance.cli._command import takes
from glance.cli.console import Console
from glance.core.errors import SetupError
from glance.training.request import Launcher, TrainRequest

_NEEDS = (
    *("family", "model", "base", "run", "rank", "resolution"),
    *("device", "gpu_ids", "vram", "launcher"),
)


@takes(TrainRequest, *_NEEDS, image=Path())
def doctor(console: Console, request: TrainRequest) -> None:
    """Check what a training needs of this machine, and say how to get what is missing.

    `glance train` does the same before it starts anything. Exit code 3 if something is missing.

    Example: glance doctor --model black-forest-labs/FLUX.1-dev --vram 24
    """
    from glance.core.device import speed
    from glance.core.files import require_possible
    from glance.core.phase import Phase
    from glance.runs.folder import RUNS, RunFolder
    from glance.training.machine import (
        Job,
        Outcome,
        describe_duration,
        describe_estimate,
        estimate,
        examine,
        seconds_a_step,
    )
    from glance.training.plan import parse_gpu_ids, plan_settings

    run = request.run or RUNS
    require_possible(run, "--run")
    resolved, settings = plan_settings(replace(request, run=run))
    job = Job(
        settings,
        RunFolder(run),
        Launcher(request.launcher),
        resolved.hub_models,
        parse_gpu_ids(request.gpu_ids),
    )
    checks = examine(job)
    for check in checks:
        console.result(f"{check.outcome:7}  {check.name}: {check.message}")
        if check.hint:
            console.result(f"         hint: {check.hint}")
    console.result(describe_estimate(settings))
    pace = speed(settings.device, job.devices[0])
    console.result(describe_duration(settings, len(Phase), pace))
    told = ("name", "outcome", "message", "hint")
    console.document(
        {
            "checks": [{name: getattr(check, name) for name in told} for check in checks],
            "estimate": {
                **estimate(settings).to_json(),
                "seconds_a_step": None if pace is None else seconds_a_step(settings, pace),
            },
        }
    )
    if any(check.outcome is Outcome.FAILURE for check in checks):
        raise typer.Exit(SetupError.exit_code)
