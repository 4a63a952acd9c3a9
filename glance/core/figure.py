"""How glance's figures look and are written: the same bytes for the same data.

matplotlib is imported by what needs it, never at start-up, and without pyplot: nothing of it is
global. Colours: Okabe and Ito's, https://jfly.uni-koeln.de/color/, told apart by the colour-blind;
the two phases also differ in brightness and in their markers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from glance import __version__
from glance.core.errors import InputError, SetupError
from glance.core.files import replacing
from glance.core.phase import Phase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final[Mapping[Phase, str]] = MappingProxyType(
    {Phase.SLOW: "#0072B2", Phase.FAST: "#E69F00"}
)
MARKERS: Final[Mapping[Phase, str]] = MappingProxyType({Phase.SLOW: "o", Phase.FAST: "s"})
GREY: Final = "#767676"

_METADATA: Final[Mapping[str, Mapping[str, str | None]]] = MappingProxyType(
    {
        ".png": {"Software": f"glance {__version__}"},
        ".svg": {"Creator": f"glance {__version__}", "Date": None},
    }
)


def require_ending(path: Path) -> None:
    """Raise InputError unless the path ends with .png or .svg."""
    if path.suffix.lower() not in _METADATA:
        raise InputError(
            f"--plot {path}: {path.suffix or 'no ending'} is no kind of drawing",
            hint=f"end it with one of {', '.join(_METADATA)}",
        )


@contextmanager
def drawing(path: Path, *, inches: tuple[float, float]) -> Iterator["Figure"]:
    """Yield a figure to draw on; at the end of the block it is written to `path`, whole or not.

    Raises InputError for an ending other than .png or .svg, SetupError where `path` cannot be
    written.
    """
    require_ending(path)
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
                f"--plot {path}: {exc.strerror or exc}", hint="give --plot a file you may write"
            ) from exc
