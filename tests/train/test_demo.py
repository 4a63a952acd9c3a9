"""The README's first command, with fewer steps."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from glance.core.files import find_place


def test_the_demo_trains_and_samples_offline(glance: Callable, tmp_path: Path) -> None:
    # as `.venv/bin/glance` is run without activating anything: no scripts on PATH
    own = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    done = glance("demo", "--steps", 5, "--json", **own)

    assert done.code == 0, done.err
    document = done.document
    assert (document["run"], document["distilled"]["run"]) == ("runs/demo", "runs/demo-distilled")
    phases = [*document["phases"].values(), *document["distilled"]["phases"].values()]
    assert [phase["state"] for phase in phases] == ["done"] * 4
    assert document["images"] == ["runs/demo/images/sheet.png"]
    assert Image.open("runs/demo/images/sheet.png").width == 4 * 168 + 8
    labels = ["base, 50 steps", "base, 4 steps", "distilled pair, 4", "guide's pair, 10"]
    for pictures in document["comparison"].values():
        assert [one["variant"] for one in pictures] == labels
        assert [one["distance"] is None for one in pictures] == [True, False, False, False]
    assert document["verdict"]["images"] == 8
    manifest = json.loads(Path("runs/demo-distilled/glance.json").read_text())
    model = find_place(manifest["settings"]["model"], Path("runs/demo-distilled"))
    assert model == Path("runs/demo/model").resolve()
    assert not Path("runs/demo-distilled/cache/teacher").exists()
