"""What the pages say of what was measured on a card; without any: that nothing was."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.evidence.markdown import table
from benchmarks.records import Record
from benchmarks.result import Column, Result, Row
from glance.runs.settings import Preset

SAMPLING: Final = "card, sampling"
MODES: Final = "card, ways to fit"
COMPILING: Final = "card, torch.compile"
TRAINING: Final = "card, training"
CARD_GB: Final = "GB of the card"
SYSTEM_GB: Final = "GB of system memory"
STEP: Final = "seconds a step"
START: Final = "seconds to the first step"
TEN_STEPS: Final = "seconds, 10 steps"
_COMPILED: Final = 3  # rows: not compiled, the first, the next


def name_training(vram: str, precision: str, launcher: str) -> str:
    """Return what the row of a training is called."""
    return f"{vram} GB, {precision}, --launcher {launcher}"


def say_card(record: Record) -> str:
    """Say which card it was, and with what."""
    stack = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    return f"{record.machine.gpu}, {record.machine.gpu_memory_gb} GB, {record.date} ({stack})"


def find_training(records: Sequence[Record], preset: Preset) -> tuple[Record, Row] | None:
    """Return the newest training on a pretended card of that size, and where it was run.

    `records` come with the newest first. A card that is itself of that size will do as well.
    """
    begin = f"{preset.gibibytes} GB, "
    for record, result in _of(records, TRAINING):
        for row in result.rows:
            if row.name.startswith(begin) and row.name.endswith("direct"):
                return record, row
    return None


def say_memory(row: Row) -> str:
    """Say what a training took, in the words of docs/memory.md."""
    if not row.figures:
        return row.instead or "not measured"
    found = (row.figures.get(name) for name in (CARD_GB, SYSTEM_GB))
    return " + ".join("?" if one is None else f"{one.median:.1f}" for one in found)


def say_training(records: Sequence[Record]) -> str:
    """Say of which trainings docs/memory.md holds figures that were measured."""
    found = [one for preset in Preset if (one := find_training(records, preset)) is not None]
    if not found:
        return "**Unproven: glance has run none of these on a card.** These are estimates\n(below)."
    cards = "; ".join(dict.fromkeys(say_card(record) for record, _ in found))
    return (
        "What is **bold** was measured, with random weights of FLUX.1-dev's size, by `python -m\n"
        f"benchmarks.card` on {cards}.\nAll else is estimated (below)."
    )


def say_steps(records: Sequence[Record]) -> str:
    """Say how long steps took where they were measured, or that they were not."""
    found = [one for preset in Preset if (one := find_training(records, preset)) is not None]
    rows = [
        (
            row.name,
            f"{record.machine.gpu}",
            f"{row.figures[STEP].median:.2f}",
            f"{row.figures[START].median:.0f}",
        )
        for record, row in found
        if row.figures
    ]
    if not rows:
        return "glance has measured no GPU."
    shown = table(("`flux`, measured", "card", "seconds a step", "to the first step"), rows)
    return f"What glance measured itself:\n\n{shown}"


def say_sampling(records: Sequence[Record]) -> str:
    """Say whether any of what docs/sampling-memory.md offers was run on a card."""
    found = next(_of(records, MODES), None)
    if found is None:
        return (
            "**Unproven: glance has run none of this on a GPU.** What was run, on a CPU, is below; "
            "figures of a\nGPU are others', with their source."
        )
    return (
        f"Measured on {say_card(found[0])},\nwith random weights of FLUX.1-dev's size: the table "
        "below. Other figures of a GPU are others', with\ntheir source."
    )


def tell_modes(records: Sequence[Record]) -> str:
    """Return the table of each card: what each way to fit the model took."""
    return "\n\n".join(_tell_modes(record, result) for record, result in _of(records, MODES))


def say_compiling(records: Sequence[Record]) -> str:
    """Say what torch.compile gains."""
    said = [
        f"On {record.machine.gpu} ten steps of FLUX.1-dev's size took {plain:.2f} s, compiled "
        f"{built:.2f}, and {first:.0f} the first time."
        for record, result in _of(records, COMPILING)
        if len(times := [row.figures.get(TEN_STEPS) for row in result.rows]) == _COMPILED
        if None not in times
        for plain, first, built in [[one.median for one in times if one is not None]]
    ]
    return " ".join(said) or "The gain was not measured on a GPU."


def _tell_modes(record: Record, result: Result) -> str:
    def cell(row: Row, column: Column) -> str:
        figure = row.figures.get(column.name)
        if figure is not None:
            return f"{figure.median:.{column.digits}f}"
        is_first_gap = column.name == next(
            one.name for one in result.columns if one.name not in row.figures
        )
        return (row.instead or "") if is_first_gap else ""

    rows = [[row.name, *(cell(row, one) for one in result.columns)] for row in result.rows]
    heads = ("", *(column.name for column in result.columns))
    parts = [f"Measured on {say_card(record)}. {result.compares}", table(heads, rows)]
    return "\n\n".join([*parts, *result.notes])


def _of(records: Sequence[Record], name: str) -> Iterator[tuple[Record, Result]]:
    """Yield the newest result of that name of each kind of card."""
    seen: set[str] = set()
    for record in records:
        if name in record.results and record.machine.kind not in seen:
            seen.add(record.machine.kind)
            yield record, record.results[name]
