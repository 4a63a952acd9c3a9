"""Runs, images and schedules that glance 0.1.0 wrote before its code was redrawn still load."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glance.cli import app

OLDER = Path(__file__).parents[1] / "fixtures/older"
RUNS = ("trained", "distilled", "imported")
GUIDANCE = {"trained": [3.5, 1.0], "distilled": [3.5, 3.5], "imported": [3.5, 1.0]}


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLDER, tmp_path / "older"))


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_sound_and_sampled_as_it_was_trained(older: Path, name: str) -> None:
    place = older / "runs" / name

    told = json.dumps(run("info", place))
    plan = run("infer", "--run", place, "--model", "small-flux", "--prompt", "x", "--dry-run")

    assert "sound" in told
    assert not {"changed", "missing", "damaged"} & set(told.split('"'))
    settings = plan["pictures"][0]
    assert [settings["slow_guidance"], settings["fast_guidance"]] == GUIDANCE[name]
    steps = [len(plan["schedule"][phase]["timesteps"]) for phase in ("slow", "fast")]
    assert steps == ([2, 2] if name == "distilled" else [5, 5])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_exported_under_the_pairs_own_name(older: Path, name: str) -> None:
    manifest = json.loads((older / "runs" / name / "glance.json").read_text())

    run("export", "comfyui", older / "runs" / name, "--output", older / "out")

    files = [path.name for path in (older / "out").rglob("*.safetensors")]
    assert len(files) == 2
    assert all(manifest["pair_id"][:8] in file for file in files)


@pytest.mark.parametrize(
    ("image", "seed", "prompt"),
    [
        ("one.png", 3, "a tree in a meadow, 'quoted', at noon"),
        ("two.jpg", 4, "a boat"),
        ("three.webp", 0, "snow"),
    ],
)
def test_an_image_says_how_it_was_made(older: Path, image: str, seed: int, prompt: str) -> None:
    words = ("--model", "small-flux", "--run", older / "runs/trained", "--dry-run")

    plan = run("infer", "--from-image", older / "images" / image, *words)

    picture = plan["pictures"][0]
    assert (picture["seed"], picture["prompt"]) == (seed, prompt)


def test_saved_latents_go_on(older: Path) -> None:
    words = ("--model", "small-flux", "--run", older / "runs/distilled", "--dry-run")

    plan = run("infer", "--init-latents", older / "images/two.latents.safetensors", *words)

    assert plan["pictures"][0]["prompt"] == "a boat"


@pytest.mark.parametrize(
    ("file", "slow", "fast"),
    [
        ("guide.json", 1000.0, 20.0),
        ("own.json", 1000.0, 345.4),
        ("optimal.json", 1000.0, 612.9),
    ],
)
def test_a_schedule_is_the_list_it_was(older: Path, file: str, slow: float, fast: float) -> None:
    found = run("schedule", "--schedule", older / "schedules" / file)

    assert round(found["slow"]["timesteps"][0], 1) == slow
    assert round(found["fast"]["timesteps"][-1], 1) == fast
