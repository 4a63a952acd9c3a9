"""A picture to look at: in the terminal, where it is one that shows pictures, or in the viewer.

The terminal is never asked what it can: an answer that is late would be taken for typed. What it
says of itself in the environment must do, and the libraries there are do ask.
"""

import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple

from glance.core.errors import reason_of, shown

_KITTY: Final = ("xterm-kitty", "xterm-ghostty")  # TERM, which ssh hands on
_ITERM: Final = ("iTerm.app", "WezTerm", "iTerm2")  # TERM_PROGRAM, LC_TERMINAL
_BETWEEN: Final = ("TMUX", "STY", "ZELLIJ")  # what stands between, and passes no pictures on
_CHUNK: Final = 4096  # characters of kitty's
_HEIGHT: Final = 0.75  # of the terminal
_SMALL: Final = 320  # pixels: what is smaller is enlarged to it
_PATIENCE: Final = 1.0  # seconds in which a viewer that cannot be started says so


class Cells(NamedTuple):
    """A terminal: its size in cells and, where it says it, in pixels."""

    rows: int = 24
    columns: int = 80
    width: int = 0
    height: int = 0

    @classmethod
    def of(cls, descriptor: int) -> "Cells":
        """Return what the system knows of a terminal."""
        with suppress(ImportError, OSError):
            import fcntl
            import struct
            import termios

            sizes = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
            rows, columns, width, height = sizes
            return cls(rows or 24, columns or 80, width, height)
        return cls()


def shows_pictures(environ: Mapping[str, str]) -> bool:
    """Whether a terminal with this environment shows pictures, and the user wants colours."""
    if any(environ.get(name) for name in ("NO_COLOR", "CI", *_BETWEEN)):
        return False
    term = environ.get("TERM", "")
    return term in _KITTY or (
        _is_iterm(environ) and not term.startswith(("screen", "tmux", "dumb"))
    )


def draw(path: Path, cells: Cells, environ: Mapping[str, str]) -> str | None:
    """Return what makes the terminal show a picture, at most as large as it; None: it cannot.

    Protocols: https://sw.kovidgoyal.net/kitty/graphics-protocol/,
    https://iterm2.com/documentation-images.html.
    """
    from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb

    across, down = cells.width // cells.columns, cells.height // cells.rows
    across, down = (across, down) if across and down else (10, 20)
    room = (max(1, cells.columns - 1) * across, max(1.0, cells.rows * _HEIGHT) * down)
    try:
        with open_picture(path) as opened:
            picture, _ = to_rgb(opened)
            fit = min(room[0] / picture.width, room[1] / picture.height)
            scale = min(fit, max(1.0, _SMALL / max(picture.size)))
            size = [max(1, int(side * scale)) for side in picture.size]
            file = BytesIO()
            picture.resize((size[0], size[1])).save(file, "PNG")
    except DECODER_ERRORS:
        return None
    data = b64encode(file.getvalue()).decode()
    if _is_iterm(environ):
        return f"\x1b]1337;File=inline=1;width={ceil(size[0] / across)}:{data}\a"
    parts = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    keys = ["a=T,f=100,q=2,", *[""] * (len(parts) - 1)]  # q=2: it answers nothing
    more = [*[1] * (len(parts) - 1), 0]
    messages = zip(keys, more, parts, strict=True)
    return "".join(f"\x1b_G{key}m={flag};{part}\x1b\\" for key, flag, part in messages)


def open_file(path: Path, environ: Mapping[str, str]) -> str | None:
    """Open a file or a folder with the system's viewer, and go on; return why it is not open."""
    names = ("open",) if sys.platform == "darwin" else ("wslview", "xdg-open")
    viewer = next((name for name in names if shutil.which(name)), None)
    if viewer is None:
        return f"there is no {names[-1]} here"
    if viewer == "xdg-open" and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        return "there is no display here"
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [viewer, str(path.absolute())],
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,  # Ctrl-C here does not close it
        )
        code = process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # it is the viewer itself, and open
        return None
    except OSError as exc:
        return f"{viewer}: {shown(reason_of(exc))}"
    return f"{viewer} failed with exit code {code}" if code else None


def _is_iterm(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name) in _ITERM for name in ("TERM_PROGRAM", "LC_TERMINAL"))
