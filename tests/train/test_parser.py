"""SimpleTuner's own parser takes what is rendered for every family. It runs in its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

from glance.models.families import FAMILIES

ROOT = Path(__file__).parents[2]
# What SimpleTuner itself does with config.json; parsing checks names, types and choices.
PARSE = """
import json, sys
from simpletuner.helpers.configuration.cli_utils import mapping_to_cli_args
from simpletuner.helpers.configuration.cmd_args import parse_cmdline_args
for line in sys.stdin:
    given = json.loads(line)
    parsed = vars(parse_cmdline_args(mapping_to_cli_args(given), exit_on_error=True))
    print("parsed", json.dumps({name: str(parsed[name]) for name in given}))
"""
COMPARED = ("model_family", "lora_rank", "flow_custom_timesteps", "max_train_steps", "optimizer")


def test_every_familys_config_is_accepted(tmp_path: Path) -> None:
    configs = [
        json.loads((ROOT / f"configs/{family}/config/glance-{phase}/config.json").read_text())
        for family in FAMILIES
        for phase in ("slow", "fast")
    ]

    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input="\n".join(json.dumps(given) for given in configs),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "GLANCE_WEBHOOK": "", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )

    lines = [line for line in done.stdout.splitlines() if line.startswith("parsed ")]
    assert len(lines) == len(configs), done.stderr[-2000:]
    for given, line in zip(configs, lines, strict=True):
        parsed = json.loads(line.removeprefix("parsed "))
        assert {n: parsed[n] for n in COMPARED} == {n: str(given[n]) for n in COMPARED}
