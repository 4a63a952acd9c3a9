"""The README's first command, with fewer steps."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def test_the_demo_trains_and_samples_offline(glance: Callable) -> None:
    done = glance("demo", "--steps", 5, "--json", PATH=minimal_path())

    assert done.code == 0, done.err
    document = done.document
    assert document["run"] == "runs/demo"
    assert [phase["state"] for phase in document["phases"].values()] == ["done", "done"]
    assert Image.open(document["images"][0]).size == (64, 64)
    manifest = json.loads(Path("runs/demo/glance.json").read_text())
    assert manifest["settings"]["model"] == "model"


def minimal_path() -> str:
    """As `.venv/bin/glance` is run without activating anything: no scripts on PATH."""
    return "/usr/bin:/bin"
