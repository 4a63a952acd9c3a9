"""`glance schedule`: the noise levels of both phases, and finding better ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glance.cli._command import (
    TERMINAL,
    EventsOption,
    OpenOption,
    PlotGroup,
    PlotOption,
    require_plot,
    takes,
)
from glance.cli.console import Console
from glance.core.errors import ModelNotFound, UsageError
from glance.core.options import Group, parse_size
from glance.core.phase import Phase
from glance.core.tables import format_table
from glance.evaluation.request import OptimizeRequest
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.options import ScheduleOptions
from glance.schedule.shift import TEACHER_STEPS

if TYPE_CHECKING:
    from glance.models.base import BaseModel

_BAR = 30

schedule = typer.Typer(cls=PlotGroup, invoke_without_command=True, rich_markup_mode=None)


def _of_model(help: str, kind: str = "TEXT") -> Any:
    return typer.Option(help=help, metavar=kind, rich_help_panel=Group.MODEL)


@schedule.callback()
@takes(ScheduleOptions)
def show(
    console: Console,
    options: ScheduleOptions,
    *,
    context: typer.Context,
    model: Annotated[str | None, _of_model("Base model. Default: the family's.")] = None,
    family: Annotated[
        str | None, _of_model("Model family. Default: the model's own, else flux.")
    ] = None,
    size: Annotated[
        str | None, _of_model("Image size. Default: the family's resolution.", "WxH")
    ] = None,
    plot: PlotOption = None,
    opens: OpenOption = False,
) -> None:
    """Show the timesteps and sigmas of both phases, and where they come from.

    They are those of a preset, the model's own at that size, an optimised schedule, a file's, or
    your own, which are checked. What --json prints is a file that --schedule takes.

    Examples:

    glance schedule --schedule paper

    glance schedule --schedule auto --family qwen_image --size 1328x1328 --plot
    """
    if context.invoked_subcommand is not None:
        if options != ScheduleOptions() or any(
            one is not None for one in (family, model, size, plot)
        ):
            raise UsageError(
                f"flags before {context.invoked_subcommand} would change nothing",
                hint=f"write them behind it: glance schedule {context.invoked_subcommand} ...",
            )
        return
    require_plot(plot, opens=opens)
    from glance.models.base import BaseModel

    base = BaseModel.resolve(model, family=family)
    if model is not None:
        _require_access(base)
    usual = base.family.resolution
    asked = (usual, usual) if size is None else parse_size(size)
    resolved = base.resolve_schedule(options, asked)
    for doubt in resolved.doubts:
        console.warn(doubt)
    if plot is not None:
        curve = _teacher_curve(console, base, asked, options.teacher_steps or TEACHER_STEPS)
        _show_plot(console, resolved.schedule, curve, plot)
        if opens:
            console.open([plot])
    console.result(_table(resolved.schedule))
    console.note(f"\nsource: {resolved.source}")
    if resolved.schedule.name in PRESETS and asked != (usual, usual):
        console.note(
            f"note: a list belongs to an image size; this one is for {usual}x{usual}, not "
            f"{asked[0]}x{asked[1]}: --schedule auto derives that one's"
        )
    console.document(resolved.schedule.to_json())


@schedule.command()
@takes(OptimizeRequest)
def optimize(console: Console, request: OptimizeRequest, *, events: EventsOption = None) -> None:
    """Find the noise levels at which few steps end nearest to the base model's own many.

    By dynamic programming along the trajectories of a few prompts, with the base model alone; it
    takes some hundred forward passes a prompt. The file goes to --schedule of train and infer, and
    --schedule optimal finds it for the same model and size.

    Example: glance schedule optimize --model black-forest-labs/FLUX.1-dev --size 1024x1024
    """
    from glance.evaluation.search import plan_optimization, run_optimization

    plan = plan_optimization(request)
    with console.progress(events) as on_event:
        found = run_optimization(plan, on_event)
    console.note(_table(found.schedule))
    for line in found.summarise():
        console.note(line)
    console.result(str(found.path))
    console.document(found.to_json())


def _require_access(base: "BaseModel") -> None:
    """Raise unless a Hub model can be had, whether or not the schedule needs it."""
    from glance.core.hub import check_access

    is_known = base.folder is not None or base.location == base.family.default_model
    doubt = None if is_known or base.transformer is not None else check_access(base.location)
    if doubt is not None:
        raise ModelNotFound(doubt, hint="unset HF_HUB_OFFLINE, or give --model a folder")


def _teacher_curve(
    console: Console, base: "BaseModel", size: tuple[int, int], steps: int
) -> tuple[float, ...]:
    from glance.core.errors import ScheduleError
    from glance.schedule.shift import teacher_sigmas

    try:
        return teacher_sigmas(
            base.find_shift().shift, *size, steps=steps, spacing=base.family.spacing
        )
    except ScheduleError as exc:
        console.note(f"note: the base model's own curve is not known: {exc}")
        return ()


def _show_plot(console: Console, chosen: Schedule, teacher: tuple[float, ...], plot: Path) -> None:
    from glance.schedule.plot import chart_schedule, draw_schedule

    if plot == TERMINAL:
        console.result(chart_schedule(chosen, teacher, console.terminal) + "\n")
    else:
        draw_schedule(chosen, teacher, plot)
        console.note(f"the schedule is drawn in {plot}")


def _table(chosen: Schedule) -> str:
    rows = []
    for phase in Phase:
        part = chosen.phase(phase)
        for step, (timestep, sigma) in enumerate(
            zip(part.timesteps, part.sigmas, strict=True), start=1
        ):
            bar = "#" * max(1, round(sigma * _BAR))
            rows.append(
                (phase.value, str(step), f"{timestep:.4f}", f"{sigma:.7f}", bar.ljust(_BAR))
            )
    rows.append(("end", "", "0.0000", "0.0000000", "".ljust(_BAR)))
    return format_table(("phase", "step", "timestep", "sigma", "".ljust(_BAR)), rows)
