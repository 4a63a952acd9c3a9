"""What glance believes about SimpleTuner, asked of the installed one in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PARSE = """
import json, sys
from simpletuner.helpers.configuration.cli_utils import mapping_to_cli_args
from simpletuner.helpers.configuration.cmd_args import get_argument_parser
for path in sys.argv[1:]:
    with open(path) as file:
        get_argument_parser().parse_args(mapping_to_cli_args(json.load(file)))
"""


def run_python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_its_parser_accepts_the_rendered_configs() -> None:
    configs = [str(path) for path in (ROOT / "configs").rglob("config.json")]

    done = run_python("-c", PARSE, *configs)

    assert (len(configs) >= 2, done.returncode) == (True, 0), done.stderr[-2000:]


def test_its_options_are_those_recorded() -> None:
    recorded = json.loads((ROOT / "glance/simpletuner/options.json").read_text())

    done = run_python(str(ROOT / "scripts/record_options.py"), "--print")

    assert json.loads(done.stdout) == recorded
