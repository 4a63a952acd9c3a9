"""What is asked of the page's server, as it is typed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from glance.core.options import Flag, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRequest:
    """What the user typed, unchecked."""

    host: Annotated[
        str,
        Flag(
            "Address to listen at. Any but this machine's own (127.0.0.1, ::1, localhost) needs "
            "the token that is printed.",
            Group.RUN,
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Flag("Port; 0: any that is free.", Group.RUN, least=0, most=65_535)] = 7870
    share_nothing: Annotated[
        bool,
        Flag(
            "Refuse any other --host, and keep what the page starts off the network: models must "
            "be here already.",
            Group.RUN,
        ),
    ] = False
    read: Annotated[
        tuple[Path, ...],
        Flag(
            "Further folder that pages may read, such as your base models'; repeatable. Default: "
            "the working folder alone.",
            Group.RUN,
        ),
    ] = ()
    opens: Annotated[bool, Flag("Do not open a browser.", Group.RUN, off="--no-open")] = True
