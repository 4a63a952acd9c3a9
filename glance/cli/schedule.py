"""`glance schedule`: the noise levels of both phases, and finding better ones."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glance.cli._options import (
    DeviceChoice,
    DeviceOption,
    EventsOption,
    FamilyOfModelOption,
    FastStepsOption,
    FastTimestepsOption,
    JsonOption,
    MemoryOption,
    QuietOption,
    SlowStepsOption,
    SlowTimestepsOption,
    TeacherStepsOption,
    VerboseOption,
    find_model,
)
from glance.cli._plot import TERMINAL, PlotGroup, PlotOption
from glance.cli.console import Console, format_table
from glance.core.device import Memory, Quantize
from glance.core.errors import InputError, ModelNotFound, UsageError
from glance.core.phase import Phase
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.shift import TEACHER_STEPS

if TYPE_CHECKING:
    from glance.models.base import BaseModel

_BAR = 30

schedule = typer.Typer(cls=PlotGroup, invoke_without_command=True, rich_markup_mode=None)
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Hub id or diffusers folder. Default: the family's.",
        parser=find_model,
        metavar="<str>",
    ),
]
NameOption = Annotated[
    str,
    typer.Option("--schedule", help="guide, paper, auto, own, optimal, or a .json file."),
]
SizeOption = Annotated[
    str | None, typer.Option(help="Image size, WxH. Default: the family's resolution.")
]


@schedule.callback()
def show(
    context: typer.Context,
    name: NameOption = "guide",
    family: FamilyOfModelOption = None,
    model: ModelOption = None,
    size: SizeOption = None,
    slow_timesteps: SlowTimestepsOption = None,
    fast_timesteps: FastTimestepsOption = None,
    slow_steps: SlowStepsOption = None,
    fast_steps: FastStepsOption = None,
    teacher_steps: TeacherStepsOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the timesteps and sigmas of both phases, and where they come from.

    They are those of a preset, the model's own at that size, an optimised schedule, a file's, or
    your own, which are checked. What --json prints is a file that --schedule takes.

    Examples:

    glance schedule --schedule paper

    glance schedule --schedule auto --family qwen_image --size 1328x1328 --plot
    """
    if context.invoked_subcommand is not None:
        given = [family, model, size, slow_timesteps, fast_timesteps, slow_steps, fast_steps]
        if any(value is not None for value in (*given, teacher_steps, plot)) or name != "guide":
            raise UsageError(
                f"flags before {context.invoked_subcommand} would change nothing",
                hint=f"write them behind it: glance schedule {context.invoked_subcommand} ...",
            )
        return
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.models.base import BaseModel
    from glance.schedule.options import ScheduleOptions

    base = BaseModel.resolve(model, family=family)
    if model is not None:
        _require_access(base)
    asked = _parse_size(size, base.family.resolution)
    options = ScheduleOptions(
        name=name,
        slow_timesteps=slow_timesteps,
        fast_timesteps=fast_timesteps,
        slow_steps=slow_steps,
        fast_steps=fast_steps,
        teacher_steps=teacher_steps,
    )
    resolved = base.resolve_schedule(options, asked)
    for doubt in resolved.doubts:
        console.warn(doubt)
    if plot is not None:
        curve = _teacher_curve(console, base, asked, teacher_steps or TEACHER_STEPS)
        _show_plot(console, resolved.schedule, curve, plot)
    console.result(_table(resolved.schedule))
    console.note(f"\nsource: {resolved.source}")
    usual = base.family.resolution
    if resolved.schedule.name in PRESETS and asked != (usual, usual):
        console.note(
            f"note: a list belongs to an image size; this one is for {usual}x{usual}, not "
            f"{asked[0]}x{asked[1]}: --schedule auto derives that one's"
        )
    console.document(resolved.schedule.to_json())


@schedule.command()
def optimize(
    model: ModelOption = None,
    family: FamilyOfModelOption = None,
    size: SizeOption = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "--prompts", help="Prompt; repeatable. Default: eight."),
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A prompt a line.")] = None,
    seed: Annotated[
        int, typer.Option(help="Of the first prompt's noise; the next has the next.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Steps of both phases together. Default: 10.")
    ] = None,
    slow_steps: Annotated[
        int | None, typer.Option(help="Steps of the slow phase. Default: searched for.")
    ] = None,
    fast_steps: Annotated[
        int | None, typer.Option(help="Steps of the fast phase. Default: searched for.")
    ] = None,
    teacher_steps: Annotated[
        int, typer.Option(help="Steps of the base model's trajectory, to choose from.")
    ] = 50,
    slow_guidance: Annotated[
        float | None, typer.Option(help="Of the slow phase, and of the trajectory.")
    ] = None,
    fast_guidance: Annotated[float | None, typer.Option(help="Of the fast phase.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=64, help="Prompts at once.")] = 4,
    device: DeviceOption = DeviceChoice.AUTO,
    memory: MemoryOption = Memory.AUTO,
    quantize: Annotated[
        Quantize, typer.Option(help="The base model's weights, smaller.")
    ] = Quantize.NONE,
    output: Annotated[
        Path | None, typer.Option(help="The schedule's file. Default: optimal-WxH-STEPS.json.")
    ] = None,
    events: EventsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the noise levels at which few steps end nearest to the base model's own many.

    By dynamic programming along the trajectories of a few prompts, with the base model alone; it
    takes some hundred forward passes a prompt. The file goes to --schedule of train and infer, and
    --schedule optimal finds it for the same model and size.

    Example: glance schedule optimize --model black-forest-labs/FLUX.1-dev --size 1024x1024
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.evaluation.search import OptimizeRequest, plan_optimization, run_optimization
    from glance.models.base import BaseModel

    base = BaseModel.resolve(model, family=family)
    plan = plan_optimization(
        OptimizeRequest(
            base=base,
            size=_parse_size(size, base.family.resolution),
            prompts=tuple(prompt or ()),
            prompt_file=prompt_file,
            seed=seed,
            steps=steps,
            slow_steps=slow_steps,
            fast_steps=fast_steps,
            teacher_steps=teacher_steps,
            slow_guidance=slow_guidance,
            fast_guidance=fast_guidance,
            batch_size=batch_size,
            device=device.value,
            memory=memory,
            quantize=quantize,
            output=output,
        )
    )
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
        return teacher_sigmas(base.find_shift().shift, *size, steps=steps)
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


def _parse_size(text: str | None, usual: int) -> tuple[int, int]:
    if text is None:
        return usual, usual
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip().lower())
    if found is None:
        raise InputError(
            f"--size {text}: not width x height in pixels", hint="--size 1024x1024, for example"
        )
    return int(found[1]), int(found[2])
