"""Figures as cells of tables, and tables as the pages have them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

Figure = Sequence[float]
"""A value and the ends of its interval."""
_MARKED: Final = re.compile(
    r"(<!-- (?:table|figures): ([^>]+?) -->\n)(?:(?!<!-- ).)*?(<!-- end -->)", re.DOTALL
)


def fill[F](page: str, tables: Mapping[str, Callable[[F], str]], figures: F) -> str:
    """Return `page` with every marked table made anew; raise KeyError for one nobody knows.

    A table stands between `<!-- table: NAME -->`, or `figures:`, and `<!-- end -->`; a mark without
    an end stays as it is.
    """

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}{tables[name](figures)}\n{end}"

    return _MARKED.sub(replace, page)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(figure: Figure) -> str:
    """Return a share in percent."""
    value, low, high = (100 * one for one in figure)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def points(figure: Figure) -> str:
    """Return a difference of shares in points."""
    value, low, high = (100 * one for one in figure)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def plain(figure: Figure) -> str:
    """Return a figure with one digit."""
    value, low, high = figure
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def signed(figure: Figure) -> str:
    """Return a difference with one digit."""
    value, low, high = figure
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def fine(figure: Figure, sign: str = "", digits: int = 3) -> str:
    """Return a figure with three digits."""
    return "{0:{3}} ({1:{3}} to {2:{3}})".format(*figure, f"{sign}.{digits}f")
