"""`--plot [FILE]`: draw to a file or, where none is given, in the terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from glance.cli._command import Command, CommandGroup

_FLAG = "--plot"
TERMINAL = Path("-")
"""What the option holds where no file is given."""

PlotOption = Annotated[
    Path | None,
    typer.Option(
        _FLAG, metavar="[FILE]", help="Draw it: to a .png or .svg file; without a file, here."
    ),
]


class PlotCommand(Command):
    """A command with `PlotOption`: `command(cls=PlotCommand)`.

    Typer's own Click has no options whose value may be left out (`flag_value`), so a bare `--plot`
    gets the value `-` before it is parsed.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_complete(args)))


class PlotGroup(CommandGroup):
    """The same for a command that has commands below it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_complete(args)))


def _complete(args: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, a `-` after each `--plot` that nothing or an option follows."""
    for place, argument in enumerate(args):
        yield argument
        after = args[place + 1 : place + 2]
        if argument == _FLAG and (not after or (after[0].startswith("-") and after != ["-"])):
            yield str(TERMINAL)
