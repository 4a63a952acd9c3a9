"""`glance batch`: many pairs to train, many images to generate."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from glance.batch.request import BatchInferRequest, BatchTrainRequest
from glance.cli._command import DryRunOption, EventsOption, OpenOption, takes
from glance.cli.console import Console
from glance.core.errors import InputError, Problem, UsageError, shown
from glance.core.events import EventSink, Noted, format_duration
from glance.core.tables import Rows, continued, format_table, listed, short

if TYPE_CHECKING:
    from glance.batch.board import Board, Status
    from glance.batch.infer import BatchInferPlan
    from glance.batch.jobs import BatchPlan

batch = typer.Typer(
    help="Train many pairs, generate many images.", no_args_is_help=True, rich_markup_mode=None
)
SourceArgument = Annotated[
    Path,
    typer.Argument(help="A folder of images and captions, or a .yaml or .jsonl file of jobs."),
]
_COLUMNS: Final = ("job", "name", "state", "slow loss", "fast loss", "took", "result")
_LISTED: Final = 100  # jobs of a summary; of more, those that are not done
_ROWS: Final = 20  # of the moving table


@batch.command("train")
@takes(BatchTrainRequest)
def train(
    console: Console,
    request: BatchTrainRequest,
    *,
    source: SourceArgument,
    dry_run: DryRunOption = False,
    events: EventsOption = None,
    opens: OpenOption = False,
) -> None:
    """Train a pair of LoRAs for each image of a folder, or each job of a file.

    What is wrong with any job is said before the first one starts; one that is refused or fails
    stops no other. The same command again goes on where it stopped, and trains nothing twice.

    A file is a list of jobs, each with the options of `glance train`, or of `glance distill` with
    command: distill. Several values of an option that holds one are so many jobs.

    Examples:

    glance batch train pictures/ --model small-flux --steps 20 --dry-run

    glance batch train jobs.yaml --devices 0,1
    """
    from glance.batch.board import Board, run_batch
    from glance.batch.jobs import plan_batch
    from glance.batch.local import choose_queue

    plan = plan_batch(replace(request, source=source))
    _tell_refused(console, plan)
    for warning in plan.warn(cleans=request.cleans):
        console.warn(warning)
    if dry_run:
        rows = [_planned_row(one) for one in plan.to_json()["jobs"]]
        console.result(format_table(("job", "name", "state", "command"), rows, align=str.ljust))
        console.document(plan.to_json())
        return
    executor, board = choose_queue(request, plan), Board(plan)
    with console.progress(events) as on_event:
        with _followed(console, board, on_event) as tell:
            run_batch(plan, executor, tell, board=board, cleans=request.cleans)
        sheets = _make_sheets(request, plan, board, on_event)
    for one in board.jobs:
        if one.state == "failed":
            for problem in one.problems:
                message = f"job {one.number} ({one.name}) failed: {problem.message}"
                console.warn(replace(problem, message=message))
    console.document({**board.to_json(), "sheets": [str(path) for path in sheets]})
    rows = [*map(_row, _listed(board))]
    if rows:
        console.result(format_table(_COLUMNS, rows, align=str.ljust))
    console.result(f"{_say_counts(board)}: {shown(board.output)}")
    for sheet in sheets:
        console.note(f"sheet: {sheet}")
    console.show(sheets, opens=opens)
    _end(board.exit_code)


def _make_sheets(
    request: BatchTrainRequest, plan: "BatchPlan", board: "Board", on_event: EventSink
) -> list[Path]:
    """Draw the contact sheet, of runs that this machine has trained and keeps."""
    is_here = request.ray is None and plan.storage is None
    if not (is_here and request.draws_sheet) or "done" not in board.counts():
        return []
    from glance.batch.sheet import make_sheets

    return make_sheets(board, plan.output, request.common.device, on_event)


@batch.command("plan")
@takes(BatchTrainRequest)
def plan_command(console: Console, request: BatchTrainRequest, *, source: SourceArgument) -> None:
    """Print the jobs, a command line each: for a job array, or to run them by hand.

    A line trains what `glance batch train` would train; a job that is done says so and ends.

    Example: glance batch plan pictures/ --model small-flux > jobs.txt
    """
    from glance.batch.jobs import plan_batch

    plan = plan_batch(replace(request, source=source))
    if plan.storage is not None:
        raise UsageError(
            f"--output {shown(plan.place)}: what a line trains is not moved there",
            hint="give --output a folder that all machines share",
        )
    _tell_refused(console, plan)
    lines = [(job, shlex.join(("glance", *job.command))) for job in plan.jobs]
    if broken := [job for job, line in lines if not line.isprintable()]:
        raise InputError(
            Problem(
                f"job {job.number} ({shown(job.name)}): a control character in a name or a value "
                "would break its line in two",
                "rename the file, or change the value",
            )
            for job in broken
        )
    for _, line in lines:
        console.result(line)
    console.document(plan.to_json())
    _end(plan.refused[0].exit_code if plan.refused else 0)


@batch.command("infer")
@takes(BatchInferRequest)
def infer(
    console: Console,
    request: BatchInferRequest,
    *,
    dry_run: DryRunOption = False,
    events: EventsOption = None,
    opens: OpenOption = False,
) -> None:
    """Generate the same images with many runs: prompts, times seeds, times runs.

    A base model is loaded once for all runs that have it. Each image is written as soon as it is
    done, in a folder a run, and the same command goes on where it stopped. A run that cannot be
    sampled is refused, and stops no other. When all images are there, sheet.png shows them, a
    column a run.

    Examples:

    glance batch infer --runs runs -p "a harbour" -p "a mill" --count 4

    glance batch infer --run runs/glance --run runs/cat --prompt-file prompts.jsonl --devices 0,1

    glance batch infer --runs runs --prompt-file prompts.txt --part 1/8
    """
    from glance.batch.infer import plan_batch_infer, run_batch_infer

    plan = plan_batch_infer(request)
    for one in plan.refused:
        console.refuse(one.reasons)
    if dry_run:
        console.plan(_infer_rows(plan), plan.to_json())
        _end(max((one.exit_code for one in plan.refused), default=0))
        return
    with console.progress(events) as on_event:
        result = run_batch_infer(plan, on_event)
    if result.refused:
        console.note(f"not all: {', '.join(shown(one.run) for one in result.refused)}")
    if result.sheet is not None:
        console.note(f"sheet: {result.sheet}")
        console.show([result.sheet], opens=opens)
    console.document(result.to_json())
    _end(result.exit_code)


def _end(exit_code: int) -> None:
    if exit_code:
        raise typer.Exit(exit_code)


def _tell_refused(console: Console, plan: "BatchPlan") -> None:
    """Say why jobs are refused, each reason once."""
    from glance.batch.board import gather_refusals, name_numbers

    names = {one.number: one.name for one in plan.refused}
    for problem, numbers in gather_refusals(plan):
        who = f"job {numbers[0]} ({names[numbers[0]]})"
        if len(numbers) > 1:
            who = f"jobs {name_numbers(numbers)}"
        console.warn(Problem(f"{who} refused: {problem.message}", problem.hint))


def _planned_row(job: dict[str, Any]) -> tuple[str, ...]:
    words = shlex.join(job["command"]) if "command" in job else job["problems"][0]["message"]
    return str(job["number"]), job["name"], job["state"], shown(words)


def _listed(board: "Board") -> list["Status"]:
    """Return the jobs of the summary."""
    if len(board.jobs) <= _LISTED:
        return [*board.jobs]
    return [one for one in board.jobs if one.state != "done"][:_LISTED]


def _row(one: "Status") -> tuple[str, ...]:
    losses = (one.losses.get(phase) for phase in ("slow", "fast"))
    return (
        str(one.number),
        one.name,
        str(one.state),
        *("" if loss is None else f"{loss:.4g}" for loss in losses),
        "" if one.seconds is None else format_duration(one.seconds),
        shown(one.outcome),
    )


def _say_counts(board: "Board") -> str:
    return ", ".join(f"{count:,} {state}" for state, count in board.counts().items())


# --- while it runs --------------------------------------------------------------------------------


@contextmanager
def _followed(console: Console, board: "Board", on_event: EventSink) -> Iterator[EventSink]:
    """Yield a sink that shows how the jobs go: a table that moves, or a line when one ends."""
    if not console.moves:
        yield lambda event: _tell_plainly(console, board, event, on_event)
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    screen = RichConsole(stderr=True)
    with Live(console=screen, transient=True, refresh_per_second=4) as live:

        def show(event: Any) -> None:
            if isinstance(event, Noted):  # above the table
                screen.print(event.message, markup=False, highlight=False)
            else:
                on_event(event)
            live.update(_draw(board, min(_ROWS, max(4, screen.height - 6))))

        yield show


def _tell_plainly(console: Console, board: "Board", event: Any, on_event: EventSink) -> None:
    from glance.batch.worker import JobOver, JobStarted

    on_event(event)
    if isinstance(event, JobStarted):
        one = board.job(event.job)
        console.note(f"job {one.number} ({one.name}): begun, {event.where}")
    elif isinstance(event, JobOver):
        one = board.job(event.job)
        took = "" if one.seconds is None else f" in {format_duration(one.seconds)}"
        outcome = f": {shown(one.outcome)}" if one.outcome else ""
        left = board.seconds_left()
        rest = "" if left is None else f"; about {format_duration(left)} left"
        console.note(f"job {one.number} ({one.name}): {one.state}{took}{outcome}{rest}")


def _draw(board: "Board", rows: int) -> Any:
    """Return the table of the jobs that matter now: those that run, and the last that ended."""
    from rich.table import Table
    from rich.text import Text

    left = board.seconds_left()
    title = _say_counts(board) + ("" if left is None else f"; about {format_duration(left)} left")
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    for name in ("job", "name", "state", "phase", "step", "loss", "left", "result"):
        table.add_column(name, justify="left", overflow="ellipsis", no_wrap=True)
    over = [one for one in board.jobs if one.is_over]
    running = [*board.running][:rows]
    waiting = [one for one in board.jobs if one.state == "waiting"]
    chosen = over[len(over) - max(0, rows - len(running)) :] if len(over) > rows else over
    chosen = [*chosen, *running]
    for one in [*chosen, *waiting[: max(0, rows - len(chosen))]]:
        cells = (
            str(one.number),
            one.name,
            f"{one.state}, {one.where}" if one.state == "running" else str(one.state),
            one.stage if one.state == "running" else "",
            f"{one.step}/{one.steps}" if one.state == "running" and one.steps else "",
            "" if one.loss is None or one.is_over else f"{one.loss:.4f}",
            "" if one.eta is None or one.is_over else format_duration(one.eta),
            shown(one.outcome),
        )
        table.add_row(*map(Text, cells))
    return table


def _infer_rows(plan: "BatchInferPlan") -> Rows:
    """Yield which runs generate how many images, by their base models, and where they go."""
    from glance.sampling.plan import extra_rows, said_done

    request = plan.request
    for base, some in groupby(plan.runs, key=lambda one: one.generation.base):
        yield "model", f"{base.shown} ({base.family.name})"
        lines = [
            (
                str(one.run),
                f"{len(one.generation.images):,} images, {len(one.generation.schedule.sigmas)} "
                f"steps each{said_done(sum(image.is_done for image in one.generation.images))}",
            )
            for one in some
        ]
        width = max(len(run) for run, _ in lines)
        yield from continued("  runs", (f"{run.ljust(width)}  {text}" for run, text in lines))
    yield from continued("refused", (str(one.run) for one in plan.refused))
    unfinished = (f"{run}: {reason}" for run, reason in plan.left_out.items())
    yield from continued("left out", unfinished)
    if plan.runs:
        first = plan.runs[0].generation
        yield from extra_rows(first)
        precision = f"{first.dtype}, memory {first.memory}, quantize {first.quantize}"
        yield "sampling", f"{first.device}, {precision}, {first.batch_size} at once"
        settings = list(dict.fromkeys(one.settings.prompt for one in first.images))
        yield from continued("prompts", listed([short(text) for text in settings], most=3))
    part = "" if request.part is None else f", part {request.part[0]} of {request.part[1]}"
    yield "images", f"{plan.images:,}{part}{said_done(plan.done)}"
    if request.devices:
        yield "devices", ", ".join(f"GPU {one}" for one in request.devices)
    yield "result", str(request.output)
