"""A workflow for a running ComfyUI: asked before, told apart, and nothing sent in silence."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fakes.comfyui import make_job
from fakes.comfyui_server import FakeComfy, serving

from glance.core.errors import InputError, SettingsError, SetupError
from glance.core.phase import Phase
from glance.interop.comfyui import submit as submitting
from glance.interop.comfyui.submit import Upload, submit
from glance.models.families import find_family
from glance.sampling.comfyui.workflow import build_workflow


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
def test_an_address_that_is_none_is_a_bad_value(url: str) -> None:
    with pytest.raises(SettingsError, match=r"--submit .*: that is no address") as refused:
        submit(url, prompt())

    assert "--submit http://127.0.0.1:8188" in (refused.value.problems[0].hint or "")


def test_nobody_answering_is_an_environment_that_lacks_something() -> None:
    with serving(FakeComfy()) as comfy:
        url = comfy.url

    with pytest.raises(
        SetupError, match=r"--submit http://\S+: no ComfyUI answers there \(.*refused\)"
    ):
        submit(url, prompt())


def test_something_else_answering_is_said(comfy: FakeComfy) -> None:
    comfy.lacks = {"KSamplerSelect"}

    with pytest.raises(SetupError, match="is no ComfyUI"):
        submit(comfy.url, prompt())


type Answer = Callable[[BaseHTTPRequestHandler], None]


def saying(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer just that."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def saying_nothing(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def trickling(handler: BaseHTTPRequestHandler) -> None:
    """Answer a byte at a time, so that no single wait is too long."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for _ in range(30):
            handler.wfile.write(b" ")
            time.sleep(0.1)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(bytes(1 << 16))


HTML = b"<!doctype html><title>Router</title>"
REDIRECT = {"Location": "https://comfy.example/object_info"}
LOGIN = {"Location": "/login"}


class TestStrangers:
    """Whatever is at the address, it ends soon and is told apart."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(submitting, "_PATIENCE", 0.6)
        monkeypatch.setattr(submitting, "_MOST_BYTES", 1_000_000)

    @pytest.mark.parametrize(
        ("answer", "said", "hint"),
        [
            (saying_nothing, "nothing came back from /object_info within 0.6 s", "page open"),
            (trickling, "nothing came back from /object_info within 0.6 s", "page open"),
            (endless, "what is there answers without an end", "give the address"),
            (saying(302, **REDIRECT), "it sends on to https://comfy.example/o", "https://comfy.ex"),
            (saying(307, **LOGIN), r"it sends on to /login \(HTTP 307", "is there a login"),
            (
                saying(200, HTML, Content_Type="text/html"),
                "/object_info gives text/html",
                "give th",
            ),
            (saying(200, b"{"), "is no ComfyUI", "give the address"),
            (saying(200, b"[" * 100_000), "is no ComfyUI", "give the address"),
            (saying(200, b"[]"), "is no ComfyUI", "give the address"),
            (saying(401), r"it wants a login \(HTTP 401", "ComfyUI itself"),
            (saying(404), r"it has no /object_info, so it is no ComfyUI \(HTTP 404", "give the"),
            (
                saying(500, HTML),
                r"it failed \(HTTP 500 Internal Server Error\)",
                "in its own window",
            ),
            (saying(502), r"it failed \(HTTP 502", "in its own window"),
        ],
    )
    def test_what_is_no_ready_comfyui_is_said_and_sent_nothing(
        self, comfy: FakeComfy, answer: Answer, said: str, hint: str
    ) -> None:
        comfy.answers["/object_info"] = answer

        with pytest.raises(SetupError, match=f"^--submit {comfy.url}: .*{said}") as refused:
            submit(comfy.url, prompt())

        assert hint in (refused.value.problems[0].hint or "")
        assert comfy.asked == ["/object_info"]

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (saying_nothing, "nothing came back from /prompt"),
            (saying(500), "it failed"),
            (saying(302, **REDIRECT), "it sends on to"),
            (saying(200, HTML), "named no id"),
            (saying(200, b"{}"), "named no id"),
        ],
    )
    def test_a_queue_that_fails_is_no_refusal_of_the_workflow(
        self, comfy: FakeComfy, answer: Answer, said: str
    ) -> None:
        comfy.answers["/prompt"] = answer

        with pytest.raises(SetupError, match=said) as refused:
            submit(comfy.url, prompt())

        assert ("queue" in str(refused.value.problems[0].hint)) == (said[:2] in ("no", "na"))

    @pytest.mark.parametrize(
        "body",
        [b"", b"no", b"[]", b'{"error": 1, "node_errors": [1]}', b'{"node_errors": {"4": 1}}'],
    )
    def test_any_refusal_is_a_refusal(self, comfy: FakeComfy, body: bytes) -> None:
        comfy.answers["/prompt"] = saying(400, body)

        with pytest.raises(InputError, match="refuses the workflow"):
            submit(comfy.url, prompt())

    @pytest.mark.parametrize("odd", [5, None, [], {"input": 5}, {"input": {"required": [1]}}])
    def test_nodes_that_describe_themselves_oddly_are_no_traceback(
        self, comfy: FakeComfy, odd: object
    ) -> None:
        nodes = {**comfy.object_info(), "LoraLoaderModelOnly": odd, "KSamplerSelect": odd}
        comfy.answers["/object_info"] = saying(200, json.dumps(nodes).encode())

        assert submit(comfy.url, prompt()).id == "p-1"

    def test_a_picture_that_cannot_be_sent_is_said(self, tmp_path: Path) -> None:
        picture = tmp_path / "x.png"
        picture.write_bytes(b"pixels")
        with serving(stocked("qwen_image_edit_2509")) as comfy:
            comfy.answers["/upload/image"] = saying(413)
            upload = Upload("reference.png", picture)
            with pytest.raises(SetupError, match=r"it refuses /upload/image \(HTTP 413"):
                submit(comfy.url, prompt("qwen_image_edit_2509"), upload=upload)
