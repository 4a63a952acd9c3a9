"""A Hub on loopback that has one model: `huggingface_hub` lists and fetches it for real."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "1" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves the files of a folder as one model."""

    daemon_threads = True

    def __init__(self, model: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.requests: list[str] = []
        self.dies_after: int | None = None  # bytes of a file; then there is no answer any more
        self.is_dead = False
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        got = [line for line in self.requests if line.startswith("GET ") and "/resolve/" in line]
        return {line.partition("/resolve/")[2].partition("/")[2] for line in got}

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if hub.is_dead:
            return
        hub.requests.append(f"{self.command} {path}")
        about = f"/api/models/{hub.model}"
        if path.startswith(f"{about}/tree/"):
            self.send_document([describe(name, hub.files[name]) for name in hub.files])
        elif path == f"{about}/auth-check":
            self.send_document({})
        elif path.startswith(about):
            siblings = [{"rfilename": name} for name in hub.files]
            self.send_document({"id": hub.model, "sha": COMMIT, "siblings": siblings})
        elif not path.startswith(f"/{hub.model}/"):
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            name = path.removeprefix(f"/{hub.model}/resolve/").partition("/")[2]
            self.send_file(hub.files.get(name))

    def send_document(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send_file(self, content: bytes | None) -> None:
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": COMMIT}
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(206 if start else 200, content[start:], headers)

    def send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: self.server.dies_after])
            self.server.is_dead = len(body) > (self.server.dies_after or len(body))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def describe(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's
