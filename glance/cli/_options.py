"""What commands take besides their request: same flag, same help, everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from glance.core.options import Group

DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be done; write and load nothing.",
        rich_help_panel=Group.RUN,
    ),
]
EventsOption = Annotated[
    Path | None,
    typer.Option(
        "--events",
        metavar="PATH",
        help="Append one JSON event a line to this file; - for stdout.",
        rich_help_panel=Group.RUN,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON document on stdout, at the end.", rich_help_panel=Group.RUN
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Results and errors only.", rich_help_panel=Group.RUN)
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Everything, the trainer's own output too.",
        rich_help_panel=Group.RUN,
    ),
]
