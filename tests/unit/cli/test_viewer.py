"""Pictures in the terminal and in the system's viewer: where they can be, never in the way."""

import base64
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from fakes.commands import Glance
from PIL import Image

from glance.cli import _viewer
from glance.cli.console import Console

KITTY = {"TERM": "xterm-kitty"}
WEZTERM = {"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}
NAMES = ("NO_COLOR", "CI", "TMUX", "STY", "ZELLIJ", "TERM", "TERM_PROGRAM", "LC_TERMINAL")

type Terminal = Callable[..., str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Show pictures on a real pseudo terminal of 80 x 24 cells of 10 x 20 pixels."""

    def show(*paths: Path, console: Console | None = None, **environ: str) -> str:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 800, 480))
        said: list[bytes] = []

        def read() -> None:
            while b"\x04" not in (said[-1:] or [b""])[0]:
                said.append(os.read(master, 65536))

        reader = Thread(target=read)
        reader.start()
        with os.fdopen(slave, "w") as stream, monkeypatch.context() as streams:
            streams.setattr(sys, "stdout", stream)
            streams.setattr(sys, "stderr", stream)
            (console or Console()).show(paths)
            stream.write("\x04")
            stream.flush()
            reader.join(10)
        os.close(master)
        return b"".join(said).decode().replace("\r\n", "\n").removesuffix("\x04")

    return show


def save(width: int, height: int, name: str = "x.png") -> Path:
    Image.radial_gradient("L").resize((width, height)).save(name)
    return Path(name)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(2000, 1000, (720, 360)), (8000, 100, (790, 9)), (64, 64, (320, 320)), (10, 3000, (1, 360))],
)
def test_kitty_is_sent_a_png_that_fits(
    terminal: Terminal, width: int, height: int, size: tuple[int, int]
) -> None:
    told = terminal(save(width, height), **KITTY)

    messages = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", told)
    assert "".join(f"\x1b_G{keys};{part}\x1b\\" for keys, part in messages) + "\n" == told
    keys = [keys for keys, _ in messages]
    assert keys[0].startswith("a=T,f=100,q=2,m=")
    assert [one[-3:] for one in keys] == [*["m=1"] * (len(keys) - 1), "m=0"]
    assert max(len(part) for _, part in messages) <= 4096
    png = base64.b64decode("".join(part for _, part in messages))
    assert Image.open(io.BytesIO(png)).size == size


def test_iterms_protocol_is_one_message(terminal: Terminal) -> None:
    told = terminal(save(800, 800), **WEZTERM)

    found = re.fullmatch(r"\x1b\]1337;File=inline=1;width=36:(\S+)\x07\n", told)
    assert found is not None
    assert Image.open(io.BytesIO(base64.b64decode(found[1]))).size == (360, 360)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TERM": "xterm-256color"},
        {"TERM": "dumb", "TERM_PROGRAM": "WezTerm"},
        {"TERM": "screen-256color", "LC_TERMINAL": "iTerm2"},
        *({**KITTY, name: "1"} for name in ("NO_COLOR", "CI", "TMUX", "STY", "ZELLIJ")),
    ],
)
def test_others_are_sent_nothing(terminal: Terminal, environ: dict[str, str]) -> None:
    assert terminal(save(64, 64), **environ) == ""


def test_nor_is_who_asked_for_silence_or_reads_a_pipe(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = save(64, 64)
    assert terminal(picture, console=Console(quiet=True), **KITTY) == ""
    assert terminal(picture, console=Console(as_json=True), **KITTY) == ""
    Console().show([picture])
    assert capsys.readouterr() == ("", "")


def test_some_of_many_are_shown_and_what_is_none_is_passed_over(terminal: Terminal) -> None:
    pictures = [save(8, 8, f"{number}.png") for number in range(6)]
    Path("0.png").write_bytes(b"damaged")
    pictures[1].unlink()

    assert terminal(*pictures, **KITTY).count("a=T") == 2


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Put a program in place of xdg-open, the only one there is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "platform", "linux")

    def put(script: str) -> None:
        (folder / "xdg-open").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "xdg-open").chmod(0o755)

    return put


def test_the_viewer_is_given_the_file_and_says_nothing(
    viewer: Callable[[str], None], invoke: Glance
) -> None:
    viewer('echo "$1" > opened; echo noise; echo noise >&2')

    done = invoke("schedule", "--plot", "x.svg", "--open", "--json", "--quiet")

    assert (done.code, done.err) == (0, "")
    assert done.document["slow"]
    assert Path("opened").read_text() == f"{Path('x.svg').absolute()}\n"


@pytest.mark.parametrize(
    ("script", "display", "told"),
    [
        ("exit 3", ":0", "--open a/x.png: xdg-open failed with exit code 3\n"),
        ("exit 0", "", "--open a/x.png: there is no display here\n"),
        (None, ":0", "--open a/x.png: there is no xdg-open here\n"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_line(
    viewer: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    display: str,
    told: str,
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if script is not None:
        viewer(script)

    Console(quiet=True).open([Path("a/x.png")])

    assert capsys.readouterr() == ("", told)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_nobody_waits_for_a_viewer(
    viewer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_viewer, "_PATIENCE", 0.2)
    viewer('echo "$1" > opened; exec /bin/sleep 3')
    begun = time.monotonic()

    Console().open([Path("a/1.png"), Path("a/2.png")])  # several: their folder

    assert time.monotonic() - begun < 2.5
    assert Path("opened").read_text() == f"{Path('a').absolute()}\n"


@pytest.mark.parametrize(
    "command", ["schedule --open", "schedule --plot --open", "runs show x --open"]
)
def test_there_must_be_something_to_open(invoke: Glance, command: str) -> None:
    done = invoke(*command.split())

    assert (done.code, done.err) == (
        2, "error: --open opens a file, and none is drawn\n  hint: give --plot a file\n",
    )  # fmt: skip
