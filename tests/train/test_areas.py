"""Several data sets of one picture, in real SimpleTuner."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image


def test_each_area_and_crop_has_latents_of_its_own(tmp_path: Path, tiny_flux: Path) -> None:
    Image.radial_gradient("L").resize((256, 128)).convert("RGB").save(tmp_path / "x.png")
    arguments = ["--image", "x.png", "--caption", "a circle", "--model", str(tiny_flux)]
    arguments += ["--run", "run", "--steps", "12", "--rank", "4", "--device", "cpu", "--quiet"]
    arguments += ["--resolution", "128,64", "--crop", "whole,center", "--phase", "slow"]
    arguments += ["--launcher", "direct"]
    command = [sys.executable, "-m", "glance", "train", *arguments]

    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    run = tmp_path / "run"
    caches = sorted(path.name for path in run.glob("cache/vae*"))
    assert caches == ["vae", "vae-center-128", "vae-center-64", "vae-whole-64"]
    for cache in caches:
        assert len(list((run / "cache" / cache).rglob("*.pt"))) == 1, cache
    slow = json.loads((run / "glance.json").read_text())["phases"]["slow"]
    assert (slow["state"], slow["attempts"][0]["measured"]["steps"]) == ("done", 12)
