"""The recipe of the shipped model runs from nothing to a pipeline, and goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THREADS = os.environ.get("OMP_NUM_THREADS", "2")  # more than there are cores are far slower
SHORT = ("--minutes", "0.05", "--pictures", "64", "--threads", THREADS)


def recipe(script: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/small_flux" / script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    recipe("train_vae.py", "--work", folder, *SHORT)
    for stage in ((), ("--distil",)):
        recipe("train_flux.py", "--work", folder, *SHORT, "--captions", 2, *stage)
    recipe("export.py", "--work", folder, "--model", folder / "model", "--captions", 0)
    return folder


@pytest.mark.extended
def test_it_writes_a_whole_pipeline(work: Path) -> None:
    parts = {path.name for path in (work / "model").iterdir()}

    assert parts >= {"transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer"}


@pytest.mark.extended
def test_a_second_session_goes_on_from_the_first(work: Path) -> None:
    log = [json.loads(line) for line in (work / "flux.jsonl").read_text().splitlines()]
    measured = [entry["step"] for entry in log if entry["event"] == "measure"]

    assert [e["stage"] for e in log if e["event"] == "start"] == ["train", "distil"]
    assert 0 < measured[0] < measured[-1]


@pytest.mark.extended
def test_a_fresh_folder_can_begin_with_the_shipped_weights(tmp_path: Path) -> None:
    shipped = ROOT / "glance/assets/small-flux"

    recipe("train_flux.py", "--work", tmp_path, *SHORT, "--captions", 4, "--warm", shipped)

    log = [json.loads(line) for line in (tmp_path / "flux.jsonl").read_text().splitlines()]
    assert [entry["all"] for entry in log if entry["event"] == "measure"][-1] >= 0.5
