"""The command line: one small file a command, and nothing but request, call, result in it."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the command line; the entry point of `glance` and of `python -m glance`."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python began
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            # A file name may hold bytes that are no text: shown escaped, never a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        from glance.cli._app import app

        app(prog_name="glance")  # also for `python -m glance`
    except KeyboardInterrupt:  # Ctrl-C before a command has begun: later it is heard in there
        from glance.core.errors import INTERRUPTED

        if "--json" in sys.argv:
            error = {"exit_code": INTERRUPTED, "problems": [{"message": "stopped"}]}
            sys.stdout.write(json.dumps({"error": error}, indent=2) + "\n")
        sys.exit(INTERRUPTED)


def __getattr__(name: str) -> Any:
    """Import the app when it is asked for: `main` does it where Ctrl-C is heard."""
    if name == "app":
        from glance.cli._app import app

        return app
    raise AttributeError(name)
