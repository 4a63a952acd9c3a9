"""Sending a workflow to a running ComfyUI, after asking it whether it has all that is needed."""

import json
import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from glance.core.errors import InputError, Problem, SettingsError, SetupError
from glance.interop.comfyui.write import ComfyExport

if TYPE_CHECKING:
    import httpx

_PATIENCE: Final = 20.0  # seconds; /object_info of a ComfyUI with many nodes takes some
_TO_CONNECT: Final = 5.0
_NODES: Final = "/object_info"
_PROMPT: Final = "/prompt"
_MOST_BYTES: Final = 100_000_000  # /object_info of hundreds of nodes has a tenth of it
_USUAL: Final = "http://127.0.0.1:8188"
_ADDRESS: Final = f"give the address of its page: --submit {_USUAL}"
_QUEUED: Final = "it may be queued all the same: look at ComfyUI's queue before you send it again"
_FOLDERS: Final = {
    "lora_name": "models/loras",
    "unet_name": "models/diffusion_models",
    "ckpt_name": "models/checkpoints",
    "vae_name": "models/vae",
    "image": "input",
    **{f"clip_name{number}": "models/text_encoders" for number in ("", 1, 2, 3, 4)},
}
"""Where ComfyUI looks for what an input names."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A workflow in a ComfyUI's queue."""

    url: str
    id: str
    """What GET /history/ID tells of it."""

    def to_json(self) -> dict[str, str]:
        """Return what `--json` prints of it."""
        return {"url": self.url, "prompt_id": self.id}


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture for ComfyUI's input folder."""

    name: str
    """What it is called there; the pair's id is in it, so that it replaces only itself."""
    path: Path


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back, read to its end."""

    status: int
    reason: str
    location: str
    """Where it sends on to, if anywhere."""
    kind: str
    """The content's type, as it is said."""
    content: Any
    """Of the JSON; None where it is none."""


def submit(url: str, prompt: Mapping[str, Any], *, upload: Upload | None = None) -> Submitted:
    """Queue the API JSON `prompt` in the ComfyUI at `url`.

    Before that it is asked for its nodes: each must be there, and every file that is named, in
    whatever subfolder. Nothing is sent but the workflow, and `upload` if there is one.

    Raises SettingsError for an address that is none, SetupError when no ComfyUI answers there in
    time or nodes or files are missing (all of them at once), InputError when it refuses the
    workflow.
    """
    import httpx

    _check_url(url)
    limits = httpx.Timeout(_PATIENCE, connect=_TO_CONNECT)
    with httpx.Client(base_url=url.rstrip("/"), timeout=limits) as client:
        nodes = _read_nodes(_ask(client, url, "GET", _NODES), url)
        prompt = find_files(prompt, nodes)
        sent = () if upload is None else (upload.name,)
        problems = list(find_missing(prompt, nodes, sent=sent))
        if problems:
            raise SetupError(problems)
        if upload is not None:
            _send(client, url, upload)
        answer = _ask(client, url, "POST", _PROMPT, json={"prompt": prompt})
    return Submitted(url, _read_id(answer, url))


def submit_planned(url: str, planned: ComfyExport, *, upload_reference: bool) -> Submitted:
    """Queue what an export would write; `upload_reference`: send the picture that is edited.

    Raises what `submit` raises, SettingsError too where there is no such picture to send.
    """
    upload, name = None, planned.job.reference
    if upload_reference:
        if planned.reference is None or name is None:
            raise SettingsError(
                "--upload-reference: nothing is edited here, so there is no reference to send",
                hint="leave it out",
            )
        upload = Upload(name, planned.reference)
    return submit(url, planned.graph.to_api(), upload=upload)


