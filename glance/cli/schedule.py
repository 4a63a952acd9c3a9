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
from glance.cli._plot import TERMINAL, PlotGroup, PlotOption, choose_terminal_glyphs
from glance.cli.console import Console, format_table
from glance.core.device import Memory, Quantize
from glance.core.errors import InputError, ModelNotFound, UsageError
from glance.core.phase import Phase
from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.shift import TEACHER_STEPS

if TYPE_CHECKING:
    from glance.models.families import Family
    from glance.models.schedules import Subject

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
    typer.Option("--schedule", help="seed, paper, auto, own, optimal, or a .json file."),
]
SizeOption = Annotated[
    str | None, typer.Option(help="Picture size, WxH. Default: the family's resolution.")
]


@schedule.callback()
def show(
    context: typer.Context,
    name: NameOption = "seed",
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
        if any(value is not None for value in (*given, teacher_steps, plot)) or name != "seed":
            raise UsageError(
                f"flags before {context.invoked_subcommand} would change nothing",
                hint=f"write them behind it: glance schedule {context.invoked_subcommand} ...",
            )
        return
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    from glance.models.base import resolve_family
    from glance.models.schedules import LevelsRequest, Subject, resolve_levels

    row = resolve_family(family, model)
    if model is not None:
        _require_model(model, row)
    subject = Subject(row, model or row.default_model, _parse_size(size, row.resolution))
    request = LevelsRequest(
        name=name,
        slow_timesteps=slow_timesteps,
        fast_timesteps=fast_timesteps,
        slow_steps=slow_steps,
        fast_steps=fast_steps,
        teacher_steps=teacher_steps,
    )
    levels = resolve_levels(request, subject)
    for doubt in levels.doubts:
        console.warn(doubt)
    _show_plot(console, levels.schedule, subject, plot, teacher_steps or TEACHER_STEPS)
    console.result(_table(levels.schedule))
    console.note(f"\nsource: {levels.source}")
    usual = (row.resolution, row.resolution)
    if levels.schedule.name in PRESETS and subject.size != usual:
        console.note(
            f"note: a list belongs to a picture size; this one is for {usual[0]}x{usual[1]}, not "
            f"{subject.size[0]}x{subject.size[1]}: --schedule auto derives that one's"
        )
    console.document(levels.schedule.to_json())


@schedule.command()
def optimize(
    model: ModelOption = None,
    family: FamilyOfModelOption = None,
    size: SizeOption = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "--prompts", help="What to paint; repeatable. Default: eight."),
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A prompt a line.")] = None,
    seed: Annotated[
        int, typer.Option(help="Of the first prompt's noise; the next has the next.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Steps of both phases together. Default: 10.")
    ] = None,
    slow_steps: Annotated[
        int | None, typer.Option(help="Steps of the slow phase. Default: found.")
    ] = None,
    fast_steps: Annotated[
        int | None, typer.Option(help="Steps of the fast phase. Default: found.")
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
    from glance.evaluation.search import run_optimization
    from glance.evaluation.search import plan_optimization
    from glance.evaluation.search import OptimizeRequest
    from glance.models.base import resolve_family

    row = resolve_family(family, model)
    plan = plan_optimization(
        OptimizeRequest(
            family=row,
            model=model or row.default_model,
            size=_parse_size(size, row.resolution),
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


def _require_model(model: str, row: "Family") -> None:
    """Raise unless the model is there, whether or not the schedule that is asked for needs it."""
    from glance.core.hub import check_access
    from glance.models.base import locate_base

    whole, _ = locate_base(model, None, family=row, run=Path())
    doubt = check_access(model) if whole == model != row.default_model else None
    if doubt is not None:
        raise ModelNotFound(doubt, hint="unset HF_HUB_OFFLINE, or give --model a folder")


def _show_plot(
    console: Console, chosen: Schedule, subject: "Subject", plot: Path | None, teacher_steps: int
) -> None:
    if plot is None:
        return
    from glance.core.errors import ScheduleError
    from glance.models.schedules import find_shift
    from glance.schedule.plot import chart_schedule, draw_schedule
    from glance.schedule.shift import teacher_sigmas

    teacher: tuple[float, ...] = ()
    try:
        shift = find_shift(subject.family, subject.model).shift
        teacher = teacher_sigmas(shift, *subject.size, steps=teacher_steps)
    except ScheduleError as exc:
        console.note(f"note: the base model's own curve is not known: {exc}")
    if plot == TERMINAL:
        console.result(chart_schedule(chosen, teacher, glyphs=choose_terminal_glyphs()) + "\n")
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
