"""Who may ask a page's server, how much may be sent to it, and which paths it touches.

A browser runs any site's scripts beside our page, and they can send requests here. So each request
must name this server as its Host (else a foreign name may have been pointed at this machine), come
from our own page where the browser says whence, and beyond this machine carry the token.
"""

import hashlib
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glance.core.errors import InputError, Problem, quoted, shown
from glance.core.options import Field
from glance.sampling.provenance import FORMATS

UPLOADS: Final = "/api/uploads"
RECORDS: Final = "/api/records"
MOST_UPLOADED: Final = 1 << 26
"""Bytes of an image."""
_MOST_SENT: Final = 1 << 20  # bytes of anything else: two prompts of 64 Ki, however escaped
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


@dataclass(frozen=True, slots=True)
class Door:
    """Where the server listens, and who is let in."""

    host: str
    token: str | None = None
    """None: it is not asked for."""

    def knows(self, name: str) -> bool:
        """Whether a Host header's name, without its port, can be meant for this server.

        A token keeps strangers out, yet not a name that somebody has pointed at this machine:
        a browser would send our cookie to it. An address cannot be pointed anywhere.
        """
        if name in _LOOPBACK or name == self.host:
            return True
        if self.token is None:
            return False
        with suppress(ValueError):
            return bool(ip_address(name))
        machine = socket.gethostname().lower()
        return name in (machine, f"{machine}.local", socket.getfqdn().lower())


class Guard:
    """Lets only requests through that are meant; adds what a browser is to be told of each."""

    def __init__(self, app: ASGIApp, *, door: Door) -> None:
        """Guard `app`, which is reached by `door`."""
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":  # nobody here listens to anything else
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope, Headers(scope=scope))
        try:
            await (refusal or self._app)(scope, _limited(receive, _limit(scope)), told)
        except _TooLarge:
            await _too_large(_limit(scope))(scope, receive, told)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        name = _name_of(host)
        if name is None or not self._door.knows(name):
            said = f"{shown(host)[:100]} is not this server"
            return PlainTextResponse(f"{said}: open the address that glance web printed\n", 421)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        is_ours = origin is None or origin in (f"http://{host}", f"https://{host}")
        is_page = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        if not is_ours or (site not in (None, "same-origin", "none") and not is_page):
            return PlainTextResponse(
                "requests are accepted only from glance's own pages\n", status_code=403
            )
        refusal = None if self._door.token is None else self._ask_token(scope, headers)
        length = headers.get("content-length", "0")
        if refusal is None and not (length.isdigit() and int(length) <= _limit(scope)):
            return _too_large(_limit(scope))
        return refusal

    def _ask_token(self, scope: Scope, headers: Headers) -> Response | None:
        token, cookie = self._door.token or "", f"glance-{_port_of(scope)}"
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = dict(query).get("token")
        if given is not None and secrets.compare_digest(given.encode(), token.encode()):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # the address must not stay in the history, nor go to whom somebody shows it
            answer = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(cookie, token, httponly=True, samesite="strict")
            return answer
        kept = _cookie(headers.get("cookie", ""), cookie)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if any(secrets.compare_digest(one.encode(), token.encode()) for one in (kept, bearer)):
            return None
        return PlainTextResponse(
            "the token is missing: open the whole address that glance web printed\n", 401
        )


class _TooLarge(Exception):
    """More was sent than is taken."""


def _limit(scope: Scope) -> int:
    return MOST_UPLOADED if scope["path"] in (UPLOADS, RECORDS) else _MOST_SENT


def _limited(receive: Receive, limit: int) -> Receive:
    """Return `receive` for so many bytes: a sender need not say how many are to come."""
    sent = 0

    async def limited() -> Message:
        nonlocal sent
        message = await receive()
        sent += len(message.get("body", b""))
        if sent > limit:
            raise _TooLarge
        return message

    return limited


def _too_large(limit: int) -> Response:
    problem = {"message": f"that is more than {limit >> 20} MiB", "hint": "make it smaller first"}
    # what has not been read yet is on its way: the connection is of no more use
    return JSONResponse({"problems": [problem]}, 413, {"connection": "close"})


