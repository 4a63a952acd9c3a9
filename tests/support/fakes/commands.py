"""A training as users type it, and what it leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.trainer import RunningGlance

SMALL = ["--model", "acme/tiny", "--steps", "5", "--rank", "4", "--resolution", "64"]
TRAIN = ["train", "--image", "cat.png", "--device", "cpu", *SMALL]
MANIFEST = Path("runs/cat/glance.json")

type Glance = Callable[..., Any]
type StartGlance = Callable[..., RunningGlance]


def replaced(command: list[str], **values: object) -> list[str]:
    """Return the command with other values of some of its flags: each may be given once."""
    changed = list(command)
    for name, value in values.items():
        changed[changed.index(f"--{name.replace('_', '-')}") + 1] = str(value)
    return changed


def states(manifest: Path = MANIFEST) -> list[str]:
    phases = json.loads(manifest.read_text())["phases"]
    return [phases["slow"]["state"], phases["fast"]["state"]]


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}
