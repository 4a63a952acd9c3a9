"""The README's first command, with fewer steps."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def test_the_demo_trains_and_samples_offline(glance: Callable, tmp_path: Path) -> None:
    own = {"PATH": minimal_path(), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    done = glance("demo", "--steps", 5, "--json", **own)

    assert done.code == 0, done.err
    document = done.document
    assert document["run"] == "runs/demo"
    assert [phase["state"] for phase in document["phases"].values()] == ["done", "done"]
    assert document["images"] == ["runs/demo/images/compare/sheet.png"]
    assert Image.open("runs/demo/images/compare/sheet.png").width == 6 * 168 + 8
    assert document["verdict"]["images"] == len(document["comparison"])
    assert document["sentence"].startswith("3 pictures prove little")
    assert {len(row) for row in document["comparison"].values()} == {5}
    first = next(iter(document["comparison"].values()))[0]
    assert (first["variant"], list(first)) == ("base, 50 steps", ["variant", "seconds", "verdict"])
    manifest = json.loads(Path("runs/demo/glance.json").read_text())
    assert manifest["settings"]["model"] == "model"


def minimal_path() -> str:
    """As `.venv/bin/glance` is run without activating anything: no scripts on PATH."""
    return "/usr/bin:/bin"
