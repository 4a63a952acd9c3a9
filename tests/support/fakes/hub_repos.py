"""A Hub on loopback that takes repositories: `huggingface_hub` creates and fills them for real."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_secret"
USER = "anna"


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(json.dumps(self.commits).encode()).hexdigest()


class RepoHub(ThreadingHTTPServer):
    """Knows one user and one token; `fails` says with which status a request is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fails: dict[str, int] = {}
        self.warns: list[str] = []  # of a card
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: RepoHub

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append(f"{self.command} {path}")
        failing = [code for part, code in hub.fails.items() if part in path]
        if failing:
            self.send({"error": "so it is"}, failing[0])
        elif path.startswith("/lfs/"):
            hub.uploads[path.removeprefix("/lfs/")] = body
            self.send({})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send({"error": "Invalid credentials in Authorization header"}, 401)
        else:
            self.send(*self.know(path, body))

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
                return {"objects": [offer(hub.url, one) for one in json.loads(body)["objects"]]}
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

    def send(self, document: Any, code: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        if code == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def describe(name: str) -> dict[str, Any]:
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}


def offer(url: str, one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "actions": {"upload": {"href": f"{url}/lfs/{one['oid']}"}}}
