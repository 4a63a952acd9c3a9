"""Hubs on loopback: `huggingface_hub` fetches a model for real, or fills repositories."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "1" * 40
TOKEN = "hf_secret"
USER = "anna"


class _Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type["_Handler"]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    def answer(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        """Answer every method of HTTP alike: do_GET, do_POST ..."""
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self.answer

    def send(self, code: int, body: bytes, headers: dict[str, str], end: int | None = None) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:end])

    def send_document(self, content: Any, code: int = 200) -> None:
        headers = {"X-Error-Code": "RepoNotFound"} if code == 404 else {}
        body = json.dumps(content).encode()
        self.send(code, body, {"Content-Type": "application/json", **headers})

    def log_message(self, *_: object) -> None:
        pass


class FakeHub(_Hub):
    """Serves the files of a folder as one model."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model = model
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.dies_after: int | None = None  # bytes of a file; then there is no answer any more
        self.is_dead = False
        super().__init__(_ModelHandler)

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        got = [line for line in self.requests if line.startswith("GET ") and "/resolve/" in line]
        return {line.partition("/resolve/")[2].partition("/")[2] for line in got}


class _ModelHandler(_Handler):
    server: FakeHub

    def answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if hub.is_dead:
            return
        hub.requests.append(f"{self.command} {path}")
        about = f"/api/models/{hub.model}"
        if path.startswith(f"{about}/tree/"):
            self.send_document(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
                    for name, content in hub.files.items()
                ]
            )
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

    def send_file(self, content: bytes | None) -> None:
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": COMMIT}
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body, end = content[start:], self.server.dies_after
        self.send(206 if start else 200, body, headers, end)
        self.server.is_dead = self.command == "GET" and len(body) > (end or len(body))


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(json.dumps(self.commits).encode()).hexdigest()


class RepoHub(_Hub):
    """Knows one user and one token; `fails` says with which status a request is answered."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.fails: dict[str, int] = {}
        self.warns: list[str] = []  # of a card
        super().__init__(_RepoHandler)


class _RepoHandler(_Handler):
    server: RepoHub

    def answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append(f"{self.command} {path}")
        failing = [code for part, code in hub.fails.items() if part in path]
        if failing:
            self.send_document({"error": "so it is"}, failing[0])
        elif path.startswith("/lfs/"):
            hub.uploads[path.removeprefix("/lfs/")] = body
            self.send_document({})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send_document({"error": "Invalid credentials in Authorization header"}, 401)
        else:
            self.send_document(*self.know(path, body))

    def know(self, path: str, body: bytes) -> tuple[Any, int]:
        hub = self.server
        if path == "/api/whoami-v2":
            return {"name": USER}, 200
        if path == "/api/validate-yaml":
            return {"warnings": [{"message": text} for text in hub.warns]}, 200
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or USER}/{asked['name']}"
            hub.repos[name] = Repo(private=asked["visibility"] == "private")
            return {"url": f"{hub.url}/{name}", "id": name}, 200
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3]).removesuffix(".git")
        if name not in hub.repos:
            return {"error": "Repository not found"}, 404
        return self.know_repo(name, path.rpartition(name)[2], body), 200

    def know_repo(self, name: str, what: str, body: bytes) -> Any:
        hub, repo = self.server, self.server.repos[name]
        match what.strip("/").removeprefix(".git/").split("/"):
            case ["settings"]:
                repo.private = json.loads(body)["visibility"] == "private"
                return {}
            case ["preupload", _]:
                return {"files": [describe(one["path"]) for one in json.loads(body)["files"]]}
            case ["info", "lfs", "objects", "batch"]:
                store = f"{hub.url}/lfs"
                return {
                    "objects": [
                        {**one, "actions": {"upload": {"href": f"{store}/{one['oid']}"}}}
                        for one in json.loads(body)["objects"]
                    ]
                }
            case ["commit", _]:
                self.commit(repo, [json.loads(line) for line in body.splitlines()])
                url = f"{hub.url}/{name}/commit/{repo.sha}"
                return {"commitUrl": url, "commitOid": repo.sha, "pullRequestUrl": None}
            case ["tree", _]:
                return [
                    {"type": "file", "path": path, "size": len(content), "oid": "0"}
                    for path, content in repo.files.items()
                ]
            case _:
                siblings = [{"rfilename": name} for name in repo.files]
                return {"id": "x", "sha": repo.sha, "private": repo.private, "siblings": siblings}

    def commit(self, repo: Repo, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    assert value.get("parentCommit") in (None, repo.sha)
                    repo.commits.append(value["summary"])
                case "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repo.files[value["path"]] = self.server.uploads[value["oid"]]
                case "deletedFile":
                    del repo.files[value["path"]]


def describe(name: str) -> dict[str, Any]:
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}
