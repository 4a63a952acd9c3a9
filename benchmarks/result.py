"""What a benchmark found, as plain data: figures of several rounds, rows, ratios, goals."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One quantity over the rounds, to four significant digits."""

    median: float
    least: float
    greatest: float
    calls: int | None = None
    """How often in a round happened what the quantity is the sum of, where that is of interest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The bounds that the median of a figure should keep, in the figure's own unit."""

    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, figure: Figure) -> bool:
        """Whether the median keeps both."""
        above = self.at_least is None or figure.median >= self.at_least
        return above and (self.at_most is None or figure.median <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A quantity that rows have; its name holds the unit."""

    name: str
    digits: int
    """Decimals that are shown."""
    shows_spread: bool = False
    """Whether least and greatest are shown beside the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One of the things that are compared."""

    name: str
    figures: Mapping[str, Figure]
    """By the name of the column; what could not be measured is not there."""
    goal: Goal | None = None
    """Of the first column."""
    instead: str | None = None
    """What is said in place of figures that are not there: `does not fit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Two quantities of the same round, one by the other."""

    name: str
    figure: Figure
    goal: Goal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that one benchmark found."""

    name: str
    compares: str
    """What was run and what is compared, in a sentence or two."""
    rounds: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    notes: tuple[str, ...] = ()


def summarise(values: Iterable[float], *, calls: int | None = None) -> Figure:
    """Return the figure of one value a round; raises ValueError for none."""
    low, *_ = several = sorted(values)
    middle, low, high = (float(f"{one:.4g}") for one in (median(several), low, several[-1]))
    return Figure(median=middle, least=low, greatest=high, calls=calls)
