"""A ComfyUI over HTTP that describes its nodes as the recording does, and queues what it gets."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from fakes.comfyui import recorded_nodes

ALWAYS = {
    "weight_dtype": ["default"],
    "device": ["default", "cpu"],
    "type": ["flux", "qwen_image", "chroma"],
    "sampler_name": ["euler"],
    "reference_latents_method": ["offset", "index_timestep_zero"],
}


@dataclass
class FakeComfy:
    """What it has, and what it was sent."""

    files: dict[str, list[str]] = field(default_factory=dict)
    """What its loaders offer, by the name of the input."""
    lacks: set[str] = field(default_factory=set)
    """Nodes that it has not got."""
    refuses: Mapping[str, Any] | None = None
    """What POST /prompt answers in place of an id."""
    is_new: bool = True
    """Whether it describes choices as ComfyUI does since 2025."""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    """What it does at a path in place of all this: it may be no ComfyUI at all."""

    def object_info(self) -> dict[str, Any]:
        return {
            name: {
                **node,
                "input": {
                    part: {port: self._spec(port, kind) for port, kind in ports.items()}
                    for part, ports in node["input"].items()
                },
            }
            for name, node in recorded_nodes().items()
            if name not in self.lacks
        }

    def _spec(self, port: str, kind: str) -> list[Any]:
        if kind != "COMBO":
            return [kind, {}]
        choices = ALWAYS.get(port, self.files.get(port.rstrip("12345"), []))
        return ["COMBO", {"options": choices}] if self.is_new else [choices]


@contextmanager
def serving(comfy: FakeComfy) -> Iterator[FakeComfy]:
    """Serve it until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            comfy.asked.append(self.path)
            if self.path in comfy.answers:
                comfy.answers[self.path](self)
            else:
                self._answer(comfy.object_info())

        def do_POST(self) -> None:
            comfy.asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path in comfy.answers:
                comfy.answers[self.path](self)
            elif self.path == "/upload/image":
                comfy.uploads.append(body)
                self._answer({})
            elif comfy.refuses is not None:
                self._answer(comfy.refuses, code=400)
            else:
                comfy.prompts.append(json.loads(body)["prompt"])
                self._answer({"prompt_id": "p-1", "number": 1, "node_errors": {}})

        def _answer(self, content: Any, *, code: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    comfy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield comfy
    finally:
        server.shutdown()
        server.server_close()
