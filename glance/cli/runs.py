"""`glance runs`: look at runs, and free what they no longer need."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from glance.cli._command import TERMINAL, OpenOption, PlotCommand, PlotOption, require_plot, takes
from glance.cli.console import Console
from glance.core.errors import Checks, UsageError, as_typed, quoted, shown
from glance.core.phase import Phase
from glance.core.tables import format_table

runs = typer.Typer(
    help="Look at runs, compare and rename them, free what they no longer need.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_LISTED, _WIDEST = 6, 60  # values of a list, characters of a text
_COLUMNS: Final = (
    *("run", "method", "from", "steps", "rank", "side"),
    *("slow loss", "fast loss", "verdict", "begun", "MB"),
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
            item["method"],
            _say_source(item),
            str(item["steps"]),
            str(item["rank"]),
            str(item["resolution"]),
            *(_say_phase(item["states"][one], item["last_loss"][one]) for one in map(str, Phase)),
            item["worth"],
            item["created"][:16].replace("T", " "),
            f"{item['bytes'] / 1e6:.1f}",
        )
        for item in found
    ]
    console.result(format_table(_COLUMNS, rows))


@runs.command("compare")
@takes()
def compare(
    console: Console,
    *,
    folders: Annotated[list[Path], typer.Argument(help="Run folders, two or more.")],
) -> None:
    """Show what differs between runs: settings, images, losses, and what each pair is worth.

    `glance compare` samples with a pair and its base model; this one reads what is recorded.

    Example: glance runs compare runs/glance runs/glance-2
    """
    from glance.runs.listing import compare_runs

    if len(folders) < 2:
        raise UsageError("runs compare: one run", hint="name two or more")
    rows = compare_runs(folders)
    console.document({"runs": [str(run) for run in folders], "differences": rows})
    table = [(name.replace("_", " "), *map(_say_value, values)) for name, values in rows.items()]
    console.result(format_table(("", *map(str, folders)), table, align=str.ljust))


@runs.command("rm")
@takes()
def remove(
    console: Console,
    *,
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs with all that is in them: LoRAs, images, logs.

    Example: glance runs rm runs/glance-2
    """
    from glance.runs.listing import remove_run, require_own

    folders, checks = list(dict.fromkeys(folders)), Checks()
    for run in folders:
        checks.make(partial(require_own, run))
    checks.require()  # all may go, or none does
    if not yes:
        names = ", ".join(map(quoted, folders))
        if not _is_asked():
            raise UsageError(f"runs rm removes {names} for good", hint="add --yes to confirm")
        try:
            is_meant = typer.confirm(f"remove {names} for good?", err=True)
        except typer.Abort:  # Ctrl-C is that, here as elsewhere
            raise KeyboardInterrupt from None
        if not is_meant:
            console.note("nothing is removed")
            console.document({"freed_bytes": {}})
            return
    freed = {str(run): remove_run(run) for run in folders}
    console.document({"freed_bytes": freed})
    for name, size in freed.items():
        console.result(f"{shown(name)}: {size / 1e6:.1f} MB freed")


@runs.command("rename")
@takes()
def rename(
    console: Console,
    *,
    run: RunArgument,
    name: Annotated[str, typer.Argument(help="What it is called from now on.")],
) -> None:
    """Rename a run.

    Example: glance runs rename runs/glance-2 low-rank
    """
    from glance.runs.listing import rename_run

    place = rename_run(run, name)
    console.document({"run": str(place)})
    console.result(str(place))


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
    from glance.cli._description import describe_run
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
    from glance.runs.folder import RunFolder
    from glance.runs.listing import clean_run
    from glance.runs.manifest import load_manifest

    checks = Checks()
    for folder in folders:
        checks.make(partial(load_manifest, RunFolder(folder)))
    checks.require()
    freed = {str(run): clean_run(run, only_look=dry_run) for run in folders}
    console.document({"freed_bytes": freed, "dry_run": dry_run})
    for run, size in freed.items():
        console.result(f"{run}: {size / 1e6:.1f} MB{' could go' if dry_run else ' freed'}")


def _is_asked() -> bool:
    return sys.stdin.isatty()


def _say_source(item: dict[str, Any]) -> str:
    if item["images"]:
        first, more = item["images"][0], len(item["images"]) - 1
        return f"{first} and {more} more" if more else first
    return f"{item['prompts']} prompts" if item["prompts"] else "-"


def _say_phase(state: str, loss: float | None) -> str:
    return state if state != "done" or loss is None else f"{loss:.4g}"


def _say_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_say_value(one)}" for name, one in value.items()) or "-"
    if isinstance(value, list):
        shown = [_say_value(one) for one in value[:_LISTED]]
        return ", ".join([*shown, "..."] if len(value) > _LISTED else shown) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None or value == "" else as_typed(value)[:_WIDEST]
