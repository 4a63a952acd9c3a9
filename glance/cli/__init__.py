"""The command line: one small file a command, and nothing but request, call, result in it."""

import io
import sys

from glance.cli._app import app


def main() -> None:
    """Run the command line; the entry point of `glance` and of `python -m glance`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name may hold bytes that are no text: shown escaped, never a traceback.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="glance")  # also for `python -m glance`
