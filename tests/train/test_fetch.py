"""A Hub model is fetched first; then SimpleTuner trains on it with nobody there to ask."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from fakes.hub import FakeHub
from PIL import Image

ASSETS = Path(__file__).parents[2] / "glance" / "assets"


def test_training_runs_offline_once_the_model_is_there(tmp_path: Path) -> None:
    hub = FakeHub("acme/small", ASSETS / "small-flux")
    Image.open(ASSETS / "sunset.png").save(tmp_path / "x.png")
    events = tmp_path / "events.jsonl"
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    command = [
        *(sys.executable, "-m", "glance", "train", "--image", "x.png", "--caption", "a sunset"),
        *("--model", "acme/small", "--phase", "slow", "--steps", "2", "--rank", "4"),
        *("--resolution", "64", "--device", "cpu", "--launcher", "direct"),
        *("--events", str(events), "--quiet"),
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **environment}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not _told(events, "PhaseStarted"):
        assert process.poll() is None, process.stderr and process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hub.close()

    _, err = process.communicate(timeout=300)

    assert process.returncode == 0, err[-2000:]
    assert "README.md" not in hub.fetched()
    last = _told(events, "ModelFetched")[-1]
    assert last["bytes"] == last["total_bytes"] > 6_000_000


def _told(events: Path, kind: str) -> list[dict[str, int]]:
    lines = events.read_text().splitlines() if events.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]
