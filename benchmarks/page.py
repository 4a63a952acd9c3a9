"""Records as tables: docs/benchmarks.md, and what the command shows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from benchmarks.records import Record
from benchmarks.result import Column, Figure, Goal, Result, Row

PAGE: Final = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def render(records: Sequence[Record]) -> str:
    """Return the page: of each kind of machine the newest result of every benchmark.

    `records` come with the newest first.
    """
    parts = [_HEAD, *map(render_record, _newest(records))]
    return "\n\n".join(parts if records else [_HEAD, "Nothing has been measured yet."]) + "\n"


def render_record(record: Record) -> str:
    """Return the record's heading, what machine it was, and the tables of each benchmark."""
    machine = record.machine
    facts = [machine.processor, f"{machine.cores} cores", f"{machine.memory_gb} GB of memory"]
    if machine.gpu is not None:
        facts.insert(0, f"{machine.gpu} ({machine.gpu_memory_gb} GB)")
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    heading = f"## {machine.gpu or 'CPU'}, {record.date}"
    described = f"{', '.join([*facts, machine.system])}; {versions}."
    return "\n\n".join([heading, described, *map(render_result, record.results.values())])


def render_result(result: Result) -> str:
    """Return the tables of one benchmark."""
    rounds = f"{result.rounds} rounds" if result.rounds > 1 else "One round"
    parts = [f"### {result.name}", f"{result.compares} {rounds}.", _rows(result)]
    if result.ratios:
        parts.append(_ratios(result))
    return "\n\n".join([*parts, *result.notes])


def _newest(records: Sequence[Record]) -> Iterator[Record]:
    """Yield each kind's records, one after another, less what a newer one of the kind has too."""

    def kind(record: Record) -> tuple[bool, str]:
        return record.machine.gpu is not None, record.machine.kind  # processors first

    for _, several in groupby(sorted(records, key=kind), key=kind):
        seen: set[str] = set()
        for record in several:
            results = {name: one for name, one in record.results.items() if name not in seen}
            seen |= results.keys()
            if results:
                yield replace(record, results=dict(sorted(results.items())))


def _rows(result: Result) -> str:
    has_goals = any(row.goal for row in result.rows)

    def cells(row: Row) -> Iterator[str]:
        yield row.name
        instead = row.instead or ""
        for column in result.columns:
            figure = row.figures.get(column.name)
            yield instead if figure is None else _cell(figure, column)
            instead = "" if figure is None else instead  # said once
        if has_goals:
            first = row.figures.get(result.columns[0].name)
            yield "" if first is None else _goal(row.goal, first)

    heads = ["", *(column.name for column in result.columns), *(["goal"] if has_goals else [])]
    return _table(heads, map(cells, result.rows))


def _ratios(result: Result) -> str:
    column = Column(name="", digits=3)
    rows = (
        (
            one.name,
            _number(one.figure.median, column),
            _number(one.figure.least, column),
            _number(one.figure.greatest, column),
            _goal(one.goal, one.figure),
        )
        for one in result.ratios
    )
    return _table(("ratio within a round", "median", "least", "greatest", "goal"), rows)


def _cell(figure: Figure, column: Column) -> str:
    shown = _number(figure.median, column)
    if figure.calls is not None:
        shown = f"{figure.calls} x, {shown}"
    if not column.shows_spread or figure.least == figure.greatest:
        return shown
    return f"{shown} ({_number(figure.least, column)} to {_number(figure.greatest, column)})"


def _number(value: float, column: Column) -> str:
    return f"{value:.{column.digits}f}"


def _goal(goal: Goal | None, figure: Figure) -> str:
    if goal is None:
        return ""
    bounds = {"at least": goal.at_least, "at most": goal.at_most}
    said = ", ".join(f"{name} {value:g}" for name, value in bounds.items() if value is not None)
    return f"{said}: {'met' if goal.is_met(figure) else '**missed**'}"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_HEAD: Final = """# What glance costs

Written by `uv run python -m benchmarks` from `benchmarks/results/`; not by hand. Of each kind of
machine it shows the newest result of every benchmark; benchmarks/README.md says what each does.
Figures are medians of the rounds, with least and greatest in brackets; ratios are taken within a
round, in which everything that is compared was run in turn. Goals are judged by the median. None
is a test: a machine that others use misses some."""
