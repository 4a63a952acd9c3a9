"""Several data sets of one picture, in real SimpleTuner: it trains what glance said."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

VIEWS = ["whole-320x192", "whole-192x128", "center-256x256", "center-128x128"]


def test_what_was_said_is_what_simpletuner_trains(tmp_path: Path, tiny_flux: Path) -> None:
    Image.radial_gradient("L").resize((400, 260)).convert("RGB").save(tmp_path / "x.png")
    arguments = ["--image", "x.png", "--caption", "a circle", "--model", str(tiny_flux)]
    arguments += ["--run", "run", "--steps", "12", "--rank", "4", "--device", "cpu", "--quiet"]
    arguments += ["--resolution", "256,128", "--crop", "whole,center", "--phase", "slow"]
    arguments += ["--launcher", "direct"]
    command = [sys.executable, "-m", "glance", "train", *arguments]
    planned = [*command, "--dry-run", "--json"]

    said = json.loads(subprocess.run(planned, cwd=tmp_path, check=True, capture_output=True).stdout)
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    run = tmp_path / "run"
    sizes = {f"{one['crop']}-{one['width']}x{one['height']}" for one in said["pictures"]}
    assert sizes == set(VIEWS)
    for view in VIEWS:
        size = [int(side) for side in view.split("-")[1].split("x")]
        assert _bucket_metadata(run / "cache/pictures" / view) == {
            "original_size": size,
            "intermediary_size": size,
            "target_size": size,
            "crop_coordinates": [0, 0],
        }
    caches = sorted(path.name for path in run.glob("cache/vae*"))
    assert caches == sorted(["vae", *(f"vae-{view}" for view in VIEWS[1:])])
    for cache in caches:
        assert len(list((run / "cache" / cache).rglob("*.pt"))) == 1, cache
    slow = json.loads((run / "glance.json").read_text())["phases"]["slow"]
    assert (slow["state"], slow["attempts"][0]["measured"]["steps"]) == ("done", 12)


def _bucket_metadata(folder: Path) -> dict[str, Any]:
    """Return what SimpleTuner has written of the only picture in a folder."""
    (file,) = folder.glob("aspect_ratio_bucket_metadata_*.json")
    ((name, found),) = json.loads(file.read_text()).items()
    assert name == str(folder / "x.png")
    return {key: found[key] for key in found if key != "aspect_ratio"}
