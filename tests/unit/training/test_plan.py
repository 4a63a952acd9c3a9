"""What a training is, decided: areas and crops, devices, and what is to be said of them."""

from pathlib import Path

import numpy as np
import pytest
from fakes.runs import make_plan
from PIL import Image
from safetensors.numpy import save_file

from glance.core.errors import InputError, SettingsError
from glance.models.families import FAMILIES
from glance.runs.sample import fitting_area
from glance.runs.view import Crop
from glance.training.plan import TrainingPlan, parse_gpu_ids


def warnings(plan: TrainingPlan) -> list[str]:
    return [warning.message for warning in plan.warnings]


@pytest.mark.parametrize(
    ("size", "area"),
    [
        ((2000, 1000), 1024),
        ((1024, 1024), 1024),
        ((900, 900), 896),
        ((1200, 300), 576),
        ((64, 64), 1024),  # much too small: it is left to be refused
    ],
)
def test_a_picture_is_not_enlarged(size: tuple[int, int], area: int) -> None:
    Image.new("RGB", size).save("x.png")

    assert fitting_area(Path("x.png"), 1024) == area
    Path("x.png").write_bytes(b"no image")
    assert {fitting_area(Path(name), 1024) for name in ("x.png", "none.png", "")} == {1024}


def test_the_choice_is_said_unless_it_was_made(pair: Path) -> None:
    Image.effect_noise((900, 900), 90).convert("RGB").save(pair)

    chosen, given = make_plan(resolution=None), make_plan(resolution="896")

    assert chosen.settings.resolution == given.settings.resolution == 896
    assert "it is trained at resolution 896" in "".join(warnings(chosen))
    assert "896" not in "".join(warnings(given))


def test_several_are_trained_at_once_and_the_largest_counts(pair: Path) -> None:
    Image.effect_noise((256, 256), 90).convert("RGB").save(pair)

    settings = make_plan(resolution="64, 256,64", crop="whole, center").settings

    assert (settings.resolution, settings.also_resolutions) == (256, (64,))
    assert settings.crops == (Crop.WHOLE, Crop.CENTER)


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("resolution", value) for value in ("large", "", "64,", "64,65")),
        *(("crop", value) for value in ("corner", "face", "")),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match=name):
        make_plan(**{name: value})


@pytest.mark.parametrize("text", ["", "0,1,2", "cuda", "-1", "0;1", "0,", "²"])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--gpu-ids"):
        parse_gpu_ids(text)


@pytest.mark.usefixtures("pair")
def test_a_file_that_may_be_of_several_families_is_warned_of() -> None:
    marks = FAMILIES["qwen_image"].marks.diffusers
    save_file({name: np.zeros(1) for name in marks}, "mine.safetensors")

    _, warning = make_plan(model="mine.safetensors").warnings  # FLUX at 64 is the first

    assert warning.message == (
        "mine.safetensors is taken for Qwen-Image; "
        "by its tensors it may also be Qwen-Image-Edit-2509 or Qwen-Image-Edit-2511"
    )
    assert warning.hint == "say which with --family, for example --family qwen_image_edit_2509"
    (size,) = warnings(make_plan(model="mine.safetensors", family="qwen_image"))
    assert size.startswith("--resolution 64: ")


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("model", ["acme/FLUX.1-schnell", "acme/flux-schnell-v2"])
def test_a_model_that_is_distilled_already_is_warned_of(model: str) -> None:
    (warning,) = make_plan(model=model, family="flux").warnings

    assert warning.message.startswith(f"{model.split('/')[1]} is distilled to a few steps already")
    assert warning.hint == "train on a base model such as black-forest-labs/FLUX.1-dev"


@pytest.mark.usefixtures("pair")
def test_what_an_override_replaces_and_what_has_no_effect_is_said() -> None:
    plan = make_plan(overrides=("lora_dropout=0.1", "lora_alpha=4"), steps=4, device="cpu")

    assert warnings(plan) == [
        "--set lora_dropout=0.1: replaces glance's 0.0",
        "--set lora_alpha=4.0: replaces glance's 16.0",
        "4 steps cannot visit the slow phase's 5 timesteps",
        "4 steps cannot visit the fast phase's 5 timesteps",
    ]


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("schedule", [None, "guide"])
def test_whose_list_the_default_is_and_the_models_own_is_said(schedule: str | None) -> None:
    plan = make_plan(schedule=schedule, family="flux")
    (note,) = plan.notes

    own = note.partition(" at 64x64 --schedule auto takes 1000,")
    assert own[0] == "the timesteps are the guide's, made for Qwen-Image; of FLUX.1"
    assert own[2].count(",") == 8 - 1
    assert note in plan.told
    assert make_plan(schedule="paper").notes == make_plan(slow_timesteps="1000,950").notes == ()
