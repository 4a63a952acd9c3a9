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
    assert document["images"] == ["runs/demo/images/sheet.png"]
    assert Image.open("runs/demo/images/sheet.png").width == 6 * 168 + 8
    assert {len(row) for row in document["comparison"].values()} == {5}
    manifest = json.loads(Path("runs/demo/glance.json").read_text())
    assert manifest["settings"]["model"] == "model"


def minimal_path() -> str:
    """As `.venv/bin/glance` is run without activating anything: no scripts on PATH."""
    return "/usr/bin:/bin"
