"""Sending a workflow to a running ComfyUI, after asking it whether it has all that is needed."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from glance.errors import InputError, Problem, SetupError, UsageError
from glance.export.comfyui.write import ComfyExport

if TYPE_CHECKING:
    import httpx

_PATIENCE: Final = 20.0  # seconds; /object_info of a ComfyUI with many nodes takes some
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


def submit(url: str, prompt: Mapping[str, Any], *, upload: Upload | None = None) -> Submitted:
    """Queue the API JSON `prompt` in the ComfyUI at `url`.

    Before that it is asked for its nodes: each must be there, and every file that is named, in
    whatever subfolder. Nothing is sent but the workflow, and `upload` if there is one.

    Raises UsageError for an address that is none, SetupError when nothing answers there or nodes
    or files are missing (all of them at once), InputError when it refuses the workflow.
    """
    import httpx

    _check_url(url)
    with httpx.Client(base_url=url.rstrip("/"), timeout=_PATIENCE) as client:
        try:
            nodes = _get_nodes(client)
            prompt = find_files(prompt, nodes)
            sent = () if upload is None else (upload.name,)
            problems = list(find_missing(prompt, nodes, sent=sent))
            if problems:
                raise SetupError(problems)
            if upload is not None:
                _send(client, upload)
            answer = client.post("/prompt", json={"prompt": prompt})
        except httpx.HTTPError as exc:
            raise SetupError(
                f"no ComfyUI answers at {url} ({exc or type(exc).__name__})",
                hint="start it, or give its address: --submit http://127.0.0.1:8188",
            ) from exc
    return Submitted(url, _read_id(answer, url))


def submit_planned(url: str, planned: ComfyExport, *, upload_reference: bool) -> Submitted:
    """Queue what an export would write; `upload_reference`: send the picture that is edited.

    Raises what `submit` raises, and UsageError where there is no such picture to send.
    """
    upload, name = None, planned.job.reference
    if upload_reference:
        if planned.reference is None or name is None:
            raise UsageError(
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
    info = nodes.get(node["class_type"], {}).get("input", {})
    return {**info.get("required", {}), **info.get("optional", {})}


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
    if not spec:
        return None
    if isinstance(spec[0], list):
        return spec[0]
    if spec[0] == "COMBO" and len(spec) > 1 and isinstance(spec[1].get("options"), list):
        options: list[Any] = spec[1]["options"]
        return options
    return None


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises where it is none
    except ValueError:
        is_address = False
    if not is_address or any(not letter.isprintable() or letter.isspace() for letter in url):
        raise UsageError(
            f"--submit {url!r}: that is no address", hint="such as http://127.0.0.1:8188"
        )


def _get_nodes(client: "httpx.Client") -> Mapping[str, Any]:
    answer = client.get("/object_info")
    answer.raise_for_status()
    try:
        nodes = answer.json()
    except ValueError:
        nodes = None
    if not isinstance(nodes, dict) or "KSamplerSelect" not in nodes:
        raise SetupError(
            f"what answers at {client.base_url} is no ComfyUI: /object_info lists no nodes",
            hint="give the address of its page: --submit http://127.0.0.1:8188",
        )
    return nodes


def _send(client: "httpx.Client", upload: Upload) -> None:
    with upload.path.open("rb") as file:
        files = {"image": (upload.name, file, "image/png")}
        client.post("/upload/image", files=files, data={"overwrite": "true"}).raise_for_status()


def _read_id(answer: "httpx.Response", url: str) -> str:
    try:
        content = answer.json()
    except ValueError:
        content = {}
    if answer.status_code == 200 and isinstance(content, dict) and "prompt_id" in content:
        return str(content["prompt_id"])
    raise InputError(
        f"the ComfyUI at {url} refuses the workflow: {_first_refusal(content, answer)}",
        hint="is it older than the family? update it",
    )


def _first_refusal(content: Any, answer: "httpx.Response") -> str:
    errors = content.get("node_errors") if isinstance(content, dict) else None
    if isinstance(errors, dict) and errors:
        first = next(iter(errors.values()))
        said = [f"{one.get('message')}: {one.get('details')}" for one in first.get("errors", [])]
        return f"{first.get('class_type')}: {'; '.join(said)}"
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or f"HTTP {answer.status_code}")
