"""Real training on a single file: the LoRA is that of the whole model that the file came from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import build_tiny, layouts

from glance.models.lora.file import read_lora


def train(folder: Path, run: str, *model: str) -> Path:
    subprocess.run(
        [
            *(sys.executable, "-m", "glance", "train", "--image", "slope.png", "--run", run),
            *("--phase", "slow", "--steps", "5", "--rank", "4", "--resolution", "64"),
            *("--device", "cpu", "--launcher", "direct", *model),
        ],
        cwd=folder,
        env={**os.environ, "GLANCE_SHARED": str(folder / "shared")},  # as a batch has it
        check=True,
    )
    return folder / run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of the whole model, one of its transformer in ComfyUI's layout and another base."""
    folder = tmp_path_factory.mktemp("single")
    base, whole = (build_tiny("z_image", folder / str(seed), seed=seed) for seed in (1, 2))
    for part in ("vae", "text_encoder"):
        shutil.rmtree(whole / part)
        shutil.copytree(base / part, whole / part)
    tensors = layouts.original_z_image(layouts.weights(whole))
    layouts.write(tensors, folder / "mine.safetensors", prefix=layouts.COMFY)
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(folder / "slope.png")
    (folder / "slope.txt").write_text("a grey slope\n")
    return (
        train(folder, "of-whole", "--model", whole.name),
        train(folder, "of-file", "--model", "mine.safetensors", "--pipeline", base.name),
    )


def test_the_files_transformer_was_trained_on(runs: tuple[Path, Path]) -> None:
    of_whole, of_file = (
        read_lora(run / "output/glance-slow/pytorch_lora_weights.safetensors") for run in runs
    )
    assert of_whole.tensors.keys() == of_file.tensors.keys()
    for name, tensor in of_whole.tensors.items():
        assert (tensor.to_float() == of_file.tensors[name].to_float()).all()


def test_the_run_remembers_the_file_and_its_base(runs: tuple[Path, Path]) -> None:
    settings = json.loads((runs[1] / "glance.json").read_text())["settings"]

    assert (settings["model"], settings["transformer"]) == ("../1", "../mine.safetensors")


def test_what_other_runs_of_a_batch_need_too_is_kept_for_them(runs: tuple[Path, Path]) -> None:
    shared = runs[0].parent / "shared"

    (transformer,) = shared.glob("transformer-*")
    (weights,) = transformer.glob("*.safetensors")
    assert weights.samefile(runs[1] / "transformer" / weights.name)
    for run in runs:  # each model has encoders of its own
        (text,) = (run / "cache/text").iterdir()
        assert sum(text.samefile(one) for one in shared.glob("texts-*/*")) == 1
