"""Where a base model is: on the Hub, in a folder, or not where it was."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.models import make_model
from safetensors.numpy import save_file

from glance.core.errors import ModelNotFound, SettingsError
from glance.models.base import BaseModel, check_folder, detect_family
from glance.models.families import FAMILIES, Family, find_family

FLUX = find_family("flux")
HINT = (
    f"give --model a folder that holds model_index.json, or a Hub id such as {FLUX.default_model}"
)
BROKEN = (b"", b"\xff", b"{}", b"[]", b'"flux"', b"[" * 10_000)
NAMES = ("flux", "flux dev", "me/", "-me/x", "a\0b")  # neither folders nor on the Hub


def locate(model: str, run: Path = Path("runs/cat")) -> str:
    return BaseModel.resolve(model, family="flux").record(run)[0]


def recorded(model: str, run: Path) -> BaseModel:
    return BaseModel.recorded(model, None, family="flux", start=run)


@pytest.mark.parametrize(
    ("made", "given", "recorded"),
    [
        (None, "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-dev"),
        (None, "me/my_model-2.0", "me/my_model-2.0"),
        ("model", "model", "../../model"),
        ("model", "./model", "../../model"),
        ("model", "../work/model", "../../model"),
        ("runs/cat/model", "runs/cat/model", "model"),
        ("../flux", "~/flux", "../../../flux"),
    ],
)
def test_a_model_is_recorded_as_seen_from_the_run(
    made: str | None, given: str, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if made is not None:
        make_model(Path(made))
    assert locate(given) == recorded


def test_folder_goes_before_a_hub_id_of_the_same_name() -> None:
    make_model(Path("me/mine"))
    found = locate("me/mine")
    assert recorded(found, Path("runs/cat")).location == str(Path("me/mine").resolve())
    assert locate("me/mine", Path()) == "./me/mine"


@pytest.mark.parametrize(
    ("model", "said", "hint"),
    [
        *((name, "{}: not found", HINT) for name in ("./flux", "/no/flux", "~/flux", "a/b/c")),
        ("..\\flux", "{}: not found", HINT),
        ("https://huggingface.co/me/flux/tree/main", "{}: not", "of the Hub: --model me/flux"),
        ("flux.zip", "{}: is a file, not a folder in diffusers layout", HINT),
        ("me2/flux.zip", "{}: is a file, not a folder in diffusers layout", HINT),
        *((name, "{!r} is neither a folder nor a Hub id", "a Hub id looks like") for name in NAMES),
        ("~nobody-here/flux", "{}: Could not determine home directory.", HINT),
        ("x" * 300, "{}: File name too long", HINT),
    ],
)
def test_what_is_no_model_is_not_found(model: str, said: str, hint: str) -> None:
    Path("me2").mkdir()
    for name in ("flux.zip", "me2/flux.zip"):
        Path(name).touch()
    with pytest.raises(ModelNotFound) as caught:
        locate(model)
    [problem] = caught.value.problems
    assert problem.message.startswith(f"model {said.format(model)}")
    assert (problem.hint or "").startswith(hint)


@pytest.mark.parametrize("model", ["", " "])
def test_an_empty_name_is_neither_the_default_nor_the_folder_that_one_is_in(model: str) -> None:
    with pytest.raises(SettingsError, match="the model's name is empty"):
        locate(model)


def test_all_missing_parts_are_named(tmp_path: Path) -> None:
    check_folder(make_model(tmp_path / "whole"), FLUX)
    folder = make_model(tmp_path / "flux", text_encoder=["transformers", "CLIPTextModel"])
    (folder / "transformer").rmdir()
    with pytest.raises(ModelNotFound, match=rf"^model {folder} lacks transformer, text_encoder$"):
        check_folder(folder, FLUX)


def test_model_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "sd", _class_name="StableDiffusionPipeline")
    with pytest.raises(SettingsError, match=r"is a StableDiffusionPipeline, FLUX\.1 needs a Flux"):
        check_folder(folder, FLUX)


@pytest.mark.parametrize("index", [None, *BROKEN])
def test_folder_without_readable_index_is_refused(tmp_path: Path, index: bytes | None) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_bytes(index)
    file = tmp_path / "flux1-dev.safetensors"
    file.touch()
    with pytest.raises(ModelNotFound, match=r"there is no readable model_index\.json") as caught:
        check_folder(tmp_path, FLUX)
    assert caught.value.problems[0].hint == f"of a single file: --model {file}"
    assert detect_family(str(tmp_path)) is None


def test_recorded_folder_is_found_again_through_a_link(tmp_path: Path) -> None:
    make_model(Path("flux"))
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    Path("runs").symlink_to(tmp_path / "disk" / "deep")
    run = Path("runs/cat")
    written = locate("flux", run)
    run.mkdir()
    assert Path(recorded(written, run).location).samefile("flux")
    assert recorded(written, run).hub_models == ()


def test_what_a_family_borrows_comes_from_the_hub_too() -> None:
    hidream, auraflow = find_family("hidream"), find_family("auraflow")
    assert hidream.borrowed is not None
    make_model(Path("hidream"))
    assert BaseModel(hidream, "hidream").hub_models == (hidream.borrowed.model,)
    assert BaseModel(auraflow, auraflow.default_model).hub_models == (auraflow.default_model,), (
        "its text encoder's own model, once"
    )


def test_sampling_borrows_only_what_the_model_lacks() -> None:
    hidream, flux2 = find_family("hidream"), find_family("flux2")
    assert hidream.borrowed is not None
    assert flux2.borrowed is not None

    assert BaseModel(hidream, "acme/own").sampled_hub_models == ("acme/own", hidream.borrowed.model)
    own = BaseModel(flux2, flux2.default_model)
    assert own.sampled_hub_models == (flux2.default_model,)
    assert own.hub_models == (flux2.default_model, flux2.borrowed.model)


def test_another_model_of_a_family_has_text_encoders_of_its_own() -> None:
    klein = find_family("flux2_klein")

    larger = BaseModel(klein, "black-forest-labs/FLUX.2-klein-base-9B").weights

    assert (larger.transformer, larger.text_encoders, larger.known) == (9.08, (8.19,), True)
    (encoder,) = klein.comfyui.find_text_encoders("flux-2-klein-base-9b.safetensors")
    assert encoder.name == "qwen_3_8b_fp8mixed.safetensors"
    (usual,) = klein.comfyui.find_text_encoders("flux-2-klein-base-4b.safetensors")
    assert usual.name == "qwen_3_4b.safetensors"


def test_recorded_folder_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"^the run's base model is not at") as caught:
        recorded("../../flux", tmp_path)
    assert "--model" in (caught.value.problems[0].hint or "")


def test_a_fingerprint_moves_with_the_folder_and_changes_with_it(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    before = BaseModel(FLUX, str(model)).fingerprint
    moved = model.rename(model.with_name("moved"))
    assert BaseModel(FLUX, str(moved)).fingerprint == before

    (moved / "model_index.json").write_text("{}")

    assert BaseModel(FLUX, str(moved)).fingerprint != before


def test_a_folder_and_a_cached_hub_model_say_their_own(tmp_path: Path) -> None:
    for name, pipeline in (("sd3", "StableDiffusion3Pipeline"), ("flux", "FluxPipeline")):
        folder = make_model(tmp_path / name, _class_name=pipeline)
        assert detect_family(str(folder)) is find_family(name)
    assert detect_family("acme/tiny") is FLUX  # in the tests' own cache
    assert detect_family(str(make_model(tmp_path / "odd", _class_name=3))) is None
    assert detect_family("acme/unseen") is None  # nobody can say offline


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_default_models_are_known_without_looking(family: Family) -> None:
    assert detect_family(family.default_model) is family


@pytest.mark.parametrize(
    ("transformer", "name"),
    [
        ({"zero_cond_t": True}, "qwen_image_edit_2511"),
        ({"zero_cond_t": False}, "qwen_image_edit_2509"),
        ({"num_layers": 60}, "qwen_image_edit_2509"),
    ],
)
def test_families_of_one_pipeline_are_told_by_the_transformer(
    transformer: dict[str, Any], name: str, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "edit", _class_name="QwenImageEditPlusPipeline")
    (folder / "transformer/config.json").write_text(json.dumps(transformer))

    assert detect_family(str(folder)) is find_family(name)
    check_folder(folder, find_family(name))
    (other,) = {"qwen_image_edit_2509", "qwen_image_edit_2511"} - {name}
    with pytest.raises(SettingsError) as caught:
        check_folder(folder, find_family(other))
    (problem,) = caught.value.problems
    titles = find_family(name).title, find_family(other).title
    assert problem.message == f"model {folder} is {titles[0]}, not {titles[1]}"
    assert problem.hint == f"leave out --family, or say --family {name}"


@pytest.mark.parametrize("config", [None, "[]", '{"zero_cond_t": 7}'])
def test_without_config_the_user_is_believed(config: str | None, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "edit", _class_name="QwenImageEditPlusPipeline")
    if config is not None:
        (folder / "transformer/config.json").write_text(config)

    assert detect_family(str(folder)) is None
    check_folder(folder, find_family("qwen_image_edit_2509"))
    check_folder(folder, find_family("qwen_image_edit_2511"))


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("StableDiffusionXLPipeline", "SDXL .* is no flow model: it predicts noise"),
        ("StableDiffusionPipeline", "Stable Diffusion 1.5 and 2 .* is no flow model"),
        ("WanPipeline", "family .WanPipeline. is not supported"),
    ],
)
def test_what_cannot_work_says_why(pipeline: str, words: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", _class_name=pipeline)

    with pytest.raises(SettingsError, match=words):
        detect_family(str(folder))


def test_a_name_goes_before_the_model() -> None:
    assert BaseModel.resolve("acme/unseen", family="sd3").family.name == "sd3"
    assert BaseModel.resolve("acme/tiny").family is FLUX
    assert BaseModel.resolve(None).family is FLUX


def test_the_small_model_is_known_by_what_is_in_it() -> None:
    ours = Path(str(files("glance") / "assets/small-flux"))
    shutil.copytree(ours, "copy")
    shutil.copytree(ours, "other")
    (Path("other") / "scheduler/scheduler_config.json").write_text("{}")

    small = BaseModel.resolve("small-flux")
    assert (small.is_packaged, small.side) == (True, 64)
    assert BaseModel(FLUX, "copy").is_packaged
    assert not BaseModel(FLUX, "other").is_packaged
    assert not BaseModel(FLUX, FLUX.default_model).is_packaged


def test_a_folder_is_seen_from_here_and_found_again_from_the_run() -> None:
    model = BaseModel.resolve(str(make_model(Path("models/flux")).absolute()))
    run = Path("runs/cat")

    assert (model.family, model.location, model.name) == (FLUX, "models/flux", "flux")
    assert (model.folder, model.hub_models) == (Path("models/flux"), ())
    assert model.record(run) == ("../../~8edc/flux", None)
    assert BaseModel.resolve("models/flux") == model
    found = BaseModel.recorded(*model.record(run), family="flux", start=run)
    assert found.location == str(Path("models/flux").absolute())
    assert (found.record(run), found.fingerprint) == (model.record(run), model.fingerprint)


def test_the_default_is_the_familys() -> None:
    model = BaseModel.resolve(None, family="sd3")

    assert (model.location, model.folder) == (find_family("sd3").default_model, None)
    assert (model.name, model.side) == ("stable-diffusion-3.5-medium", 1024)
    assert model.hub_models == (model.location,)
    assert model.record(Path("runs/cat")) == (model.location, None)
    assert BaseModel.recorded(model.location, None, family="sd3", start=Path()) == model


def write(path: str, millions: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.zeros((millions, 1000, 1000), np.int8), "b": np.zeros(3)}, path)


def test_a_folder_is_counted_part_by_part() -> None:
    write("model/transformer/part-1.safetensors", 2)
    write("model/transformer/part-2.safetensors", 3)
    write("model/text_encoder/model.safetensors", 1)
    write("model/text_encoder_2/model.safetensors", 4)
    write("model/vae/model.safetensors", 9)

    found = BaseModel(FLUX, "model").weights

    assert (found.transformer, found.text_encoders) == (0.005, (0.001, 0.004))

    for number, content in enumerate((b"", b"\xff" * 40, b"\x02" + bytes(7) + b"[]")):
        Path(f"model/transformer/{number}.safetensors").write_bytes(content)  # damaged
    assert BaseModel(FLUX, "model").weights == found


def test_a_hub_model_is_known_by_its_name_and_a_single_file_takes_the_transformers_place() -> None:
    write("mine.safetensors", 2)
    sd3, large = find_family("sd3"), "stabilityai/stable-diffusion-3.5-large"

    found = BaseModel(FLUX, "acme/x", Path("mine.safetensors")).weights

    assert (found.transformer, found.text_encoders) == (0.002, (0.12, 4.76))
    assert BaseModel(sd3, sd3.default_model).weights.transformer == 2.24
    assert BaseModel(sd3, large).weights.transformer == 8.06
