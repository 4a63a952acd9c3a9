"""Which models `glance train` takes, and what goes with them."""

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.commands import TRAIN, Glance
from fakes.trainer import FakeSimpleTuner
from PIL import Image
from safetensors.numpy import save_file

from glance.models.families import find_family

pytest_plugins = ["fakes.plugin"]
pytestmark = pytest.mark.usefixtures("pair")


def test_a_single_file_is_trained_with_the_rest_of_its_base(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    marks = find_family("sd3").marks.original
    save_file({name: np.zeros(1) for name in marks}, "mine.safetensors")

    done = invoke(
        *("train", "--image", "cat.png", "--resolution", "64", "--device", "cpu"),
        *("--model", "mine.safetensors", "--pipeline", "acme/sd3", "--dry-run", "--json"),
    )

    assert done.code == 0
    config = json.loads(done.out)["files"]["config/glance-slow/config.json"]
    assert config["model_family"] == "sd3", "read from the file"
    assert config["pretrained_model_name_or_path"] == "acme/sd3"
    assert config["pretrained_transformer_model_name_or_path"] == "transformer"
    assert not Path("runs").exists()


def test_a_lora_is_no_model_to_train_on(invoke: Glance, simpletuner: FakeSimpleTuner) -> None:
    save_file({"transformer.a.lora_A.weight": np.zeros(1)}, "lora.safetensors")

    done = invoke("train", "--image", "cat.png", "--model", "lora.safetensors", "--dry-run")

    assert done.code == 4
    assert done.err.startswith("error: model lora.safetensors is a LoRA, not a model to train on\n")


def test_a_cached_model_of_another_family_is_refused(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    done = invoke(*TRAIN, "--family", "sd3", "--dry-run")

    assert done.code == 4
    assert done.err == (
        "error: model acme/tiny is a FluxPipeline, Stable Diffusion 3.5 needs a "
        "StableDiffusion3Pipeline\n"
        "  hint: leave out --family, or give the model that belongs to it\n"
    )


def test_what_comes_next_for_a_family_that_edits(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    Path("edit/transformer").mkdir(parents=True)
    Path("edit/model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    Image.new("RGB", (64, 64)).save("before.png")
    train = ("train", "--image", "cat.png", "--resolution", "64", "--steps", "5", "--rank", "4")
    family = ("--family", "qwen_image_edit_2509", "--model", "edit", "--device", "cpu")

    refused = invoke(*train, *family)
    done = invoke(*train, *family, "--source-image", "before.png")

    assert refused.code == 4
    assert "pass it with --source-image" in refused.err
    assert done.code == 0
    assert 'next: glance infer --run runs/cat --prompt "..." --source-image x.png' in done.err
    without = invoke("infer", "--prompt", "by night")
    assert without.code == 4
    assert without.err.startswith(
        "error: Qwen-Image-Edit-2509 edits a picture, and there is no --source-image\n"
    )
    unfit = invoke("infer", "--prompt", "by night", "--source-image", "cat.txt")
    assert unfit.code == 4
    assert unfit.err.startswith("error: reference cat.txt")


def test_a_picture_to_edit_is_refused_where_nothing_edits(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    invoke(*TRAIN)

    done = invoke("infer", "--prompt", "x", "--source-image", "cat.png")

    assert done.code == 4
    assert done.err.startswith("error: --source-image cat.png: FLUX.1 generates from text alone\n")