def find_files(prompt: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the workflow with files by the names that this ComfyUI has for them: some lie in
    subfolders."""
    return {
        id_: {
            **node,
            "inputs": {
                name: _place(value, _choices(_inputs(nodes, node).get(name)))
                for name, value in node["inputs"].items()
            },
        }
        for id_, node in prompt.items()
    }


def _place(value: Any, choices: list[Any] | None) -> Any:
    if choices is None or value in choices or not isinstance(value, str):
        return value
    # it may run on Windows, whose paths this reads as well as others
    same = [one for one in choices if PureWindowsPath(str(one)).name == value]
    return same[0] if len(same) == 1 else value


def _inputs(nodes: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a node takes, by name; of a node that describes itself oddly, nothing."""
    info = _mapping(_mapping(nodes.get(node["class_type"])).get("input"))
    return {**_mapping(info.get("required")), **_mapping(info.get("optional"))}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def find_missing(
    prompt: Mapping[str, Any], nodes: Mapping[str, Any], *, sent: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield what a ComfyUI lacks that says this of its nodes (GET /object_info).

    Files in `sent` will be there in time.
    """
    lacking = sorted({node["class_type"] for node in prompt.values()} - set(nodes))
    for name in lacking:
        yield Problem(f"that ComfyUI has no node {name}", "update it: ManualSigmas is of Dec 2025")
    for node in prompt.values():
        if node["class_type"] not in lacking:
            yield from _missing_files(node, _inputs(nodes, node), sent)


def _missing_files(
    node: Mapping[str, Any], inputs: Mapping[str, Any], sent: Collection[str]
) -> Iterator[Problem]:
    for name, value in node["inputs"].items():
        choices = _choices(inputs.get(name))
        if choices is None or isinstance(value, list) or value in (*choices, *sent):
            continue
        folder = _FOLDERS.get(name)
        if folder is None:
            yield Problem(
                f"{node['class_type']} of that ComfyUI knows no {name} {value}", "update it"
            )
            continue
        there = f"; there is {', '.join(map(str, choices[:5]))}" if choices else ""
        yield Problem(
            f"that ComfyUI has no {value} in {folder}{there}",
            _remedy(name, str(value)),
        )


def _remedy(name: str, value: str) -> str:
    match name:
        case "unet_name" | "ckpt_name":
            return "put it there, or name the one that is: --model-file NAME"
        case "image":
            return "put it there, or let it be sent: --upload-reference"
        case "lora_name":
            return f"copy {value} there: `glance export comfyui` without --submit writes it"
        case _:
            return f"put {value} there; the export's README.md says where it is to be had"


def _choices(spec: Any) -> list[Any] | None:
    """Return what a combo offers: a list, or since 2025 also COMBO with its options."""
    if not isinstance(spec, list) or not spec:
        return None
    if isinstance(spec[0], list):
        return spec[0]
    options = _mapping(spec[1]).get("options") if spec[0] == "COMBO" and len(spec) > 1 else None
    return options if isinstance(options, list) else None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises where it is none
    except ValueError:
        is_address = False
    if not is_address or any(not letter.isprintable() or letter.isspace() for letter in url):
        raise SettingsError(
            f"--submit {url!r}: that is no address", hint=f"--submit {_USUAL}, for example"
        )


def _ask(client: "httpx.Client", url: str, method: str, path: str, **sent: Any) -> _Answer:
    """Return what is answered; raise SetupError where nobody does, or not in time.

    It is read piece by piece: whoever answers may never come to an end.
    """
    import httpx

    try:
        with client.stream(method, path, **sent) as answer:
            body = _read_all(answer)
    except (httpx.ReadTimeout, httpx.WriteTimeout) as exc:
        raise SetupError(
            f"--submit {url}: nothing came back from {path} within {_PATIENCE:g} seconds",
            hint=_QUEUED if path == _PROMPT else f"does its page open in a browser? {_ADDRESS}",
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        said = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise SetupError(
            f"--submit {url}: no ComfyUI answers there ({said})",
            hint=_QUEUED if path == _PROMPT else f"start it; {_ADDRESS}",
        ) from exc
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    return _Answer(
        answer.status_code,
        answer.reason_phrase,
        answer.headers.get("location", ""),
        answer.headers.get("content-type", "").partition(";")[0],
        content,
    )


def _read_all(answer: "httpx.Response") -> bytes:
    """Return the body; raise ReadTimeout when it takes too long, ReadError when it is too long."""
    import httpx

    began, body = time.monotonic(), bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if time.monotonic() - began > _PATIENCE:
            raise httpx.ReadTimeout("")
        if len(body) > _MOST_BYTES:
            raise httpx.ReadError("what is there answers without an end")
    return bytes(body)


def _refuse_failure(answer: _Answer, url: str, path: str) -> None:
    """Raise SetupError for an answer that says: not here, not now, or not to you."""
    if answer.status < 300:
        return
    status = f"HTTP {answer.status} {answer.reason}".rstrip()
    if answer.status < 400:
        elsewhere = answer.location.removesuffix(path).rstrip("/")
        is_address = elsewhere.startswith(("http://", "https://"))
        raise SetupError(
            f"--submit {url}: it sends on to {answer.location or 'another address'} ({status})",
            hint=f"if that is the ComfyUI: --submit {shlex.quote(elsewhere)}"
            if is_address
            else "is there a login before it? give the address of the ComfyUI itself",
        )
    if answer.status in (401, 403, 407):
        what, hint = "it wants a login", "give the address of the ComfyUI itself"
    elif answer.status >= 500:
        what, hint = "it failed", "look at what ComfyUI itself says of it, in its own window"
    elif answer.status == 404:
        what, hint = f"it has no {path}, so it is no ComfyUI", _ADDRESS
    else:
        what, hint = f"it refuses {path}", f"does its page open in a browser? {_ADDRESS}"
    raise SetupError(f"--submit {url}: {what} ({status})", hint=hint)


def _read_nodes(answer: _Answer, url: str) -> Mapping[str, Any]:
    _refuse_failure(answer, url, _NODES)
    if not isinstance(answer.content, dict) or "KSamplerSelect" not in answer.content:
        raise SetupError(
            f"--submit {url}: what answers is no ComfyUI: {_NODES} gives "
            f"{answer.kind or 'something else'} and lists no nodes",
            hint=_ADDRESS,
        )
    return answer.content


def _send(client: "httpx.Client", url: str, upload: Upload) -> None:
    path = "/upload/image"
    try:
        with upload.path.open("rb") as file:
            answer = _ask(
                client,
                url,
                "POST",
                path,
                files={"image": (upload.name, file, "image/png")},
                data={"overwrite": "true"},
            )
    except OSError as exc:
        raise InputError(
            f"{upload.path} cannot be read: {exc.strerror or exc}", hint="is it still there?"
        ) from exc
    _refuse_failure(answer, url, path)


def _read_id(answer: _Answer, url: str) -> str:
    if answer.status != 400:  # which is how ComfyUI refuses a workflow
        _refuse_failure(answer, url, _PROMPT)
        if isinstance(answer.content, dict) and "prompt_id" in answer.content:
            return str(answer.content["prompt_id"])
        raise SetupError(
            f"--submit {url}: it took the workflow and named no id for it", hint=_QUEUED
        )
    raise InputError(
        f"the ComfyUI at {url} refuses the workflow: {_first_refusal(answer.content)}",
        hint="is it older than the family? update it",
    )


def _first_refusal(content: Any) -> str:
    """Return ComfyUI's own words: of the first node that it names, else of the whole."""
    for node in _mapping(_mapping(content).get("node_errors")).values():
        errors = _mapping(node).get("errors")
        told = [_mapping(one) for one in errors] if isinstance(errors, list) else []
        said = [f"{one.get('message')}: {one.get('details')}" for one in told]
        return f"{_mapping(node).get('class_type')}: {'; '.join(said)}"
    message = _mapping(_mapping(content).get("error")).get("message")
    return str(message or "HTTP 400")
