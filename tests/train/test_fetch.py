"""A Hub model is fetched first; then SimpleTuner trains on it with nobody there to ask.

It trains on several data sets of one picture: on what glance said.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.hub import FakeHub
from PIL import Image
from real_training import wait_until

ASSETS = Path(__file__).parents[2] / "glance" / "assets"
VIEWS = ["whole-320x192", "whole-192x128", "center-256x256", "center-128x128"]


@pytest.fixture(scope="module")
def hub() -> FakeHub:
    return FakeHub("acme/small", ASSETS / "small-flux")


@pytest.fixture(scope="module")
def trained(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a training whose Hub went away when it began, and what was said before."""
    folder = tmp_path_factory.mktemp("fetched")
    Image.radial_gradient("L").resize((400, 260)).convert("RGB").save(folder / "x.png")
    online = {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    command = [
        *(sys.executable, "-m", "glance", "train", "--image", "x.png", "--caption", "a circle"),
        *("--model", "acme/small", "--run", "run", "--phase", "slow", "--steps", "12"),
        *("--rank", "4", "--resolution", "256,128", "--crop", "whole,center", "--device", "cpu"),
        *("--launcher", "direct", "--events", "events.jsonl", "--quiet"),
    ]
    environment = {**os.environ, **online}
    planning = [*command, "--dry-run", "--json"]
    planned = subprocess.check_output(planning, cwd=folder, env=environment)
    process = subprocess.Popen(command, cwd=folder, env=environment)
    wait_until(lambda: told(folder, "PhaseStarted"), process)
    hub.close()
    assert process.wait(timeout=300) == 0
    return folder, json.loads(planned)


def test_it_trains_offline_once_the_model_is_there(hub: FakeHub, trained: tuple[Path, Any]) -> None:
    last = told(trained[0], "ModelFetched")[-1]

    assert "README.md" not in hub.fetched()
    assert last["bytes"] == last["total_bytes"] > 6_000_000


def test_what_was_said_is_what_simpletuner_trains(trained: tuple[Path, Any]) -> None:
    folder, said = trained
    run = folder / "run"

    sizes = {f"{one['crop']}-{one['width']}x{one['height']}" for one in said["pictures"]}
    assert sizes == set(VIEWS)
    for view in VIEWS:
        size = [int(side) for side in view.split("-")[1].split("x")]
        (file,) = (run / "cache/pictures" / view).glob("aspect_ratio_bucket_metadata_*.json")
        ((name, found),) = json.loads(file.read_text()).items()
        assert name == str(file.with_name("x.png"))
        for key in ("original_size", "intermediary_size", "target_size"):
            assert found[key] == size
        assert found["crop_coordinates"] == [0, 0]
    caches = sorted(path.name for path in run.glob("cache/vae*"))
    assert caches == sorted(["vae", *(f"vae-{view}" for view in VIEWS[1:])])
    for cache in caches:
        assert len(list((run / "cache" / cache).rglob("*.pt"))) == 1, cache
    slow = json.loads((run / "glance.json").read_text())["phases"]["slow"]
    assert (slow["state"], slow["attempts"][0]["measured"]["steps"]) == ("done", 12)


def told(folder: Path, kind: str) -> list[dict[str, int]]:
    events = folder / "events.jsonl"
    lines = events.read_text().splitlines() if events.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]
