"""Record the options of the installed SimpleTuner in glance/training/simpletuner/options.json.

Run it after changing SimpleTuner's pin: `uv run python scripts/record_options.py`; `--print`
shows them instead. It imports SimpleTuner, so it is a process of its own, outside the package.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simpletuner.helpers.configuration.cmd_args import get_argument_parser

TARGET = Path(__file__).parents[1] / "glance/training/simpletuner/options.json"


def describe(action: argparse.Action) -> dict[str, Any]:
    """Return an option's type by name and, if it has them, its choices."""
    name = getattr(action.type, "__name__", "str")
    kind = "bool" if "bool" in name else name if name in ("int", "float") else "str"
    described: dict[str, Any] = {"type": kind}
    if action.choices:
        described["choices"] = sorted(map(str, action.choices))
    return described


def main() -> None:
    """Write or print the file."""
    options = {
        action.dest: describe(action)
        for action in sorted(get_argument_parser()._actions, key=lambda action: action.dest)
        if action.dest != "help"
    }
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in options.items())
    recorded = json.dumps(version("simpletuner"))
    text = f'{{\n "simpletuner": {recorded},\n "options": {{\n{rows}\n }}\n}}\n'
    if "--print" in sys.argv[1:]:
        sys.stdout.write(text)
    else:
        TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
