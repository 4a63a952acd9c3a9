"""Drawing: figures in files with matplotlib, charts in the terminal with plotext.

Both are imported by what needs them, never at start-up; nothing of matplotlib's is global.
Colours: Okabe and Ito's, https://jfly.uni-koeln.de/color/, told apart by the colour-blind; the two
phases also differ in brightness and in their markers.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from glance import __version__
from glance.core.errors import InputError, SetupError, reason_of
from glance.core.files import replacing
from glance.core.phase import Phase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final[Mapping[Phase, str]] = {Phase.SLOW: "#0072B2", Phase.FAST: "#E69F00"}
MARKERS: Final[Mapping[Phase, str]] = {Phase.SLOW: "o", Phase.FAST: "s"}
GREY: Final = "#767676"

_METADATA: Final[Mapping[str, Mapping[str, str | None]]] = {
    ".png": {"Software": f"glance {__version__}"},
    ".svg": {"Creator": f"glance {__version__}", "Date": None},
}
_HEAD: Final = 8192  # bytes of a drawing, in which its metadata stand
_LEAST: Final = 40  # characters across: in less nothing can be read
_ASCII: Final = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")  # what plotext draws axes with


def require_drawable(path: Path) -> None:
    """Raise InputError unless the path ends with .png or .svg, and nobody else's file is there."""
    if path.suffix.lower() not in _METADATA:
        raise InputError(
            f"--plot {path}: {path.suffix or 'no ending'} is no kind of drawing",
            hint=f"end it with one of {', '.join(_METADATA)}",
        )
    if os.path.lexists(path) and not path.is_dir() and not _is_ours(path):
        raise InputError(
            f"--plot {path}: it is there already, and glance did not draw it",
            hint="give another name",
        )


def _is_ours(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return b"glance " in file.read(_HEAD)
    return False


@contextmanager
def drawing(path: Path, *, inches: tuple[float, float]) -> Iterator["Figure"]:
    """Yield a figure to draw on; at the end of the block it is written to `path`, whole or not.

    The same data give the same bytes. Raises InputError for an ending other than .png or .svg,
    SetupError where `path` cannot be written.
    """
    require_drawable(path)
    from matplotlib import style
    from matplotlib.figure import Figure

    # of the user's own settings none applies; text in an SVG stays text
    ours: dict[str, Any] = {"svg.hashsalt": "glance", "svg.fonttype": "none"}
    with style.context(ours, after_reset=True):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure
        kind = path.suffix.lower()
        try:
            with replacing(path) as temporary:
                figure.savefig(temporary, format=kind[1:], dpi=150, metadata=dict(_METADATA[kind]))
        except OSError as exc:
            raise SetupError(
                f"--plot {path}: {reason_of(exc)}", hint="give --plot a file you may write"
            ) from exc


@dataclass(frozen=True, slots=True)
class Terminal:
    """What a chart is written to."""

    width: int = 80
    is_unicode: bool = True
    has_colours: bool = False

    @classmethod
    def of(cls, encoding: str | None, *, is_tty: bool, columns: int) -> Self:
        """Return the one of a stream: NO_COLOR and TERM=dumb are honoured."""
        kind = os.environ.get("TERM", "")
        try:
            "│⠒".encode(encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            is_unicode = False
        else:
            is_unicode = kind != "dumb"
        has_colours = is_tty and kind != "dumb" and not os.environ.get("NO_COLOR")
        return cls(max(_LEAST, min(columns, 100)), is_unicode, has_colours)

    @property
    def line(self) -> str:
        """plotext's marker for a curve."""
        return "braille" if self.is_unicode else "*"

    def chart(self, draw: Callable[[Any], None], *, height: int) -> str:
        """Return what `draw` draws on plotext, as lines; it need not care for colours."""
        import plotext

        plotext.clear_figure()
        plotext.theme("clear")
        plotext.limit_size(False, False)  # noqa: FBT003
        plotext.plot_size(self.width, height)
        draw(plotext)
        text = plotext.build()
        plotext.clear_figure()
        if not self.has_colours:
            text = plotext.uncolorize(text)
        if not self.is_unicode:
            text = text.translate(_ASCII)
        return "\n".join(line.rstrip() for line in text.splitlines())


PLAIN: Final = Terminal()
"""What text is made for that goes nowhere in particular."""
