"""A workflow for a running ComfyUI: asked before, told apart, and nothing sent in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.comfyui import make_job
from fakes.comfyui_server import FakeComfy, serving

from glance.comfyui import build_workflow
from glance.errors import InputError, SetupError, UsageError
from glance.export.comfyui.submit import Upload, submit
from glance.families import find_family
from glance.schedule import Phase


def stocked(family: str = "flux", **changes: Any) -> FakeComfy:
    """A ComfyUI that has all files of the family's workflow."""
    facts = find_family(family).comfyui
    files = {
        "unet_name": [facts.model.name],
        "clip_name": [encoder.name for encoder in facts.text_encoders],
        "vae_name": [facts.vae.name] if facts.vae else [],
        "lora_name": list(make_job(family).loras.values()),
        "image": [],
    }
    return FakeComfy(**{"files": files, **changes})


def prompt(family: str = "flux", **changes: Any) -> dict[str, Any]:
    return build_workflow(make_job(family, **changes)).to_api()


@pytest.fixture
def comfy() -> Iterator[FakeComfy]:
    with serving(stocked()) as running:
        yield running


def problems(raised: Any) -> list[str]:
    return [problem.message for problem in raised.value.problems]


@pytest.mark.parametrize("is_new", [True, False], ids=["combos of 2025", "lists"])
def test_a_workflow_is_queued_as_it_is(comfy: FakeComfy, is_new: bool) -> None:
    comfy.is_new = is_new

    queued = submit(comfy.url, prompt())

    assert queued.to_json() == {"url": comfy.url, "prompt_id": "p-1"}
    assert comfy.prompts == [prompt()]
    assert comfy.asked == ["/object_info", "/prompt"]
    assert comfy.uploads == []


@pytest.mark.parametrize("there", ["glance/{}", "glance\\{}"])
def test_a_lora_is_found_in_a_subfolder(comfy: FakeComfy, there: str) -> None:
    names = [there.format(name) for name in comfy.files["lora_name"]]
    comfy.files["lora_name"] = names

    submit(comfy.url, prompt())

    loaders = [n for n in comfy.prompts[0].values() if n["class_type"] == "LoraLoaderModelOnly"]
    assert [node["inputs"]["lora_name"] for node in loaders] == names


def test_two_files_of_one_name_are_not_guessed_between(comfy: FakeComfy) -> None:
    slow, fast = comfy.files["lora_name"]
    comfy.files["lora_name"] = [f"a/{slow}", f"b/{slow}", fast]

    with pytest.raises(SetupError, match="models/loras"):
        submit(comfy.url, prompt())


def test_everything_that_is_missing_is_said_and_nothing_is_queued(comfy: FakeComfy) -> None:
    comfy.files |= {"lora_name": ["other.safetensors"], "unet_name": []}
    comfy.lacks = {"ManualSigmas"}

    with pytest.raises(SetupError) as raised:
        submit(comfy.url, prompt())

    said = problems(raised)
    slow, fast = (make_job("flux").loras[phase] for phase in Phase)
    assert said[0] == "that ComfyUI has no node ManualSigmas"
    assert "that ComfyUI has no flux1-dev.safetensors in models/diffusion_models" in said
    assert f"that ComfyUI has no {slow} in models/loras; there is other.safetensors" in said
    assert f"that ComfyUI has no {fast} in models/loras; there is other.safetensors" in said
    assert all(problem.hint for problem in raised.value.problems)
    assert comfy.prompts == []


def test_a_reference_is_sent_only_when_that_is_asked(tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"pixels")
    edit = prompt("qwen_image_edit_2509")
    with serving(stocked("qwen_image_edit_2509")) as comfy:
        with pytest.raises(SetupError, match="in input"):
            submit(comfy.url, edit)
        assert comfy.uploads == []

        submit(comfy.url, edit, upload=Upload("reference.png", picture))

    (body,) = comfy.uploads
    assert b"pixels" in body
    assert b'filename="reference.png"' in body
    assert comfy.prompts == [edit]


def test_nothing_is_uploaded_where_something_is_missing(tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"pixels")
    edit = prompt("qwen_image_edit_2509")
    with (
        serving(stocked("qwen_image_edit_2509", lacks={"ManualSigmas"})) as comfy,
        pytest.raises(SetupError, match="ManualSigmas"),
    ):
        submit(comfy.url, edit, upload=Upload("reference.png", picture))

    assert comfy.asked == ["/object_info"]


def test_a_refusal_says_what_comfyui_says(comfy: FakeComfy) -> None:
    comfy.refuses = {
        "error": {"message": "Prompt outputs failed validation"},
        "node_errors": {
            "4": {
                "class_type": "CLIPTextEncode",
                "errors": [{"message": "Return type mismatch", "details": "clip, VAE"}],
            }
        },
    }

    with pytest.raises(InputError, match="CLIPTextEncode: Return type mismatch: clip, VAE"):
        submit(comfy.url, prompt())


def test_a_refusal_without_words_says_its_code(comfy: FakeComfy) -> None:
    comfy.refuses = {}

    with pytest.raises(InputError, match="HTTP 400"):
        submit(comfy.url, prompt())


@pytest.mark.parametrize(
    "url",
    ["localhost:8188", "ftp://x", "http://", "x", "http://[::1", "http://x:99999", "http://a b"],
)
def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="that is no address"):
        submit(url, prompt())


def test_nobody_answering_is_an_environment_that_lacks_something() -> None:
    with serving(FakeComfy()) as comfy:
        url = comfy.url

    with pytest.raises(SetupError, match="no ComfyUI answers at"):
        submit(url, prompt())


def test_something_else_answering_is_said(comfy: FakeComfy) -> None:
    comfy.lacks = {"KSamplerSelect"}

    with pytest.raises(SetupError, match="is no ComfyUI"):
        submit(comfy.url, prompt())
