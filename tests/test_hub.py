"""May a model be had: asked of a Hub that is played here."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest


class Hub:
    """A Hub of one answer, on loopback; `huggingface_hub` talks to it for real."""

    def __init__(self, status: int, error_code: str = "") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                if error_code:
                    self.send_header("X-Error-Code", error_code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def ask_for_access(
    endpoint: str, *, offline: str = "0", model: str = "some/model"
) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: huggingface_hub reads its environment once, at import."""
    script = f"from glance.hub import check_access; print(check_access({model!r}))"
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline},
    )


@pytest.mark.parametrize(
    ("status", "error_code", "message"),
    [
        (401, "GatedRepo", "some/model is gated, and there is no token with a right to it"),
        (404, "RepoNotFound", "the Hub has no model some/model"),
    ],
)
def test_a_model_that_may_not_be_fetched_is_refused_early(
    status: int, error_code: str, message: str
) -> None:
    hub = Hub(status, error_code)

    done = ask_for_access(hub.url)

    hub.close()
    assert done.returncode == 1
    assert message in done.stderr


def test_a_model_that_may_be_fetched_is_accepted() -> None:
    hub = Hub(200)

    assert ask_for_access(hub.url).stdout == "None\n"
    hub.close()


def test_what_nobody_can_say_is_a_warning() -> None:
    assert "the Hub does not answer" in ask_for_access("http://127.0.0.1:9").stdout
    assert "HF_HUB_OFFLINE forbids" in ask_for_access("http://127.0.0.1:9", offline="1").stdout


def test_a_model_in_the_cache_needs_no_hub() -> None:
    assert ask_for_access("http://127.0.0.1:9", model="acme/tiny").stdout == "None\n"
