"""`glance web`: the server, its address, and its end."""

import errno
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glance.core.errors import InputError, SetupError, UsageError, reason_of
from glance.core.files import is_folder
from glance.web.request import WebRequest

if TYPE_CHECKING:
    from glance.web.jobs import Job

_INSTALL = 'pip install "starlette>=1,<2" "uvicorn>=0.40,<1" "jinja2>=3.1,<4"'


@dataclass(frozen=True, slots=True)
class Address:
    """Where the pages are."""

    url: str
    """With the token, if there is one."""
    host: str
    port: int
    token: str | None

    def to_json(self) -> dict[str, Any]:
        """Return what `glance web --json` prints."""
        return {"url": self.url, "host": self.host, "port": self.port, "token": self.token}


def serve(request: WebRequest, *, on_ready: Callable[[Address], None]) -> "list[Job]":
    """Serve the current folder until Ctrl-C; return the jobs that still run then.

    `on_ready` is told the address when pages can be opened. Raises SetupError where a package is
    missing or the address cannot be had, UsageError for another host with --share-nothing,
    InputError for a folder that is none.
    """
    environment = {**os.environ, **({"HF_HUB_OFFLINE": "1"} if request.share_nothing else {})}
    os.environ.update(environment)  # plans ask the Hub, too, whose package reads it when imported
    try:
        import uvicorn

        from glance.web.app import Site
        from glance.web.guard import Door, Workspace, is_loopback
    except ImportError as exc:
        raise SetupError(f"glance web needs {exc.name}, which is not here", hint=_INSTALL) from exc
    is_here = is_loopback(request.host)
    if request.share_nothing and not is_here:
        raise UsageError(
            f"--host {request.host} is not this machine alone, and --share-nothing is said",
            hint="drop one of them",
        )
    root = Path.cwd().resolve()
    workspace = Workspace(root, tuple(_folder(one) for one in request.read))
    door = Door(request.host, None if is_here else secrets.token_urlsafe(24))
    site = Site(workspace, environment)
    config = uvicorn.Config(
        site.app(door),
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=30,
    )
    with _listen(request.host, request.port) as listening:
        address = _address(listening, request.host, door.token)
        server = _server(uvicorn, config, lambda: _begin(address, request, on_ready))
        with suppress(KeyboardInterrupt):  # how a server ends
            server.run(sockets=[listening])
    return site.jobs.running()


def _server(uvicorn: Any, config: Any, begin: Callable[[], None]) -> Any:
    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            begin()

    return Server(config)


def _begin(address: Address, request: WebRequest, on_ready: Callable[[Address], None]) -> None:
    on_ready(address)
    if request.opens and _has_desktop():
        threading.Thread(target=webbrowser.open, args=(address.url,), daemon=True).start()


def _has_desktop() -> bool:
    """Whether a browser opens in a window: one in the terminal would take it from us."""
    if sys.platform == "linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except OSError as exc:
        is_port = exc.errno in (errno.EADDRINUSE, errno.EACCES)
        free = "--port 0 takes one that is free"
        ours = "--host 127.0.0.1, or another address of this machine"
        raise SetupError(
            f"cannot listen at {host}, port {port}: {reason_of(exc)}",
            hint=free if is_port else ours,
        ) from exc
    return listening


def _address(listening: socket.socket, host: str, token: str | None) -> Address:
    port = listening.getsockname()[1]
    reached = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{reached}]" if ":" in reached else reached
    asked = "" if token is None else f"/?token={token}"
    return Address(f"http://{name}:{port}{asked}", host, port, token)


def _folder(path: Path) -> Path:
    if not is_folder(path):
        raise InputError(f"--read {path}: there is no such folder", hint="name one that is there")
    return path.expanduser().resolve()