def _name_of(host: str) -> str | None:
    """Return the name of a Host header; None for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    return name if name and parts.netloc == host and "@" not in host else None


def _port_of(scope: Scope) -> int:
    server = scope.get("server")
    return int(server[1] or 0) if server else 0


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


# --- paths ---------------------------------------------------------------------------------------

_OF_RUNS: Final = (*FORMATS, ".safetensors", ".json", ".log", ".csv", ".txt")
OWN: Final = ".glance"
"""What the page keeps in the working folder: uploads, and what it was asked to start."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that pages work in: nothing outside it is read or written by their wish."""

    root: Path
    """Absolute, without links."""
    readable: tuple[Path, ...] = ()
    """Further folders that may be read, likewise."""

    @property
    def own(self) -> Path:
        """Where the page keeps its own."""
        return self.root / OWN

    def holds(self, path: Path, *, to_write: bool = False) -> bool:
        """Whether a path, from the working folder, lies where pages may go, links followed."""
        try:
            found = (self.root / path).resolve()
        except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links
            return False
        places = (self.root,) if to_write else (self.root, *self.readable)
        return any(found.is_relative_to(place) for place in places)

    def find_run(self, said: str) -> Path:
        """Return a run folder that a page names, from the working folder; raises InputError."""
        path = Path(said)
        is_strange = path.is_absolute() or ".." in path.parts or _is_hidden(path)
        if not said or is_strange or not self.holds(path, to_write=True):
            raise InputError(f"{shown(said)} is no run of this folder", hint="choose one of Runs")
        return path

    def find_file(self, said: str) -> Path | None:
        """Return a file that a page may show or hand out; None: there is none.

        An image anywhere in the working folder, and what belongs to a run; nothing that is hidden
        but uploads.
        """
        path = Path(said)
        if path.is_absolute() or ".." in path.parts or not self.holds(path, to_write=True):
            return None
        if _is_hidden(Path(*path.parts[2:]) if path.parts[:2] == (OWN, "uploads") else path):
            return None
        ending = path.suffix.lower()
        if ending not in FORMATS and not (ending in _OF_RUNS and self._is_of_run(path)):
            return None
        return path if (self.root / path).is_file() else None

    def _is_of_run(self, path: Path) -> bool:
        return any((self.root / one / "glance.json").is_file() for one in path.parents)

    def check(self, fields: Mapping[str, Field], document: Mapping[str, Any]) -> None:
        """Refuse a form that names a path where pages may not go; raises InputError with all.

        Every text that is not prose is taken for a path, or for one beside a key or a strength:
        what no field declares as a path may still be read as one, as --model is.
        """
        problems = [
            Problem(
                f"{key} {shown(text)}: it lies outside the working folder",
                "copy it there, or start glance web with --read and its folder: "
                f"glance web --read {quoted(Path(text).expanduser().parent)}"
                if field.key in _READ
                else "name a place in the working folder",
            )
            for key, value in document.items()
            if (field := fields.get(key)) is not None and field.key not in PROSE
            for text in (value if isinstance(value, list | tuple) else [value])
            if isinstance(text, str) and not self._is_harmless(text, to_write=field.key in _WRITTEN)
        ]
        if problems:
            raise InputError(problems)

    def _is_harmless(self, text: str, *, to_write: bool) -> bool:
        return all(
            not piece.startswith("~")
            and ".." not in Path(piece).parts
            and not (to_write and _is_hidden(Path(piece)))
            and self.holds(Path(piece), to_write=to_write)
            for piece in _pieces(text)
        )

    def uploaded(self, name: str, content: bytes) -> Path:
        """Return where an uploaded file goes, from the working folder: equal ones to one place."""
        from glance.runs.sample import name_safely

        digest = hashlib.sha256(content).hexdigest()[:12]
        said = PurePosixPath(name.replace("\\", "/"))
        ending = re.sub(r"[^a-z0-9.]", "", said.suffix.lower())[:8]
        return Path(OWN, "uploads", digest, f"{name_safely(said.stem)}{ending}")


PROSE: Final = ("prompt", "caption", "negative-prompt", "preview-prompt")
"""Fields that hold what an image shows."""
_READ: Final = ("model", "pipeline", "lora", "teacher-lora", "slow-lora", "fast-lora")
_WRITTEN: Final = ("run", "output")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _pieces(text: str) -> Iterator[str]:
    yield text.strip()
    yield from filter(None, re.split(r"""[=:,\s"'{}\[\]]+""", text))
