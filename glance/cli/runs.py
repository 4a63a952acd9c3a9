"""`glance runs`: look at runs, and free what they no longer need."""

from pathlib import Path
from typing import Annotated

import typer

from glance.cli._command import TERMINAL, OpenOption, PlotCommand, PlotOption, require_plot, takes
from glance.cli.console import Console, format_table
from glance.core.phase import Phase

runs = typer.Typer(
    help="Look at runs, read their logs, free what they no longer need.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RunArgument = Annotated[Path, typer.Argument(help="The run folder.")]


@runs.command("list")
@takes()
def list_command(
    console: Console,
    *,
    folder: Annotated[Path, typer.Argument(help="Where the runs are.")] = Path("runs"),
) -> None:
    """List the runs in a folder, the newest first.

    Example: glance runs list
    """
    from glance.runs.listing import list_runs

    found = list_runs(folder)
    console.document({"runs": found})
    if not found:
        console.note(f"there are no runs in {folder}")
        return
    rows = [
        (
            item["run"],
            item["family"],
            *item["states"].values(),
            item["created"][:16].replace("T", " "),
            f"{item['bytes'] / 1e6:.1f}",
        )
        for item in found
    ]
    console.result(format_table(("run", "family", "slow", "fast", "begun", "MB"), rows))


@runs.command("show", cls=PlotCommand)
@takes()
def show(
    console: Console, *, run: RunArgument, plot: PlotOption = None, opens: OpenOption = False
) -> None:
    """Show what `glance info` says of a run; with --plot its losses are drawn larger, or to a file.

    The losses are drawn as the mean of each round of the phase's list: from one timestep to the
    next they differ by far more than training changes them.

    Example: glance runs show runs/glance --plot losses.png
    """
    from glance.interop.info import describe_run
    from glance.runs.listing import plot_run

    require_plot(plot, opens=opens)
    if plot is not None and plot != TERMINAL:
        plot_run(run, plot)
        console.note(f"the losses are drawn in {plot}")
        if opens:
            console.open([plot])
    found = describe_run(run, terminal=console.terminal, is_large=plot == TERMINAL)
    console.document(found.document)
    for line in found.lines:
        console.result(line)


@runs.command("log")
@takes()
def log(
    console: Console,
    *,
    run: RunArgument,
    phase: Annotated[Phase, typer.Option(help="Whose log.")] = Phase.SLOW,
    lines: Annotated[int, typer.Option(min=0, help="The last lines only; 0: all.")] = 0,
) -> None:
    """Print everything that the trainer said in one phase.

    Example: glance runs log runs/glance --phase fast --lines 50
    """
    from glance.runs.listing import read_log

    said = read_log(run, phase).splitlines()[-lines:]
    console.result("\n".join(said))
    console.document({"lines": said})


@runs.command("clean")
@takes()
def clean(
    console: Console,
    *,
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would free, remove nothing.")
    ] = False,
) -> None:
    """Free what neither sampling nor continuing needs: checkpoints and caches of finished runs.

    LoRAs, pair, configs, logs and images stay.

    Example: glance runs clean runs/* --dry-run
    """
    from glance.runs.listing import clean_run

    freed = {str(run): clean_run(run, only_look=dry_run) for run in folders}
    console.document({"freed_bytes": freed, "dry_run": dry_run})
    for run, size in freed.items():
        console.result(f"{run}: {size / 1e6:.1f} MB{' could go' if dry_run else ' freed'}")
